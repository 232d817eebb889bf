"""GGUF: weights, settings and tokenizer in llama.cpp's form, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.release.gguf import quantizer
from pipeline.release.gguf.reader import read_keys, tokenizer_of
from pipeline.release.gguf.supported import check_architecture, check_early, pre_tokenizer_name
from pipeline.release.gguf.vocabulary import BYTE, CONTROL, UNUSED, vocabulary_of
from pipeline.release.gguf.weights import Weights, as_stored, rope_factors, settings, stored_type
from pipeline.release.gguf.writer import size_of, write
from pipeline.run.errors import UserError
from tests.helpers.tiny import make_config
from tests.helpers.tokenizers import byte_level, encoder_of, sentence_piece

TEXTS = [
    "Say hello to the world.", "  two  spaces and   three", "12345 7 1,000", "안녕하세요 세계", "it's we'll\n\n\tx",
    "🙂é", "</s> <s>", "", " ", "### Instruction:\nx",
]  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 400,
}  # fmt: skip


def shape_of(kind: str = "llama", **values: Any) -> Any:
    return AutoConfig.for_model(kind, **{**SHAPE, **values})


def written(folder: Path, tokenizer: Path, kind: str = "f16", rows: int = 400) -> Path:
    """A file with one tensor and a tokenizer."""
    save_file({"model.embed_tokens.weight": torch.randn(rows, 64)}, folder / "model.safetensors")
    shape = shape_of()
    weights = Weights(folder, shape, "llama")
    vocabulary = vocabulary_of(encoder_of(tokenizer), rows, 0)
    path = folder / "t.gguf"
    write(path, weights, vocabulary, kind, "llama", {"general.name": "t"})
    return path


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_the_tokenizer_comes_back(tmp_path: Path, make: Any) -> None:
    folder = make(tmp_path / "tokenizer")
    encoder = encoder_of(folder, bos="auto")
    keys = read_keys(written(tmp_path, folder))
    encode = tokenizer_of(keys)
    for text in TEXTS:
        assert encode(text) == encoder._bos_ids() + encoder.tokenizer.encode([text])[0], text
    assert keys["tokenizer.ggml.eos_token_id"] == encoder.end_id
    assert keys["tokenizer.ggml.add_bos_token"] == (encoder.bos_id is not None)
    assert keys["tokenizer.ggml.add_eos_token"] is False
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == 400


def test_kinds_of_tokens(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(encoder_of(sentence_piece(tmp_path / "s")), 350, None)
    assert vocabulary.model == "llama"
    assert vocabulary.space_prefix
    assert vocabulary.kinds[1:3] == [CONTROL, CONTROL]
    assert vocabulary.kinds.count(BYTE) == 256
    assert vocabulary.kinds[340:] == [UNUSED] * 10
    assert len(vocabulary.scores) == 350
    byte = vocabulary_of(encoder_of(byte_level(tmp_path / "b")), 330, 7)
    assert (byte.model, byte.pre, byte.kinds[:2]) == ("gpt2", "gpt-2", [CONTROL, CONTROL])
    assert byte.special == {"bos": 0, "eos": 1, "pad": 7}
    assert byte.merges
    assert not byte.scores


def test_bos_as_trained(tmp_path: Path) -> None:
    folder = sentence_piece(tmp_path)
    without = vocabulary_of(encoder_of(folder, bos="none"), 340, None)
    assert not without.add_bos
    assert without.special["bos"] == 1
    other = vocabulary_of(encoder_of(folder, bos="</s>"), 340, None)
    assert other.add_bos
    assert other.special["bos"] == 2


@pytest.mark.parametrize(("change", "name"), [
    ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "ByteLevel"),
    ({"pre_tokenizer": None}, "none"),
])  # fmt: skip
def test_other_pre_tokenizers_are_refused_by_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=name):
        pre_tokenizer_name({"model": {}, **change}, "here")


def test_pre_tokenizers_of_known_models() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    both = {"type": "Sequence", "pretokenizers": [digits, level]}
    assert pre_tokenizer_name({"model": {}, "pre_tokenizer": level}, "") == "gpt-2"
    assert pre_tokenizer_name({"model": {}, "pre_tokenizer": both}, "") == "smollm"
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    llama3 += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": llama3}, "behavior": "Isolated", "invert": False}
    pre = {"type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]}
    assert pre_tokenizer_name({"model": {"ignore_merges": True}, "pre_tokenizer": pre}, "") == "llama-bpe"
    with pytest.raises(UserError):  # the same split, but words of the vocabulary are not taken whole
        pre_tokenizer_name({"model": {}, "pre_tokenizer": pre}, "")
    split["pattern"] = {"Regex": llama3.replace("{1,3}", "")}
    assert pre_tokenizer_name({"model": {"ignore_merges": False}, "pre_tokenizer": pre}, "") == "qwen2"


def test_a_sentencepiece_tokenizer_without_its_model_is_refused(tmp_path: Path) -> None:
    folder = byte_level(tmp_path)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["byte_fallback"] = True
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"tokenizer\.model"):
        vocabulary_of(encoder_of(folder), 400, None)


def test_heads_are_reordered_for_llama_alone(tmp_path: Path) -> None:
    weight = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64)
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    tensors = {f"model.layers.0.{name}.weight": weight[: 64 if "q" in name else 32].clone() for name in names}
    save_file(tensors, tmp_path / "model.safetensors")
    rotated = dict(Weights(tmp_path, shape_of(), "llama").tensors())
    plain = dict(Weights(tmp_path, shape_of("qwen2"), "qwen2").tensors())
    # Size of a head is 16: rows 0, 8, 1, 9, ... of each.
    order = [16 * head + half * 8 + i for head in range(4) for i in range(8) for half in range(2)]
    assert torch.equal(rotated["blk.0.attn_q.weight"], weight[order])
    assert torch.equal(rotated["blk.0.attn_k.weight"], weight[order[:32]])
    assert torch.equal(rotated["blk.0.attn_v.weight"], weight[:32])
    for new, name in (("q", names[0]), ("k", names[1]), ("v", names[2])):
        assert torch.equal(plain[f"blk.0.attn_{new}.weight"], tensors[f"model.layers.0.{name}.weight"])


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    save_file({"model.strange.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.strange\.weight"):
        Weights(tmp_path, shape_of(), "llama")


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_stored_numbers(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, byte_level(tmp_path / "t"), kind)
    tensor = gguf.GGUFReader(path).tensors[0]
    assert tensor.name == "token_embd.weight"
    given = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(400, 64)
    (_, wanted), = Weights(tmp_path, shape_of(), "llama").tensors()  # fmt: skip
    error = np.abs(given - wanted.numpy())
    scale = {"f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 127}[kind]
    assert (error <= scale * np.abs(wanted.numpy()).max(axis=1, keepdims=True)).all()
    if kind != "q8_0":
        exact = wanted.to({"f16": torch.float16, "bf16": torch.bfloat16}[kind]).float().numpy()
        assert (given == exact).all()
    weights = Weights(tmp_path, shape_of(), "llama")
    assert size_of(weights, kind) == tensor.n_bytes == {"f16": 51200, "bf16": 51200, "q8_0": 27200}[kind]


def test_types_by_shape() -> None:
    assert stored_type((64,), "f16") == stored_type((64,), "q8_0") == "f32"
    assert stored_type((4, 64), "q8_0") == "q8_0"
    assert stored_type((4, 48), "q8_0") == "f16"  # blocks of 32 do not divide it
    with pytest.raises(UserError, match="65,504"):
        as_stored("x", torch.tensor([[1e5]]), "f16")
    assert as_stored("x", torch.tensor([[1e5]]), "bf16").nbytes == 2


def test_settings() -> None:
    keys = settings(shape_of(head_dim=32, max_position_embeddings=2048, rope_theta=10000.0), 400)
    assert keys["rope.dimension_count"] == keys["attention.key_length"] == 32
    assert keys["attention.head_count_kv"] == 2
    assert settings(shape_of("mistral", sliding_window=512, max_position_embeddings=2048), 400)["context_length"] == 512
    linear = settings(shape_of(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}), 400)
    assert (linear["rope.scaling.type"], linear["rope.scaling.factor"]) == ("linear", 2.0)


def test_rope_of_llama_3_as_transformers_computes_it() -> None:
    shape = shape_of(hidden_size=512, rope_parameters=LLAMA3, max_position_embeddings=131072)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](shape, torch.device("cpu"))
    plain = 500000.0 ** -(torch.arange(0, 128, 2) / 128)
    factors = rope_factors(shape)
    assert factors is not None
    np.testing.assert_allclose(factors, (plain / frequencies).numpy(), rtol=1e-5)
    assert factors.min() == 1
    assert factors.max() == 8
    assert rope_factors(shape_of()) is None


@pytest.mark.parametrize(("config", "match"), [
    ({"model_type": "gpt_neox"}, "gpt_neox"),
    ({"model_type": "llama", "hidden_act": "gelu"}, "gelu"),
    ({"model_type": "llama", "rope_scaling": {"type": "longrope"}}, "longrope"),
    ({"model_type": "qwen2", "rope_parameters": {"rope_type": "dynamic"}}, "dynamic"),
])  # fmt: skip
def test_other_architectures_are_refused_by_name(config: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check_architecture(config, "here")
    assert "remove gguf" in caught.value.fix


def test_refused_before_training(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_early(make_config(tmp_path, base, "export.formats=[hf,gguf]"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="llama-quantize"):
        check_early(make_config(tmp_path, base, "export.formats=[hf,gguf]", "export.gguf=q4_k_m"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "gpt_neox"}')
    check_early(make_config(tmp_path, other))
    with pytest.raises(UserError, match="gpt_neox"):
        check_early(make_config(tmp_path, other, "export.formats=[hf,gguf]"))
    (other / "config.json").write_text('{"model_type": "llama"}')
    (other / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(UserError, match="WordPiece"):
        check_early(make_config(tmp_path, other, "export.formats=[hf,gguf]"))


def test_the_quantizer_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for llama-quantize, which copies; one that fails is a message."""
    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] || { echo "no such type" >&2; exit 1; }\n/bin/cp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    quantizer.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m")
    assert (tmp_path / "b.gguf").read_bytes() == b"GGUF"
    with pytest.raises(UserError, match="no such type"):
        quantizer.quantize(tmp_path / "a.gguf", tmp_path / "c.gguf", "q9")
