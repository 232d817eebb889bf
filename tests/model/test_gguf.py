"""GGUF files: their header, conversion and tokenizer."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.config.schema import Model
from pipeline.model import base as bases
from pipeline.model.base import gguf
from pipeline.model.base.gguf_header import read_header
from pipeline.run.errors import UserError
from tests.helpers.tiny import make_tokenizer

ROOT = Path(__file__).parents[2]


DEMO = ROOT / ".cache" / "demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_gguf_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="damaged") as caught:
        bases.resolve(Model(base=str(tmp_path / "model.gguf")))
    assert caught.value.where == str(tmp_path / "model.gguf")
    assert not list((tmp_path / "cache").glob("base/*/"))


def entry(key: str, kind: int, value: bytes) -> bytes:
    """A key with its value, as they stand in the header of a GGUF file."""
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (entry("tokenizer.ggml.pre", 8, text("smollm")), "smollm"),
        (entry("tokenizer.ggml.model", 8, text("gpt2")), None),
        (entry("tokenizer.ggml.pre", 4, struct.pack("<I", 70_000)), 70_000),
    ],
)
def test_values_are_read_from_the_header(value: bytes, found: str | int | None, tmp_path: Path) -> None:
    prefix = entry("tokenizer.ggml.prefix_token_id", 4, struct.pack("<I", 8))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + prefix + value + bytes(32))
    assert read_header(tmp_path / "x.gguf").get("tokenizer.ggml.pre") == found
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + prefix + value)
    with pytest.raises(ValueError, match="ends"):
        read_header(tmp_path / "x.gguf")


def test_special_tokens_are_those_of_the_file(tmp_path: Path) -> None:
    """transformers 5.17 reads the demo's end of a turn as its beginning, and no padding."""
    make_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.eos_token = "<s>"
    ids: dict[str, int | str] = {
        f"tokenizer.ggml.{k}_token_id": n for k, n in zip(gguf.SPECIAL.values(), (1, 2, 10**6), strict=True)
    }
    before = tokenizer.pad_token
    gguf._correct_tokenizer(tokenizer, {**ids, "tokenizer.ggml.pre": "other"})
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", before)
    assert tokenizer.eos_token_id == 2


def test_converted_demo_splits_digits() -> None:
    folders = list((ROOT / ".cache" / "base").glob("SmolLM2-135M-Instruct*"))
    if not DEMO.is_file() or not folders:
        pytest.skip("needs the demo's base, fetched and converted by `make export`")
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert tokenizer.convert_ids_to_tokens(tokenizer("12345").input_ids) == list("12345")
