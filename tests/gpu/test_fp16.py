"""On a GPU: fp16 with a loss scale. Fast against plain and float32, graphs, Trainer's fp16, and skipped steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from pipeline.model.base import resolve
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.training import loss_scale, metrics, self_check
from scripts.benchmarks.hf_trainer import stock_model, train_stock
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import assert_same, killed_after, losses_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

ROWS = ("data.sources=[{path: families, rows: 200}]", "data.holdout=[]", "train.max_steps=12", "train.lr=5e-3")
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 32},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "gemma": {"model_type": "gemma", "head_dim": 32},
    "gpt_neox": {"model_type": "gpt_neox"},
}
TOO_LARGE = 2.0**24  # a scale at which the first steps overflow


@pytest.fixture(autouse=True)
def any_precision() -> None:
    """Accelerate keeps the precision of a process's first run."""
    AcceleratorState._reset_state(True)


def trained(folder: Path, base: Path, name: str, *overrides: str) -> Run:
    AcceleratorState._reset_state(True)
    return run_to(make_config(folder, base, f"name={name}", *ROWS, *overrides), "train", folder)


def wide(folder: Path, kind: str = "llama") -> Path:
    return make_base(folder / "base", hidden_size=128, intermediate_size=256, **KINDS[kind])


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [m for m in metrics.read(run.root / "metrics.jsonl") if "lr" in m]


@pytest.mark.parametrize("kind", KINDS)
def test_fast_and_plain_and_float32_learn_the_same(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = ("adapter.targets=[query_key_value]",) if kind == "gpt_neox" else ("adapter.targets=[all-linear]",)
    measured: list[tuple[float, float]] = []
    stock = self_check.difference

    def noted(*args: Any) -> tuple[float, float]:
        measured.append(stock(*args))
        return measured[-1]

    monkeypatch.setattr(self_check, "difference", noted)
    base, words = wide(tmp_path, kind), (*targets, "adapter.dropout=0")
    fast = trained(tmp_path, base, "fast", "model.dtype=fp16", *words)
    plain = trained(tmp_path, base, "plain", "model.dtype=fp16", "train.fast=false", *words)
    exact = trained(tmp_path, base, "exact", "model.dtype=fp32", *words)
    assert "check passed" in capsys.readouterr().out
    print(f"{kind}: fast and plain differ by {measured[0]}")
    counts = (fast.manifest("adapter") or {})["counts"]
    assert (counts["path"], counts["dtype"]) == ("fast", "fp16")
    for run in (fast, plain):
        assert losses_of(run) == pytest.approx(losses_of(exact), rel=1e-2)
    assert losses_of(fast) == pytest.approx(losses_of(plain), rel=1e-2)


def test_graphs_give_what_their_passes_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same steps are skipped in a graph and outside of one, also where it was recorded while gradients overflow."""
    monkeypatch.setattr(loss_scale, "START", TOO_LARGE)
    base = wide(tmp_path)
    graphs = trained(tmp_path, base, "graphs", "model.dtype=fp16", "train.batch_size=16")
    assert "going on without CUDA graphs" not in capsys.readouterr().out
    without = trained(tmp_path, base, "without", "model.dtype=fp16", "train.batch_size=16", "train.graphs=false")
    ours, theirs = ([("skipped" in m, m["loss_scale"], m["lr"]) for m in lines_of(r)] for r in (graphs, without))
    assert ours == theirs
    assert any(skipped for skipped, _, _ in ours)
    assert not ours[-1][0]
    assert losses_of(graphs) == pytest.approx(losses_of(without), rel=1e-2)


@pytest.mark.parametrize("last", [1, 7])
@pytest.mark.parametrize("how", ["graphs", "no graphs", "plain"])
def test_a_run_that_was_killed_among_skipped_steps_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, last: int
) -> None:
    monkeypatch.setattr(loss_scale, "START", TOO_LARGE)
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    base = wide(tmp_path)
    words = {"graphs": "train.batch_size=16", "no graphs": "train.graphs=false", "plain": "train.fast=false"}
    whole = trained(tmp_path, base, "whole", "model.dtype=fp16", words[how])
    assert any("skipped" in m for m in lines_of(whole))
    with killed_after(monkeypatch, last):
        trained(tmp_path, base, "killed", "model.dtype=fp16", words[how])
    again = trained(tmp_path, base, "killed", "model.dtype=fp16", words[how])
    assert_same(whole, again)
    ours, theirs = ([{k: v for k, v in m.items() if k != "seconds"} for m in lines_of(r)] for r in (whole, again))
    assert ours == theirs


def test_steps_are_those_of_trainers_fp16(tmp_path: Path) -> None:
    """The same losses, and learning rates."""
    base = wide(tmp_path)
    words = (*ROWS, "model.dtype=fp16", "adapter.dropout=0", "data.val=8", "train.eval_every=6", "train.eval_rows=8")
    config = make_config(tmp_path, base, *words)
    run = run_to(config, "train", tmp_path)
    AcceleratorState._reset_state(True)
    tokens, val = (Tokens(run.folder("tokens") / f"{part}.arrow") for part in ("train", "val"))
    theirs = train_stock(stock_model(config, resolve(config.model)), config, tokens, val, tmp_path / "trainer")
    for name, near in (("loss", 1e-2), ("lr", 1e-9)):
        a, b = ({m["step"]: m[name] for m in lines if name in m} for lines in (lines_of(run), theirs))
        assert a == pytest.approx(b, rel=near)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_base(tmp_path: Path, quantize: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = wide(tmp_path)
    words = (f"model.quantize={quantize}", "adapter.targets=[all-linear]", "train.checkpointing=block")
    half = trained(tmp_path, base, "half", "model.dtype=fp16", *words)
    brain = trained(tmp_path, base, "brain", "model.dtype=bf16", *words)
    assert (half.manifest("adapter") or {})["counts"]["path"] == "fast"
    assert losses_of(half) == pytest.approx(losses_of(brain), rel=2e-2)
    weights = load_file(next(half.folder("adapter").glob("*model.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
