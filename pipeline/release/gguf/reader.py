"""The tokenizer that a GGUF file describes, built again from the file alone.

transformers' own reader drops the pre-tokenizer (`pipeline/model/base/gguf.py`), so it cannot say whether the file is
right. Here the pre-tokenizer comes from the table that the name was taken from; that llama.cpp means the same by that
name is tested with llama.cpp itself (`tests/release/test_llama_cpp.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.release.gguf.supported import IGNORES_MERGES, PRE_TOKENIZERS
from pipeline.release.gguf.vocabulary import BYTE, CONTROL, SENTENCEPIECE_BPE, USER_DEFINED

Encode = Callable[[str], list[int]]


def read_keys(path: Path) -> dict[str, Any]:
    """All keys of a file that Suri wrote, with their values."""
    import gguf

    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def tokenizer_of(keys: dict[str, Any], special: bool = False) -> Encode:
    """Text to ids, with BOS where the file asks for it.

    Args:
        special: whether special tokens spelt in a text become the tokens, as in prompts of a chat template; BOS at the
            front is then not doubled, as in llama.cpp's `common_chat_templates_apply`.
    """
    kinds = (USER_DEFINED, CONTROL) if special else (USER_DEFINED,)
    encode = (_sentencepiece if keys["tokenizer.ggml.model"] == "llama" else _byte_level)(keys, kinds)
    if not keys["tokenizer.ggml.add_bos_token"]:
        return encode
    bos = keys["tokenizer.ggml.bos_token_id"]
    spelling = keys["tokenizer.ggml.tokens"][bos] if special else ""
    return lambda text: [bos, *encode(text.removeprefix(spelling))]


def _sentencepiece(keys: dict[str, Any], whole: tuple[int, ...]) -> Encode:
    """whole: kinds of tokens that are taken whole where a text spells them."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    kinds = keys["tokenizer.ggml.token_type"]
    proto = protobuf.ModelProto()
    proto.trainer_spec.model_type = SENTENCEPIECE_BPE
    proto.trainer_spec.vocab_size = len(kinds)
    proto.trainer_spec.byte_fallback = BYTE in kinds
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = keys["tokenizer.ggml.add_space_prefix"]
    proto.normalizer_spec.remove_extra_whitespaces = False
    for piece, score, kind in zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], kinds, strict=True):
        proto.pieces.add(piece=piece, score=score, type=kind)
    model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    ids = {token: id for id, token in enumerate(keys["tokenizer.ggml.tokens"]) if kinds[id] in whole}
    if not ids:
        return lambda text: list(model.encode(text))
    parts = re.compile("(" + "|".join(re.escape(token) for token in sorted(ids, key=len, reverse=True)) + ")")

    def encode(text: str) -> list[int]:
        """A space goes in front of each text between special tokens, as llama.cpp does."""
        pieces = [[ids[part]] if part in ids else model.encode(part) for part in parts.split(text) if part]
        return [id for piece in pieces for id in piece]

    return encode


def _byte_level(keys: dict[str, Any], whole: tuple[int, ...]) -> Encode:
    import json

    import tokenizers

    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    name = keys["tokenizer.ggml.pre"]
    added = [
        {"id": id, "content": token, "special": False, "normalized": False, "single_word": False, "lstrip": False,
         "rstrip": False}
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in whole
    ]  # fmt: skip
    model = {
        "type": "BPE", "vocab": {token: id for id, token in enumerate(tokens)}, "ignore_merges": name in IGNORES_MERGES,
        "merges": [merge.split(" ") for merge in keys.get("tokenizer.ggml.merges", ())],
    }  # fmt: skip
    parts = [{**part, "trim_offsets": True} if part["type"] == "ByteLevel" else part for part in PRE_TOKENIZERS[name]]
    pre = {"type": "Sequence", "pretokenizers": parts}
    settings = {"version": "1.0", "added_tokens": added, "pre_tokenizer": pre, "model": model}
    fast = tokenizers.Tokenizer.from_str(json.dumps(settings))
    return lambda text: fast.encode(text, add_special_tokens=False).ids
