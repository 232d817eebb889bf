"""The tokenizer of a training as GGUF keeps it: tokens with their kinds, scores or merges, special ids.

sentencepiece    pieces, scores and kinds of tokenizer.model; llama.cpp merges by score, as sentencepiece does
byte-level BPE   vocabulary and merges of tokenizer.json; llama.cpp splits text by the named pre-tokenizer

A sentencepiece tokenizer that is there as tokenizer.json alone has lost its scores: 528 of 4,000 texts were tokenised
right after such a conversion. It is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.release.gguf.supported import INSTEAD, pre_tokenizer_name, read_settings
from pipeline.run.errors import UserError

# Kinds of tokens (`tokenizer.ggml.token_type`).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SENTENCEPIECE_BPE = 2  # ModelProto.TrainerSpec.ModelType


@dataclass(frozen=True)
class Vocabulary:
    """Attributes:
    model: `llama` (sentencepiece) or `gpt2` (byte-level BPE). pre: name of the pre-tokenizer.
    tokens, kinds: one for each row of the embedding. scores: of sentencepiece, else empty. merges: of BPE, else empty.
    space_prefix: whether a text gets a space in front.
    special: id by role: bos, eos, unk, pad. add_bos: whether every text begins with BOS, as in training.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[str]
    space_prefix: bool
    special: dict[str, int]
    add_bos: bool

    def keys(self) -> dict[str, Any]:
        """Keys of the file with their values."""
        roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        return {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": self.tokens,
            **({"tokenizer.ggml.scores": self.scores} if self.scores else {}),
            "tokenizer.ggml.token_type": self.kinds,
            **({"tokenizer.ggml.merges": self.merges} if self.model == "gpt2" else {}),
            **{f"tokenizer.ggml.{roles[role]}_token_id": id for role, id in self.special.items()},
            "tokenizer.ggml.add_bos_token": self.add_bos,
            "tokenizer.ggml.add_eos_token": False,
            "tokenizer.ggml.add_space_prefix": self.space_prefix,
        }


def vocabulary_of(encoder: AnyEncoder, rows: int, pad_id: int | None) -> Vocabulary:
    """The vocabulary of a training.

    Args:
        rows: of the embedding; rows without a token get a name that no text has. pad_id: of the export.

    Raises:
        UserError: llama.cpp cannot tokenise the same way.
    """
    own = encoder.tokenizer
    # Some trainings read tokenizer.json though there is a tokenizer.model; the file needs the scores in the latter.
    is_sentencepiece = (own.folder / "tokenizer.model").is_file()
    if is_sentencepiece:
        pre, tokens, kinds, scores = "default", *_pieces(own.folder / "tokenizer.model")
        merges, space = [], own.opens_with_space
        if own.kind != "sentencepiece":
            _append_added(own.folder / "tokenizer.json", tokens, kinds, scores)
    else:
        settings = read_settings(own.folder / "tokenizer.json")
        pre = pre_tokenizer_name(settings, str(own.folder))
        tokens, kinds = _words(settings, own)
        merges, scores, space = _merges(settings), [], False
    for token, id in sorted(own.added.items(), key=lambda item: item[1]):
        while len(tokens) <= id:
            _append(tokens, kinds, scores)
        tokens[id], kinds[id] = token, CONTROL
    while len(tokens) < rows:
        _append(tokens, kinds, scores)
    bos = own.bos_id if encoder.bos_id is None else encoder.bos_id
    special = {"bos": bos, "eos": encoder.end_id, "unk": own.unk_id, "pad": pad_id}
    for control in (bos, encoder.end_id):
        if control is not None and kinds[control] == NORMAL:
            kinds[control] = CONTROL  # so that it is not printed, and ends an answer
    return Vocabulary(
        "llama" if is_sentencepiece else "gpt2", pre, tokens, kinds, scores, merges, space,
        {role: id for role, id in special.items() if id is not None}, encoder.bos_id is not None,
    )  # fmt: skip


def _append_added(path: Path, tokens: list[str], kinds: list[int], scores: list[float]) -> None:
    """Appends the tokens that a tokenizer.json adds behind the pieces of its sentencepiece model."""
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens") or ()
    for token in sorted(added, key=lambda token: token["id"]):
        if token["id"] >= len(tokens):
            while len(tokens) <= token["id"]:
                _append(tokens, kinds, scores)
            tokens[-1], kinds[-1] = token["content"], CONTROL if token.get("special") else USER_DEFINED


def _append(tokens: list[str], kinds: list[int], scores: list[float]) -> None:
    tokens.append(f"[PAD{len(tokens)}]")
    kinds.append(UNUSED)
    if scores:
        scores.append(-1000.0)  # as llama.cpp's converter has it


def _pieces(path: Path) -> tuple[list[str], list[int], list[float]]:
    """Tokens, kinds and scores of a sentencepiece model.

    Raises:
        UserError: it is no BPE model, or normalises text, which llama.cpp does not do.
    """
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    proto = protobuf.ModelProto.FromString(path.read_bytes())
    normalizer = proto.normalizer_spec
    if proto.trainer_spec.model_type != SENTENCEPIECE_BPE:
        raise UserError("llama.cpp knows sentencepiece models of the type BPE alone", str(path), INSTEAD)
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        what = f"its sentencepiece model normalises text ({normalizer.name or 'spaces'}), which llama.cpp does not do"
        raise UserError(what, str(path), INSTEAD)
    pieces = list(proto.pieces)
    return [p.piece for p in pieces], [int(p.type) for p in pieces], [float(p.score) for p in pieces]


def _words(settings: dict[str, Any], tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Tokens and kinds by id; ids without a token get a name that no text has."""
    words = {id: (token, NORMAL) for token, id in settings["model"]["vocab"].items()}
    for added in settings.get("added_tokens") or ():
        words[added["id"]] = (added["content"], CONTROL if added.get("special") else USER_DEFINED)
    if tokenizer.unk_id is not None and words.get(tokenizer.unk_id, ("", CONTROL))[1] == NORMAL:
        words[tokenizer.unk_id] = (words[tokenizer.unk_id][0], CONTROL)
    pairs = [words.get(id, (f"[PAD{id}]", UNUSED)) for id in range(max(words) + 1)]
    return [token for token, _ in pairs], [kind for _, kind in pairs]


def _merges(settings: dict[str, Any]) -> list[str]:
    """Each as `left right`."""
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in settings["model"]["merges"]]
