"""Checks that stop an export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Config
from pipeline.model import hf_tokenizer
from pipeline.release import merge as settings_of_export
from pipeline.release import summary, verify
from pipeline.release.shards import merge as merging
from pipeline.release.shards.tensors import MergedTensors
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.exports import again, assert_refused, spoil
from tests.helpers.tiny import make_config, run_to


@pytest.fixture
def copy(exported: tuple[Config, Run], base: Path, tmp_path: Path) -> tuple[Config, Run]:
    """The finished run in a folder of its own, to be spoilt."""
    shutil.copytree(exported[1].root, tmp_path / "tiny")
    return make_config(tmp_path, base, "eval.rows=1", "eval.prompts=[]"), Run(tmp_path / "tiny")


def test_adapters_that_learnt_nothing(copy: tuple[Config, Run]) -> None:
    config, run = copy
    spoil(run, lambda t: {n: x * 0 if "lora_B" in n else x for n, x in t.items()})
    assert "nothing was learnt" in assert_refused(config, run, "adapter not empty").what
    spoil(run, lambda t: {n: x / 0 for n, x in t.items()})
    assert "NaN" in assert_refused(config, run, "adapter not empty").what
    spoil(run, lambda t: {})
    assert "no trained tensors" in assert_refused(config, run, "adapter not empty").what
    path = run.folder("adapter") / "adapter_model.safetensors"
    path.write_bytes(b"")
    assert "damaged" in assert_refused(config, run, "adapter not empty").what
    path.unlink()
    assert "no trained tensors" in assert_refused(config, run, "adapter not empty").what


def test_adapter_of_another_base(copy: tuple[Config, Run]) -> None:
    config, run = copy
    spoil(run, lambda t: {n.replace("layers.1", "layers.7"): x for n, x in t.items()})
    with pytest.raises(UserError, match="fit this base"):
        again(config, run)


def test_other_template_or_tokenizer(copy: tuple[Config, Run]) -> None:
    config, run = copy
    path = run.folder("adapter") / "suri.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps({**made, "tokenizer": "0" * 16}))
    assert "0000000000000000" in assert_refused(config, run, "tokenizer").what
    path.write_text(json.dumps({**made, "template": {"id": "x", "hash": "f" * 16}}))
    said = assert_refused(config, run, "template").what
    assert "ffffffffffffffff" in said
    assert made["template"]["hash"] in said


def test_tampered_merge(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    original = MergedTensors.merged

    def tampered(self: MergedTensors, name: str) -> torch.Tensor:
        factor = 3 if name == "model.layers.0.self_attn.v_proj.weight" else 1
        return original(self, name) * factor

    monkeypatch.setattr(MergedTensors, "merged", tampered)
    assert_refused(config, run, "merged = base + adapter")
    monkeypatch.setattr(MergedTensors, "merged", lambda self, name: self.read_base(name))
    assert_refused(config, run, "merged = base + adapter")


def test_merge_check_sees_rounding_and_idle_adapters() -> None:
    torch.manual_seed(0)
    base = torch.randn(5, 11).log_softmax(-1)
    near = (base + 0.01 * torch.randn(5, 11)).log_softmax(-1)
    checks = verify.Checks()
    with pytest.raises(UserError, match="nothing"):
        verify.merged_equals_adapter(base, base, base, verify.tolerance("fp32"), checks)
    with pytest.raises(UserError, match="Rounding"):
        verify.merged_equals_adapter(near, base, base, verify.tolerance("bf16"), checks)
    verify.merged_equals_adapter(near, near, base, verify.tolerance("fp32"), checks)
    assert verify.tolerance("fp32", "none", "bf16") == (verify.TOLERANCE["bf16"], "bf16")
    assert verify.divergence(base, near) == pytest.approx(float((base.exp() * (base - near)).sum(-1).mean()), rel=1e-4)


def test_reload_differs(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    load = merging.load_folder

    def damaged(folder: Path, dtype: torch.dtype) -> Any:
        model = load(folder, dtype)
        model.lm_head.weight.data[5] += 1
        return model

    monkeypatch.setattr(merging, "load_folder", damaged)
    assert "1 of 21 tensors" in assert_refused(config, run, "reload").what


@pytest.mark.parametrize("what", ["chat template", "tokenizer", "end token"])
def test_tokenizer_differs(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    config, run = copy
    build = hf_tokenizer.build

    def other(*given: Any) -> Any:
        tokenizer = build(*given)
        if what == "chat template":
            tokenizer.chat_template = tokenizer.chat_template.replace("### Response:", "### Answer:")
        elif what == "tokenizer":
            tokenizer.add_bos_token = True
        else:
            tokenizer.eos_token = "<s>"
        return tokenizer

    monkeypatch.setattr(hf_tokenizer, "build", other)
    said = assert_refused(config, run, "tokenizer and chat template").what
    assert f"the {what} gives other ids" in said or "its end token is 1, training's is 2" in said


def test_answers_that_never_stop(
    base: Path, copy: tuple[Config, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, base, "export.min_eos=1.0", "eval.rows=1")
    run = copy[1]
    again(config, run)
    folder, manifest = run.folder("export"), run.manifest("export") or {}
    facts = json.loads((folder / "results.json").read_text())["unfinished"]
    assert (facts["stopped"], facts["of"], facts["wanted"]) == (0, 8, 1.0)
    assert manifest["counts"]["unfinished"] == facts
    assert json.loads((folder / "suri.json").read_text())["unfinished"] is True
    assert "**Unfinished:**" in (folder / "README.md").read_text()
    assert "UNFINISHED" in " ".join(capsys.readouterr().out.split())
    assert any("UNFINISHED" in line for line in summary.of_run(run))
    AutoModelForCausalLM.from_pretrained(folder)


def test_answers_that_stopped_in_training_only(base: Path, copy: tuple[Config, Run], tmp_path: Path) -> None:
    """Then the export is at fault, and nothing is exported."""
    probes = copy[1].folder("adapter") / "probes.json"
    counts = json.loads(probes.read_text())
    probes.write_text(json.dumps({**counts, "probes": {**counts["probes"], "stops": {"count": 8, "of": 8}}}))
    config = make_config(tmp_path, base, "export.min_eos=1.0", "eval.rows=1")
    assert "8 of 8" in assert_refused(config, copy[1], "answers stop").what


def test_a_model_that_stops_elsewhere(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    settings = settings_of_export.GenerationConfig
    monkeypatch.setattr(
        settings_of_export, "GenerationConfig", lambda **given: settings(**{**given, "eos_token_id": 1})
    )
    assert "generation_config.json" in assert_refused(config, run, "end token").what


def test_every_weight_trained(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, base, "adapter.method=full", "train.lr=1e-3", "eval.rows=1", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    trained, saved = (load_file(run.folder(f) / "model.safetensors") for f in ("adapter", "export"))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trained.items())
    assert "all weights trained" in (run.folder("export") / "README.md").read_text()
    shutil.copyfile(base / "model.safetensors", run.folder("adapter") / "model.safetensors")
    assert "nothing was learnt" in assert_refused(config, run, "weights changed").what


@pytest.mark.parametrize(
    ("moved", "share"),
    # A step of bf16 is 1/128 above one and 1/256 below: 1e-3 is lost everywhere, 1/64 nowhere.
    [(1e-3, "1"), (1 / 64, "0")],
)
def test_what_rounding_takes_of_a_change(tmp_path: Path, moved: float, share: str) -> None:
    start = {"a": torch.ones(4), "b": torch.ones(2, 2).to(torch.bfloat16), "elsewhere": torch.ones(1)}
    save_file({"a": start["a"] + moved, "b": start["b"].float() - moved}, tmp_path / "adapter_model.safetensors")
    checks = verify.Checks()
    if share == "1":
        with pytest.raises(UserError, match="rounding"):
            verify.change_survives(tmp_path, start, torch.bfloat16, checks, "bf16")
    else:
        verify.change_survives(tmp_path, start, torch.bfloat16, checks, "bf16")
        assert f"weights by {share} of" in checks.done["rounding"]
    verify.change_survives(tmp_path, start, torch.float32, checks, "fp32")


def test_small_changes_are_not_exported_in_bf16_as_if_they_were_there(base: Path, tmp_path: Path) -> None:
    words = ("adapter.method=full", "train.lr=1e-6", "train.max_steps=2", "eval.rows=1", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert_refused(make_config(tmp_path, base, *words, "export.dtype=bf16"), run, "rounding")


def test_norms_trained_in_bf16_are_exported_as_they_were_trained(base: Path, tmp_path: Path) -> None:
    """Gains near one move by less than a step of bf16."""
    AcceleratorState._reset_state(True)  # one process takes one precision
    try:
        words = (
            "adapter={method: norms}", "model.dtype=bf16", "export.dtype=fp32", "train.lr=1e-3", "eval.rows=1",
            "train.max_steps=2", "eval.prompts=[]",
        )  # fmt: skip
        run = run_to(make_config(tmp_path, base, *words), "export", tmp_path)
    finally:
        AcceleratorState._reset_state(True)
    saved = load_file(run.folder("export") / "model.safetensors")
    trained = load_file(run.folder("adapter") / "adapter_model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trained.items())


def test_export_in_bf16(copy: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "export.dtype=bf16", "eval.rows=1", "eval.prompts=[]")
    again(config, copy[1])
    folder = copy[1].folder("export")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert "in bf16" in json.loads((folder / "suri.json").read_text())["checks"]["merged = base + adapter"]
