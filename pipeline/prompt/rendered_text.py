"""Rendered conversations as ids: special tokens that the template writes become tokens, those that a text spells not.

A text in which no content spells a special token is encoded whole, by the base's tokenizer with its special tokens
switched on: what `apply_chat_template(tokenize=True)` does. Otherwise the tokens of the template are renamed, in the
text and in a copy of the tokenizer, to characters of the private use plane, so that only these are special there:

    text     <|user|>What is <|end|>?<|end|>        renamed  U0~~~~~~~What is <|end|>?U1~~~~~~

Pieces between special tokens are not encoded one by one, since a tokenizer may treat the beginning of a text, and the
white space around special tokens (`lstrip`, `rstrip`), in its own way. sentencepiece has no special tokens in a text,
so there pieces are encoded, as the export's tokenizer does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError, one_line

Span = tuple[int, int]  # characters [start, end) of a text
RENAMED = 0x100000  # first of the characters that stand for special tokens; private use, like all up to the last one
FILLER = chr(0x10FFFD)
PRIVATE = re.compile("[\U00100000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class EncodedText:
    """ids: of a text. spans: characters of each token, as the tokenizer reports them."""

    ids: list[int]
    spans: list[Span]


class RenderedTokenizer:
    """Encodes what a chat template wrote.

    Attributes:
        specials: ids by spelling, `model.add_tokens` included. pattern: matches any of them, longest first.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.specials = {token: id for id, token in tokenizer.special_ids.items() if token}
        longest_first = sorted(self.specials, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(self, texts: Sequence[str], spelt: Sequence[Sequence[Span]]) -> list[EncodedText]:
        """Ids and spans of texts.

        Args:
            spelt: of each text, where a content spells a special token that stays text.
        """
        if self.tokenizer.kind == "sentencepiece":
            return [self._pieces(text, spans) for text, spans in zip(texts, spelt, strict=True)]
        plain = [i for i, spans in enumerate(spelt) if not spans]
        encoded = dict(zip(plain, self.tokenizer.encode_special([texts[i] for i in plain]), strict=True))
        others = [i for i, spans in enumerate(spelt) if spans]
        if others:
            renamed = [self._rename(texts[i], spelt[i]) for i in others]
            encoded |= zip(others, self._renamed.encode_batch(renamed, add_special_tokens=False), strict=True)
        return [EncodedText(encoded[i].ids, encoded[i].offsets) for i in range(len(texts))]

    def real(self, text: str, spelt: Sequence[Span]) -> list[re.Match[str]]:
        """Special tokens of a text that are tokens."""
        inside = set(spelt)
        return [match for match in self.pattern.finditer(text) if match.span() not in inside]

    def _rename(self, text: str, spelt: Sequence[Span]) -> str:
        parts, end = [], 0
        for match in self.real(text, spelt):
            parts += [text[end : match.start()], self._names[match[0]]]
            end = match.end()
        return "".join([*parts, text[end:]])

    @cached_property
    def _names(self) -> dict[str, str]:
        """Other spellings of special tokens, equally long, so that spans stay."""
        return {t: chr(RENAMED + n) + FILLER * (len(t) - 1) for n, t in enumerate(self.specials)}

    @cached_property
    def _renamed(self) -> Any:
        """The tokenizer with its special tokens renamed.

        Raises:
            UserError: it cannot be changed so.
        """
        import tokenizers

        names, whole = self._names, json.loads(self.tokenizer.as_json())
        for token in whole["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = whole["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(token, token): id for token, id in vocabulary.items()}
        else:  # Unigram: [piece, score]
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:  # text never becomes a special token, so no merge may make one or use one
            pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
            model["merges"] = [pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])]
        try:
            renamed = tokenizers.Tokenizer.from_str(json.dumps(whole))
            same = all(renamed.token_to_id(names[token]) == id for token, id in self.specials.items())
            why = "other ids"
        except Exception as error:  # of the Rust side
            same, why = False, one_line(error)
        if not same:
            what = f"special tokens spelt in a text cannot be kept as text with this tokenizer ({why})"
            raise UserError(what, str(self.tokenizer.folder), "remove the rows that spell them")
        return renamed

    def _pieces(self, text: str, spelt: Sequence[Span]) -> EncodedText:
        ids: list[int] = []
        spans: list[Span] = []
        end = 0
        for match in [*self.real(text, spelt), None]:
            start = match.start() if match else len(text)
            if start > end:
                for id, (a, b) in self.tokenizer.encode_piece(text[end:start], after=end > 0):
                    ids.append(id)
                    spans.append((end + a, end + b))
            if match:
                ids.append(self.specials[match[0]])
                spans.append(match.span())
                end = match.end()
        return EncodedText(ids, spans)
