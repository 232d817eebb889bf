"""The tokenizer that a GGUF file describes, built again from the file alone.

transformers' own reader drops the pre-tokenizer (`pipeline/model/base/gguf.py`), so it cannot say whether the file is
right. Here the pre-tokenizer comes from the table that the name was taken from; that llama.cpp means the same by that
name is tested with llama.cpp itself (`tests/release/test_llama_cpp.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.release.gguf.supported import IGNORES_MERGES, PRE_TOKENIZERS
from pipeline.release.gguf.vocabulary import BYTE, SENTENCEPIECE_BPE, USER_DEFINED

Encode = Callable[[str], list[int]]


def read_keys(path: Path) -> dict[str, Any]:
    """All keys of a file that Suri wrote, with their values."""
    import gguf

    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def tokenizer_of(keys: dict[str, Any]) -> Encode:
    """Text to ids, with BOS where the file asks for it; special tokens spelt in a text stay text."""
    encode = _sentencepiece(keys) if keys["tokenizer.ggml.model"] == "llama" else _byte_level(keys)
    start = [keys["tokenizer.ggml.bos_token_id"]] if keys["tokenizer.ggml.add_bos_token"] else []
    return lambda text: start + encode(text)


def _sentencepiece(keys: dict[str, Any]) -> Encode:
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
    return lambda text: list(model.encode(text))


def _byte_level(keys: dict[str, Any]) -> Encode:
    import json

    import tokenizers

    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    name = keys["tokenizer.ggml.pre"]
    added = [
        {"id": id, "content": token, "special": False, "normalized": False, "single_word": False, "lstrip": False,
         "rstrip": False}
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == USER_DEFINED
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
