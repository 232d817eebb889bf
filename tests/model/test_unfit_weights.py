"""Weights of a base that are damaged or no numbers: one error before anything is allocated."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.model.base.folder import check_folder
from pipeline.model.load import load_folder
from pipeline.store.untrusted import inspect
from tests.helpers.damage import DEEP, QUITE_DEEP, Spoil, damaged, outcome, use


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path: Path, head: bytes, data: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + data)


NORM = "model.norm.weight"


def entry(**values: Any) -> Spoil:
    """One tensor's entry with other values."""

    def spoil(folder: Path) -> None:
        head, data = header(folder / "model.safetensors")
        head[NORM].update(values)
        write(folder / "model.safetensors", json.dumps(head).encode(), data)

    return spoil


def raw(make: Callable[[dict[str, Any]], bytes], length: int | None = None) -> Spoil:
    def spoil(folder: Path) -> None:
        head, data = header(folder / "model.safetensors")
        write(folder / "model.safetensors", make(head), data, length)

    return spoil


def sparse(folder: Path) -> None:
    """A file of 3 GB on paper whose header says that it has 2 GB."""
    write(folder / "model.safetensors", b"{}", b"", 2 << 30)
    os.truncate(folder / "model.safetensors", 3 << 30)


HEADERS: dict[str, Spoil] = {
    "offsets short": entry(data_offsets=[0]),
    "offsets empty": entry(data_offsets=[]),
    "offsets of texts": entry(data_offsets=["0", "1"]),
    "offsets of fractions": entry(data_offsets=[0.5, 1.5]),
    "offsets an object": entry(data_offsets={"0": 1}),
    "offsets backwards": entry(data_offsets=[128, 0]),
    "offsets negative": entry(data_offsets=[-128, 0]),
    "offsets overlap": entry(data_offsets=[0, 128]),
    "offsets beyond": entry(data_offsets=[1 << 40, (1 << 40) + 128]),
    "offsets of 2^70": entry(data_offsets=[1 << 70, (1 << 70) + 128]),
    "type unknown": entry(dtype="F31"),
    "type a list": entry(dtype=["F32"]),
    "type of other size": entry(dtype="F64"),
    "shape negative": entry(shape=[-32]),
    "shape of two negatives": entry(shape=[-32, -1]),
    "shape huge": entry(shape=[1 << 62, 1 << 62]),
    "shape a text": entry(shape="32"),
    "shape of flags": entry(shape=[True] * 32),
    "an entry a list": raw(lambda head: json.dumps({**head, NORM: [1]}).encode()),
    "metadata a number": raw(lambda head: json.dumps({**head, "__metadata__": 5}).encode()),
    "metadata of numbers": raw(lambda head: json.dumps({**head, "__metadata__": {"format": 5}}).encode()),
    "deep": raw(lambda head: DEEP.encode()),
    "a list": raw(lambda head: b"[]"),
    "no tensors": raw(lambda head: b"{}"),
    "not JSON": raw(lambda head: b"{" * 50),
    "length of 2^63": raw(lambda head: json.dumps(head).encode(), 1 << 63),
    "length of 2 GB": sparse,
    "empty file": lambda folder: (folder / "model.safetensors").write_bytes(b""),
}


@pytest.mark.parametrize("spoil", HEADERS.values(), ids=HEADERS.keys())
def test_headers_of_bases_and_adapters(folder: Path, spoil: Spoil) -> None:
    spoil(folder)
    assert outcome(lambda: use(folder))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    assert outcome(lambda: inspect(folder))


INDEXES: dict[str, Any] = {
    "not an object": [1],
    "no map": {},
    "map a list": {"weight_map": ["model.safetensors"]},
    "map of numbers": {"weight_map": {"a": 5}},
    "map of lists": {"weight_map": {"a": ["x.safetensors"]}},
    "above": {"weight_map": {"a": "../x.safetensors"}},
    "below": {"weight_map": {"a": "x/y.safetensors"}},
    "absolute": {"weight_map": {"a": "/etc/x.safetensors"}},
    "a pickle": {"weight_map": {"a": "x.bin"}},
    "long": {"weight_map": {"a": "x" * 5000 + ".safetensors"}},
    "metadata a list": {"metadata": [1], "weight_map": {"a": "part.safetensors"}},
    "missing": {"weight_map": {"a": "other.safetensors"}},
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_indexes(folder: Path, index: Any) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    shutil.copyfile(folder / "part.safetensors", folder.parent / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert outcome(lambda: use(folder))


def test_an_index_deep_or_damaged(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    for text in (DEEP, '{"weight_map": {"a": ' + QUITE_DEEP + "}}", "{", ""):
        (folder / "model.safetensors.index.json").write_text(text)
        assert outcome(lambda: use(folder))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_integers_are_no_base(folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    error = outcome(lambda: use(folder))
    assert error is not None
    assert "floating-point" in error.what


def test_masks_of_older_files_are_no_fault(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_folder(folder)


@pytest.mark.parametrize(("number", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_numbers_that_are_none_are_said_to_be_the_bases(folder: Path, number: float, word: str) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 5] = number
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error = outcome(lambda: use(folder))
    assert error is not None
    assert f"the base has {word} in the tensor {name}" in error.what
    assert "train.lr" not in error.fix


def test_large_numbers_are_numbers(folder: Path) -> None:
    """Their sum is infinite, they are not."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"].fill_(3e38)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    load_folder(folder, torch.float32)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_random_damage(folder: Path, name: str) -> None:
    whole, draw = (folder / name).read_bytes(), random.Random(name)
    most = 8 + struct.unpack("<Q", whole[:8])[0] if name.endswith("tensors") else len(whole)
    ended = 0
    for _ in range(40):
        (folder / name).write_bytes(damaged(whole, most, draw))
        ended += outcome(lambda: use(folder)) is not None
    assert ended > 10
