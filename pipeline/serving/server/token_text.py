"""Single tokens as text and bytes, for log-probabilities and for the prompt that the page shows."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pipeline.prompt.tokenizer import Tokenizer

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "\u2581"


def byte_letters() -> dict[str, int]:
    """The letters in which byte-level tokenizers write bytes (GPT-2, encoder.py `bytes_to_unicode`)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


LETTERS = byte_letters()


class TokenText:
    """Spelling of the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def _kinds(self) -> set[str]:
        """Kinds of the tokenizer's decoders."""
        if self.tokenizer.kind == "sentencepiece":
            return {"ByteFallback", "Metaspace"}
        decoder = json.loads(self.tokenizer.as_json()).get("decoder") or {}
        return {part.get("type", "") for part in _parts(decoder)}

    def bytes_of(self, id: int) -> bytes:
        """UTF-8 of a token, which may be a part of a letter. A special token has its spelling."""
        tokenizer = self.tokenizer
        if id in tokenizer.special_ids:
            return tokenizer.special_ids[id].encode()
        spelling = tokenizer.token(id)
        if "ByteLevel" in self._kinds and all(letter in LETTERS for letter in spelling):
            return bytes(LETTERS[letter] for letter in spelling)
        if "ByteFallback" in self._kinds and (match := BYTE.fullmatch(spelling)):
            return bytes([int(match[1], 16)])
        if self._kinds & {"Metaspace", "ByteFallback"}:
            return spelling.replace(SPACE, " ").encode()
        return (spelling if "ByteLevel" in self._kinds else tokenizer.decode([id])).encode()

    def text_of(self, id: int) -> str:
        """A token's text; U+FFFD for parts of letters."""
        return self.bytes_of(id).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token in a row; a letter of several tokens belongs to its last one."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return [decoder.decode(self.bytes_of(id)) for id in ids]


def _parts(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    return [decoder, *(part for part in decoder.get("decoders", ()) if isinstance(part, dict))]
