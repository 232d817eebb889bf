"""A base's tokenizer without transformers: text to ids, never to special ids.

`tokenizer.model` is read by sentencepiece, as in the LLaMA-1 recipes, otherwise `tokenizer.json` by `tokenizers`. With
both, a special token spelt inside plain text stays plain text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.prompt import tokenizer_files
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import read_json, sha256_file, sha256_json


class Tokenizer:
    """Encodes plain text and knows the special ids.

    Attributes:
        kind: `sentencepiece` or `tokenizers`.
        size: number of ids, added tokens included.
        bos_id, eos_id, pad_id, unk_id: None where the tokenizer has none.
        adds_bos: whether the tokenizer puts BOS in front of a text by default.
    """

    kind: str
    size: int
    adds_bos: bool
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None

    def __init__(self, folder: Path, add_tokens: Sequence[str] = (), json_first: bool = False) -> None:
        """json_first: of a folder with both files tokenizer.json is read, as transformers does."""
        tokenizer_files.check(folder)
        self.folder = folder
        self.added: dict[str, int] = {}
        self.names = _special_names(folder)
        has_json = (folder / "tokenizer.json").is_file()
        if (folder / "tokenizer.model").is_file() and not (has_json and json_first):
            self._load_sentencepiece(folder / "tokenizer.model")
        elif has_json:
            self._load_tokenizers(folder / "tokenizer.json")
        else:
            raise UserError(
                "no tokenizer.model and no tokenizer.json",
                str(folder),
                "name a folder that has one with model.tokenizer",
            )
        for token in add_tokens:
            if self.token_id(token) is not None:
                raise UserError(f"{token!r} is in the vocabulary already", "model.add_tokens", "remove it there")
            self.added[token] = self.size
            self.size += 1
        if "[PAD]" in self.added:
            self.pad_id = self.added["[PAD]"]

    def _load_sentencepiece(self, path: Path) -> None:
        import sentencepiece

        self.kind = "sentencepiece"
        try:
            self._spm = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"not a sentencepiece model: {error}", str(path), "fetch the base again") from None
        self.size = self._spm.get_piece_size()

        self.bos_id, self.eos_id = _known(self._spm.bos_id()), _known(self._spm.eos_id())
        self.unk_id, self.pad_id = _known(self._spm.unk_id()), _known(self._spm.pad_id())
        self.adds_bos = self.names.get("add_bos_token", True) and self.bos_id is not None

    def _load_tokenizers(self, path: Path) -> None:
        import tokenizers

        self.kind = "tokenizers"
        try:
            self._fast = tokenizers.Tokenizer.from_file(str(path))
            self._fast.no_truncation()
            self._fast.no_padding()
            probe = self._fast.encode("a").ids
        except BaseException as error:  # the Rust side raises plain Exception, and panics past it
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            reason = one_line(error)
            raise UserError(f"not a readable tokenizer.json: {reason}", str(path), "fetch the base again") from None
        # Special tokens spelt inside a text are encoded as plain letters.
        self._fast.encode_special_tokens = True
        # Not the number of entries: ids can have gaps, and a new token must not take an id in use.
        self.size = max(self._fast.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos_id, self.eos_id = self._id_of("bos"), self._id_of("eos")
        self.pad_id, self.unk_id = self._id_of("pad"), self._id_of("unk")
        self.adds_bos = self.bos_id is not None and probe[:1] == [self.bos_id]

    def _id_of(self, name: str) -> int | None:
        token = self.names.get(f"{name}_token")
        if token is not None:
            return self._fast.token_to_id(token)
        id = self.names.get(f"{name}_token_id")
        if isinstance(id, list) and id:  # several end ids: the first is the main one
            id = id[0]
        return _known(id) if isinstance(id, int) else None

    @cached_property
    def hash(self) -> str:
        """Hash of everything that decides the ids of a text."""
        file = self.folder / ("tokenizer.model" if self.kind == "sentencepiece" else "tokenizer.json")
        return sha256_json([sha256_file(file), self.bos_id, self.eos_id, self.pad_id, self.added])[:16]

    @cached_property
    def special_ids(self) -> dict[int, str]:
        """Ids that plain text must never produce, with their spelling."""
        if self.kind == "sentencepiece":
            special = {i: self._spm.id_to_piece(i) for i in (self.bos_id, self.eos_id) if i is not None}
        else:
            special = {i: token.content for i, token in self._fast.get_added_tokens_decoder().items() if token.special}
        return {**special, **{i: token for token, i in self.added.items()}}

    def token_id(self, token: str) -> int | None:
        """Id of a vocabulary entry by its exact spelling."""
        if token in self.added:
            return self.added[token]
        if self.kind == "sentencepiece":
            id = self._spm.piece_to_id(token)
            return id if self._spm.id_to_piece(id) == token else None
        return self._fast.token_to_id(token)

    def token(self, id: int) -> str:
        """Spelling of an id."""
        for token, added in self.added.items():
            if added == id:
                return token
        return self._spm.id_to_piece(id) if self.kind == "sentencepiece" else (self._fast.id_to_token(id) or "")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text at the start of a sequence, without special ids."""
        if self.kind == "sentencepiece":
            return self._spm.encode(list(texts), num_threads=2) if texts else []
        return [e.ids for e in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_after(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text that follows other ids: without the space that LLaMA's tokenizer puts in front of a text.

        Such a tokenizer is given the text after a line break, which is a token of its own and is cut off again.
        """
        if not self.opens_with_space:
            return self.encode(texts)
        lead = self.encode(["\n"])[0]
        encoded = self.encode(["\n" + text for text in texts])
        return [
            ids[len(lead) :] if ids[: len(lead)] == lead else self.encode([text])[0]
            for ids, text in zip(encoded, texts, strict=True)
        ]

    def encode_special(self, texts: Sequence[str]) -> list[Any]:
        """`tokenizers.Encoding`s of texts in which special tokens are tokens; only for the kind `tokenizers`."""
        fast = self._with_added
        fast.encode_special_tokens = False
        try:
            return fast.encode_batch(list(texts), add_special_tokens=False)
        finally:
            fast.encode_special_tokens = True

    def encode_piece(self, text: str, after: bool) -> list[tuple[int, tuple[int, int]]]:
        """Ids of a text, each with its characters; only for the kind `sentencepiece`.

        Args:
            after: the text follows other ids, see `encode_after`.
        """
        lead = "\n" if after and self.opens_with_space else ""
        pieces = self._with_places(lead + text)
        if not lead:
            return pieces
        first = self.encode([lead])[0]
        if [id for id, _ in pieces[: len(first)]] != first:
            return self.encode_piece(text, after=False)
        return [(id, (a - 1, b - 1)) for id, (a, b) in pieces[len(first) :]]

    def _with_places(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        try:
            encoded = self._spm.encode(text, out_type="offset_mapping")
        except ValueError:  # before 0.2.3
            old: Any = self._spm
            return [(p.id, (p.begin, p.end)) for p in old.encode(text, out_type="immutable_proto").pieces]
        return list(zip(encoded["ids"], encoded["offsets"], strict=True))

    def as_json(self) -> str:
        """The content of tokenizer.json, new tokens included; only for the kind `tokenizers`."""
        return str(self._with_added.to_str())

    @cached_property
    def _with_added(self) -> Any:
        """The tokenizer with `added` as special tokens.

        Raises:
            UserError: it gives them other ids.
        """
        if not self.added:
            return self._fast
        import tokenizers

        fast = tokenizers.Tokenizer.from_str(self._fast.to_str())
        fast.add_special_tokens(list(self.added))
        if any(fast.token_to_id(token) != id for token, id in self.added.items()):
            raise UserError(
                "this tokenizer gives new tokens ids that are in use", str(self.folder), "set model.add_tokens=[]"
            )
        return fast

    @cached_property
    def opens_with_space(self) -> bool:
        """Whether it puts a space in front of a text, as LLaMA's does."""
        ids = self.encode(["a"])[0]
        return bool(ids) and self.token(ids[0]).startswith("\u2581")

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of ids; special ids are left out, or spelt out with `keep_special`."""
        decode = self._spm.decode if self.kind == "sentencepiece" else self._fast.decode
        pieces = []
        for special, group in itertools.groupby(ids, lambda id: id in self.special_ids):
            run = list(group)
            if not special:
                pieces.append(decode(run))
            elif keep_special:
                pieces += [self.special_ids[id] for id in run]
        return "".join(pieces)


def _known(id: int) -> int | None:
    """None for -1, which files write if there is no such token."""
    return id if id >= 0 else None


def _special_names(folder: Path) -> dict[str, Any]:
    """`bos_token`, `eos_token`, ... from a Hugging Face folder; their ids from config.json if it has no names."""
    names: dict[str, Any] = {}
    for file in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        values = read_json(folder / file)
        if not isinstance(values, dict):
            continue
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = values.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names[name] = value
            if file == "config.json" and values.get(f"{name}_id") is not None:
                names[f"{name}_id"] = values[f"{name}_id"]
        if isinstance(values.get("add_bos_token"), bool):
            names["add_bos_token"] = values["add_bos_token"]
    return names
