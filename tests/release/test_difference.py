"""Difference from a base and back: exact to the bit, refused when anything is wrong, nothing half-written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.schema import Config
from pipeline.release.difference import blocks
from pipeline.release.difference.make import RECORD, write_difference
from pipeline.release.difference.recover import recover
from pipeline.release.difference.stage import check, make_difference, recover_model
from pipeline.run.errors import UserError
from pipeline.run.files import sealed
from pipeline.run.folder import Run
from tests.helpers.tiny import make_config

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Every pattern of bits is possible: NaN with any payload, infinity, denormals, -0."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.tensor(shape).prod())
    integers = torch.randint(0, 1 << 16, (count * dtype.itemsize // 2,), generator=generator).to(torch.uint16)
    return integers.view(dtype).reshape(shape)


def pair(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """A base in one file, and a tuned model in two with three new rows, one new tensor and one that it lost."""
    base, tuned = folder / "base", folder / "tuned"
    for path in (base, tuned):
        path.mkdir(parents=True)
    save_file({
        "embed": random_bits((10, 6), dtype, 1), "a": random_bits((7, 5), dtype, 2),
        "norm": random_bits((6,), dtype, 3), "gone": random_bits((2,), dtype, 4), "one": random_bits((), dtype, 10),
    }, base / "model.safetensors")  # fmt: skip
    files = {
        "model-00001-of-00002.safetensors": {"embed": random_bits((13, 6), dtype, 5), "one": random_bits((), dtype, 9)},
        "model-00002-of-00002.safetensors": {
            "a": random_bits((7, 5), dtype, 6), "norm": random_bits((6,), dtype, 7), "new": random_bits((4,), dtype, 8),
        },
    }  # fmt: skip
    for name, tensors in files.items():
        save_file(tensors, tuned / name, metadata={"format": "pt"})
    places = {tensor: name for name, tensors in files.items() for tensor in tensors}
    (tuned / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (tuned / "config.json").write_text('{"model_type": "llama"}')
    (tuned / "manifest.json").write_text("{}")
    return base, tuned


def difference_of(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, Path, Path]:
    base, tuned = pair(folder, dtype)
    difference = folder / "diff"
    difference.mkdir()
    write_difference(base, tuned, difference, "base")
    return base, tuned, difference


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("block", [8, 64, 1 << 25])
def test_the_files_come_back_byte_for_byte(
    tmp_path: Path, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    base, tuned, difference = difference_of(tmp_path, dtype)
    names = recover(base, difference, tmp_path / "out")
    wanted = {name: data for name, data in content(tuned).items() if name != "manifest.json"}
    assert content(tmp_path / "out") == wanted
    assert names == sorted(wanted)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_it_is_the_difference_of_the_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned, difference = difference_of(tmp_path, dtype)
    stored: dict[str, torch.Tensor] = {}
    before, after = load_file(base / "model.safetensors"), {}
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        stored |= load_file(difference / f"diff-{name}")
        after |= load_file(tuned / name)
    signed = INTEGERS[dtype]
    assert torch.equal(stored["a"].view(signed), after["a"].view(signed) - before["a"].view(signed))
    # New rows and new tensors have nothing to be subtracted from them.
    assert torch.equal(stored["embed"][10:].view(signed), after["embed"][10:].view(signed))
    assert torch.equal(
        stored["embed"][:10].view(signed), after["embed"][:10].view(signed) - before["embed"].view(signed)
    )
    assert torch.equal(stored["new"].view(signed), after["new"].view(signed))


def test_the_base_may_be_in_other_files(tmp_path: Path) -> None:
    base, tuned, difference = difference_of(tmp_path)
    tensors, other = load_file(base / "model.safetensors"), tmp_path / "sharded"
    other.mkdir()
    places = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor}, other / f"model-{i}.safetensors")
        places[name] = f"model-{i}.safetensors"
    (other / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    recover(other, difference, tmp_path / "out")
    assert content(tmp_path / "out")["model-00001-of-00002.safetensors"] == (
        (tuned / "model-00001-of-00002.safetensors").read_bytes()
    )


def refused(base: Path, difference: Path, out: Path, match: str) -> UserError:
    with pytest.raises(UserError, match=match) as caught:
        recover(base, difference, out)
    assert not [path.name for path in out.parent.iterdir() if path.name.strip(".").startswith(out.name)]
    assert caught.value.fix
    return caught.value


def test_another_base_is_refused_with_both_hashes(tmp_path: Path) -> None:
    base, _, difference = difference_of(tmp_path)
    path = base / "model.safetensors"
    tensors = load_file(path)
    tensors["a"].view(torch.int32)[3, 2] ^= 1  # one bit
    save_file(tensors, path)
    error = refused(base, difference, tmp_path / "out", "another base")
    record = json.loads((difference / RECORD).read_text())
    wanted = record["weights"][1]["tensors"]["a"]["base_sha256"]
    hashes = re.findall(r"[0-9a-f]{64}", error.what)
    assert len(hashes) == 2
    assert hashes[1] == wanted != hashes[0]


@pytest.mark.parametrize("change", [
    lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "a"},
    lambda tensors: {**tensors, "a": tensors["a"][:3].clone()},
    lambda tensors: {**tensors, "a": torch.zeros(2, 2)},
])  # fmt: skip
def test_a_base_of_another_shape_is_refused(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    base, _, difference = difference_of(tmp_path)
    save_file(change(load_file(base / "model.safetensors")), base / "model.safetensors")
    refused(base, difference, tmp_path / "out", "another base.*'a'")


@pytest.mark.parametrize("name", ["diff-model-00001-of-00002.safetensors", "config.json", RECORD])
@pytest.mark.parametrize("damage", ["bit", "short", "gone"])
def test_a_damaged_difference_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    base, _, difference = difference_of(tmp_path)
    path = difference / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "bit" else data[:-5])
    refused(base, difference, tmp_path / "out", "damaged|missing|no diff.json|not complete")


@pytest.mark.parametrize("change", [
    lambda record: record["weights"][0].update(file="../evil"),
    lambda record: record["weights"][0].update(file="/evil"),
    lambda record: record["weights"][0].update(difference="config.json"),
    lambda record: record["files"].update({"../evil": "0" * 64}),
    lambda record: record["weights"][0].update(header=7),
    lambda record: record["weights"][0]["tensors"]["embed"].update(covered=-4),
    lambda record: record["weights"][0]["tensors"]["embed"].update(covered=6),
    lambda record: record["weights"][0]["tensors"]["embed"].update(covered=1 << 50),
    lambda record: record["weights"][0].update(header="{}"),
    lambda record: record["weights"][0].update(tensors={}),
    lambda record: record.update(weights=[]),
    lambda record: record.update(version=2),
])  # fmt: skip
def test_a_forged_record_is_refused(tmp_path: Path, change: Callable[[Any], object]) -> None:
    """With a seal that is right: anyone can make that."""
    base, _, difference = difference_of(tmp_path / "in")
    path = difference / RECORD
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(sealed(record)))
    refused(base, difference, tmp_path / "out", ".")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_folder_in_the_way_and_a_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _, difference = difference_of(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        recover(base, difference, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    refused(base, difference, tmp_path / "out", "disk")
    with pytest.raises(UserError, match="disk"):
        write_difference(*pair(tmp_path / "again"), tmp_path, "base")


def test_types_must_be_equal(tmp_path: Path) -> None:
    base, tuned = pair(tmp_path, torch.bfloat16)
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor.float() for name, tensor in tensors.items()}, base / "model.safetensors")
    with pytest.raises(UserError, match="stored in BF16, its base llama in F32") as caught:
        write_difference(base, tuned, tmp_path, "llama")
    assert "export.dtype=fp32" in caught.value.fix


def test_of_a_run(exported: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = exported
    make_difference(config, run)
    folder, out = run.folder("diff"), tmp_path / "out"
    recover_model(str(base), str(folder), str(out))
    export = content(run.folder("export"))
    assert content(out) == {name: data for name, data in export.items() if name != "manifest.json"}
    for path in folder.iterdir():
        assert str(base.parent).encode() not in path.read_bytes(), path.name
    before = (folder / "manifest.json").stat().st_mtime_ns
    make_difference(config, run)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert "diff: up to date" in capsys.readouterr().out


def test_what_has_no_difference(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing of its base"):
        check(make_config(tmp_path, base, "adapter.method=prompt"))
    for words in (("", "d", "o"), ("b", "", "o"), ("b", "d", "")):
        with pytest.raises(UserError, match="is missing"):
            recover_model(*words)
    with pytest.raises(UserError, match="no such folder"):
        recover_model(str(base), str(tmp_path / "none"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="no diff"):
        recover_model(str(base), str(base), str(tmp_path / "out"))
