"""GGUF files that are damaged: one error before the gguf package allocates anything."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
from safetensors.torch import load_file

from tests.helpers.damage import damaged, outcome, use


@pytest.fixture(scope="module")
def converted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaMA as llama.cpp's converter writes it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf_package.GGUFWriter(str(path), "llama")
    for name, value in {
        "context_length": 512, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8, "vocab_size": 400,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "model.layers.": "blk.",
    }  # fmt: skip
    for name, tensor in load_file(base / "model.safetensors").items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copyfile(converted, tmp_path / "tiny.gguf"))


def test_a_sound_gguf_loads(file: Path) -> None:
    use(file)


def patched(after: bytes, form: str, value: Any) -> Callable[[bytes], bytes]:
    """The file with a number put in behind some bytes."""

    def patch(data: bytes) -> bytes:
        at = data.index(after) + len(after)
        packed = struct.pack("<" + form, value)
        return data[:at] + packed + data[at + len(packed) :]

    return patch


GGUFS: dict[str, Callable[[bytes], bytes]] = {
    "a text of 2^40 bytes": patched(b"general.architecture\x08\0\0\0", "Q", 1 << 40),
    "a key of 2^40 bytes": lambda data: data[:24] + struct.pack("<Q", 1 << 40) + data[32:],
    "a text of 2^64 bytes": patched(b"general.architecture\x08\0\0\0", "Q", (1 << 64) - 1),
    "2^60 tensors": lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:],
    "2^60 keys": lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:],
    "one tensor more": lambda data: data[:8] + struct.pack("<Q", data[8] + 1) + data[16:],
    "version 9": lambda data: data[:4] + struct.pack("<I", 9) + data[8:],
    "other byte order": lambda data: data[:4] + struct.pack(">I", 3) + data[8:],
    "2^60 words": patched(b"tokenizer.ggml.tokens\x09\0\0\0\x08\0\0\0", "Q", 1 << 60),
    "words of arrays": patched(b"tokenizer.ggml.tokens\x09\0\0\0", "I", 9),
    "words of numbers": patched(b"tokenizer.ggml.tokens\x09\0\0\0", "I", 5),
    "unknown type": patched(b"llama.block_count", "I", 77),
    "a billion layers": patched(b"llama.block_count\x04\0\0\0", "I", 10**9),
    "no layers": patched(b"llama.block_count\x04\0\0\0", "I", 0),
    "a shape of 2^40": patched(b"output_norm.weight\x01\0\0\0", "Q", 1 << 40),
    "nine dimensions": patched(b"output_norm.weight", "I", 9),
    "no such tensor type": patched(b"output_norm.weight\x01\0\0\0\x20\0\0\0\0\0\0\0", "I", 999),
    "a tensor at 2^50": patched(b"output_norm.weight\x01\0\0\0\x20\0\0\0\0\0\0\0\0\0\0\0", "Q", 1 << 50),
    "no more than a name": lambda data: data[:4],
    "half a header": lambda data: data[:5_000],
    "half the tensors": lambda data: data[: len(data) // 2],
    "unknown architecture": lambda data: data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma"),
}


@pytest.mark.parametrize("change", GGUFS.values(), ids=GGUFS.keys())
def test_ggufs(file: Path, change: Callable[[bytes], bytes]) -> None:
    data = file.read_bytes()
    assert change(data) != data
    file.write_bytes(change(data))
    assert outcome(lambda: use(file))
    assert not [p for p in (file.parent / "cache").glob("base/*") if p.name != ".lock"]


def test_random_damage_to_a_gguf(file: Path) -> None:
    whole, draw = file.read_bytes(), random.Random(7)
    ended = 0
    for _ in range(30):
        file.write_bytes(damaged(whole, 12_000, draw))
        ended += outcome(lambda: use(file)) is not None
    assert ended > 5
