"""Exports where the model does not fit into memory, quantised bases, and what stops an export before it begins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder, read_shape
from pipeline.model.methods.method import WEIGHTS
from pipeline.model.skeleton import Skeleton
from pipeline.model.streamed import streamed
from pipeline.release.shards import streaming
from pipeline.release.shards.tensors import MergedTensors
from pipeline.run import files as files_of_run
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.free_memory import VARIABLE, free_memory_bytes
from tests.helpers.exports import again, assert_refused
from tests.helpers.methods import adapter_of, logits, moved, save, stock
from tests.helpers.tiny import make_base, make_config, run_to

SHORT = ("eval.rows=1", "eval.prompts=[]", "train.max_steps=2")
HIDDEN = {"hidden_size": 64, "intermediate_size": 128}  # as bitsandbytes needs


@pytest.fixture
def copy(exported: tuple[Config, Run], base: Path, tmp_path: Path) -> tuple[Config, Run]:
    """The finished run in a folder of its own."""
    shutil.copytree(exported[1].root, tmp_path / "tiny")
    return make_config(tmp_path, base, "eval.rows=1", "eval.prompts=[]"), Run(tmp_path / "tiny")


def record(run: Run, name: str = "suri.json") -> dict[str, Any]:
    return dict(json.loads((run.folder("export") / name).read_text()))


def test_the_same_files_with_and_without_memory(
    copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = copy
    again(config, run)
    whole = {path.name: path.read_bytes() for path in run.folder("export").iterdir()}
    capsys.readouterr()
    monkeypatch.setenv(VARIABLE, "1000")
    again(config, run)
    printed = " ".join(capsys.readouterr().out.split())
    assert "results are left out; the checks read the weights block by block" in printed
    streamed_export = {path.name: path.read_bytes() for path in run.folder("export").iterdir()}
    assert streamed_export.keys() == whole.keys()
    changed = {name for name, data in whole.items() if streamed_export[name] != data}
    assert changed == {"README.md", "results.json", "suri.json", "manifest.json"}
    results, checks = record(run, "results.json"), record(run)["checks"]
    assert (results["base"], results["tuned"]) == ({}, {})
    assert "1 kB are free" in results["left_out"]
    assert "computed block by block" in checks["merged = base + adapter"]
    assert checks["reload"].startswith("the files, read again: all 21 tensors")
    assert checks["answers stop"].startswith("not measured")
    assert "neither model was measured" in (run.folder("export") / "README.md").read_text()


def test_a_wrong_merge_is_found_block_by_block(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    monkeypatch.setenv(VARIABLE, "1000")
    original = MergedTensors.merged
    monkeypatch.setattr(MergedTensors, "merged", lambda self, name: original(self, name) * 1.5)
    assert "block by block" in assert_refused(config, run, "merged = base + adapter").what


def test_a_damaged_file_is_found_block_by_block(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    monkeypatch.setenv(VARIABLE, "1000")
    changed = streaming.changed_tensors

    def damaging(folder: Path, sums: dict[str, int]) -> list[str]:
        with open(folder / "model.safetensors", "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
        return changed(folder, sums)

    monkeypatch.setattr(streaming, "changed_tensors", damaging)
    assert "1 of 21 tensors" in assert_refused(config, run, "reload").what


@pytest.mark.parametrize("kind", ["lora", "lora dora", "ia3", "norms", "head"])
@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": True}, {"model_type": "gpt2"}], ids=["", "tied", "gpt2"])
def test_block_by_block_computes_the_same(kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    stock(**shape).save_pretrained(base)
    folder.mkdir()
    save(moved(adapters.attach(stock(**shape), adapter_of(kind), seed=1)), folder)
    wanted = logits(adapters.load(load_folder(base, torch.float32), folder))
    saved = streaming.SavedModel(base, 0, torch.float32)
    merged = MergedTensors(
        saved.skeleton, saved.tensors.read, folder, adapters.method_of(adapter_of(kind)), torch.float32, ""
    )
    with streamed(saved.skeleton, merged.model, merged.names, merged.read_tuned) as model:
        given = logits(model)
    assert (given - wanted).abs().max() < 1e-5
    assert (given - logits(stock(**shape))).abs().max() > 1e-3
    base_parameters = [p for p in saved.skeleton.model.parameters() if id(p) in merged.names]
    assert base_parameters
    assert {p.device.type for p in base_parameters} == {"meta"}  # nothing stays


def test_rows_of_one_batch_are_independent(tmp_path: Path) -> None:
    """Padding at the end changes nothing before it."""
    stock().save_pretrained(tmp_path)
    saved = streaming.SavedModel(tmp_path, 0, torch.float32)
    rows = [[3, 4, 5, 6, 7, 8, 9], [10, 11]]
    together = saved.log_probabilities(rows)
    alone = torch.cat([saved.log_probabilities([row]) for row in rows])
    assert together.shape == (9, 64)
    assert torch.allclose(together, alone, atol=1e-5)


def test_further_formats_need_memory(copy: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(VARIABLE, "1000")
    config = make_config(tmp_path, base, "export.formats=[hf,adapter]", "eval.rows=1", "eval.prompts=[]")
    with pytest.raises(UserError, match="further formats are checked with the model in memory"):
        again(config, copy[1])


def test_a_full_disk_is_known_before_anything_is_written(
    copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = copy
    size = (run.folder("export") / "model.safetensors").stat().st_size
    usage = type("Usage", (), {"free": size - 1})
    monkeypatch.setattr(files_of_run.shutil, "disk_usage", lambda _: usage)
    before = sorted(path.name for path in run.root.iterdir())
    with pytest.raises(UserError, match=r"the export needs 64\.\d MB of disk and \d+ kB are free") as error:
        again(config, run)
    assert error.value.where == str(run.folder("export"))
    assert sorted(path.name for path in run.root.iterdir()) == before


def test_a_run_that_never_finished(copy: tuple[Config, Run]) -> None:
    config, run = copy
    shutil.rmtree(run.folder("adapter"))
    with pytest.raises(UserError, match="training of this run has not finished"):
        again(config, run)


def test_a_base_that_changed_since_training(base: Path, tmp_path: Path) -> None:
    own = tmp_path / "base"
    shutil.copytree(base, own)
    config = make_config(tmp_path, own, *SHORT)
    run = run_to(config, "train", tmp_path)
    before = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    path = own / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] += 0.5
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"the base changed since training: model\.safetensors has the hash") as error:
        stages.bring_up_to_date(config, run, "export")
    assert "train" in error.value.fix
    assert {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match="belongs to another base"):  # also of the stage by itself
        again(config, run)
    stages.bring_up_to_date(config, run, "train")  # asked for, it trains on the new base
    stages.bring_up_to_date(config, run, "export")


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_base_is_merged_as_it_was_trained_or_into_the_original(
    quantize: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", **HIDDEN)
    words = (f"model.quantize={quantize}", "adapter.targets=[all-linear]", *SHORT)
    config = make_config(tmp_path, base, *words)
    run = run_to(config, "export", tmp_path)
    checks = record(run)["checks"]["merged = base + adapter"]
    assert f"{quantize} base + adapter as trained, merged into its dequantised weights" in checks
    as_trained = load_file(run.folder("export") / "model.safetensors")
    model = load_base(config, run)
    assert all(torch.equal(as_trained[name], tensor) for name, tensor in model.state_dict().items())

    capsys.readouterr()
    again(make_config(tmp_path, base, *words, "export.merge_into=original"), run)
    checks = record(run)["checks"]["merged = base + adapter"]
    assert "merged into the base's original weights" in checks
    original = load_file(run.folder("export") / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    factors = load_file(run.folder("adapter") / WEIGHTS)
    a, b = (factors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    weight = load_file(base / "model.safetensors")[f"{name}.weight"]
    assert torch.equal(original[f"{name}.weight"], weight + (b @ a) * 2)
    assert not torch.equal(original[f"{name}.weight"], as_trained[f"{name}.weight"])
    if quantize == "nf4":  # int8 of so small a model is within its limit
        assert "Above the limit" in checks
        assert "export.merge_into=dequantized" in " ".join(capsys.readouterr().out.split())


def load_base(config: Config, run: Run) -> Any:
    """Base dequantised whole by transformers, merged by peft."""
    from pipeline.model import base as bases
    from pipeline.model.run_base import RunBase

    model = RunBase.of(config, bases.resolve(config.model)).load().dequantize(dtype=torch.float32)
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
    return adapters.load(model, run.folder("adapter")).merge_and_unload(safe_merge=True)


def test_dequantising_needs_the_base_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", **HIDDEN)
    words = ("model.quantize=nf4", *SHORT)
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    monkeypatch.setenv(VARIABLE, "1000")
    with pytest.raises(UserError, match="so it cannot be dequantised") as error:
        again(make_config(tmp_path, base, *words), run)
    assert "export.merge_into=original" in error.value.fix
    again(make_config(tmp_path, base, *words, "export.merge_into=original"), run)
    assert "not compared with nf4" in record(run)["checks"]["merged = base + adapter"]


def test_the_skeleton_takes_no_code_of_a_base(tmp_path: Path) -> None:
    stock().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    assert not hasattr(Skeleton(read_shape(str(tmp_path))).model.config, "auto_map")


def test_free_memory_is_the_smallest_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (root / "a/b").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    (proc / "self/status").write_text("VmSize: 100 kB\n")
    (proc / "self/cgroup").write_text("0::/a/b\n")
    assert free_memory_bytes(root, proc) == 3000 * 1024
    (root / "a/b/memory.max").write_text("max\n")
    (root / "a/b/memory.current").write_text("5000\n")
    assert free_memory_bytes(root, proc) == 3000 * 1024
    (root / "a/memory.max").write_text("1000000\n")  # the group above has less
    (root / "a/memory.current").write_text("700000\n")
    assert free_memory_bytes(root, proc) == 300000
    (root / "a/memory.stat").write_text("anon 1\ninactive_file 50000\nactive_file 10000\n")
    assert free_memory_bytes(root, proc) == 360000
    monkeypatch.setenv(VARIABLE, "1234")
    assert free_memory_bytes(root, proc) == 1234
    (root / "a/memory.current").write_text("2000000\n")
    assert free_memory_bytes(root, proc) == 0
