"""Loss scaling: the rule of torch's GradScaler, and runs in fp16 on the CPU, which users cannot start there."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import loss_scale, metrics
from pipeline.training.loss_scale import LossScale
from pipeline.training.schedule import learning_rate
from tests.helpers.tiny import make_config, run_to, train_on_two
from tests.helpers.training_runs import allow_any_type, assert_same, branch, killed_after, losses_of, tokens_of

CPU = torch.device("cpu")
FP16 = "model.dtype=fp16"


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets a CPU train in fp16. The patches of a test go with the processes that it forks."""
    allow_any_type(monkeypatch)
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # a process otherwise has one precision for good
    return monkeypatch


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [m for m in metrics.read(run.root / "metrics.jsonl") if "lr" in m]


def test_scale_follows_torchs_grad_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same gradients, some of them infinite: the same scales and the same skipped steps."""
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=loss_scale.START, growth_interval=3)
    ours = LossScale(CPU)
    for is_infinite in [0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1]:
        assert ours.scale == theirs.get_scale()
        gradient = torch.tensor([math.inf if is_infinite else 3.0])
        weight.grad = theirs.scale(gradient)
        theirs.step(optimizer)
        theirs.update()
        weight.grad = gradient * ours.scale
        ours.unscale([weight])
        assert float(weight.grad) == float(gradient)
        assert ours.overflows(weight.grad.norm()) == bool(is_infinite)
        ours.update(bool(is_infinite))
    assert ours.scale == theirs.get_scale()
    assert ours.skipped == 4
    assert LossScale(CPU, ours.state()["loss_scale"]).state() == ours.state()


def test_other_types_are_not_scaled() -> None:
    for dtype in ("bf16", "fp32"):
        scaling = LossScale.of(dtype, CPU, {"loss_scale": {"scale": 4.0}})
        weight = torch.nn.Parameter(torch.ones(()))
        scaling.start_step(4)
        assert float(scaling.backward(weight * 2)) == 2
        scaling.unscale([weight])
        assert float(weight.grad or 0) == 0.5
        assert (scaling.scale, scaling.factor, scaling.state(), scaling.counts()) == (1.0, None, {}, {})


def test_fp16_learns_what_float32_learns(finished: tuple[Config, Run], tmp_path: Path, fp16: Any) -> None:
    words = ("adapter.dropout=0", "prompt.template=alpaca")  # with a shared preamble
    half = run_to(make_config(tmp_path, Path(finished[0].model.base), FP16, *words), "train", tmp_path)
    fp16.undo()
    exact = run_to(make_config(tmp_path, Path(finished[0].model.base), "name=exact", *words), "train", tmp_path)
    counts = half.manifest("adapter")["counts"]
    assert (counts["dtype"], counts["path"], counts["skipped_steps"]) == ("fp16", "fast", 0)
    assert losses_of(half) == pytest.approx(losses_of(exact), rel=3e-3)
    assert losses_of(half) != losses_of(exact)
    assert [m["loss_scale"] for m in lines_of(half)] == [65536.0] * 6
    assert "loss_scale" not in lines_of(exact)[0]


def test_without_a_scale_gradients_vanish(finished: tuple[Config, Run], tmp_path: Path, fp16: Any) -> None:
    """What the scale is for: 1e-6 of it leaves fp16 only zeros."""
    fp16.setattr(loss_scale, "LEAST", 0.0)
    fp16.setattr(loss_scale, "START", 2.0**-20)
    small = branch(finished, tmp_path / "small", FP16, "train.max_steps=1")
    fp16.setattr(loss_scale, "START", 2.0**16)
    fp16.setattr(AcceleratorState, "_shared_state", {})
    scaled = branch(finished, tmp_path / "scaled", FP16, "train.max_steps=1")
    norms = [lines_of(run)[0]["grad_norm"] for run in (small, scaled)]
    assert norms[0] < 0.5 * norms[1]


def test_overflows_are_skipped(
    finished: tuple[Config, Run], tmp_path: Path, fp16: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is learnt in them, the scale is halved, and the course of the learning rate waits, as Trainer's does."""
    fp16.setattr(loss_scale, "START", 2.0**22)
    run = branch(finished, tmp_path, FP16)
    names, settings = set(tokens_of(run).names_of(range(len(tokens_of(run))))), finished[0].train
    count = 0
    for n, line in enumerate(lines_of(run)):
        assert line["loss_scale"] == 2.0 ** (22 - count)
        assert line["lr"] == learning_rate(n - count, 6, settings)
        assert math.isfinite(line["loss"])
        if "skipped" in line:
            assert len(names & set(line["skipped"])) == 8
            assert line["learnt"] == 0
            count += 1
    assert 0 < count < 5
    counts = run.manifest("adapter")["counts"]
    assert (counts["steps"], counts["skipped_steps"], counts["loss_scale"]) == (6, count, 2.0 ** (22 - count))
    assert f"fp16: {count} of 6 steps were skipped" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("last", [1, 4])
def test_a_run_that_was_killed_ends_bit_identical(
    finished: tuple[Config, Run], tmp_path: Path, fp16: Any, capsys: pytest.CaptureFixture[str], last: int
) -> None:
    """Killed after a skipped step, before which the optimizer has no state, and after others."""
    fp16.setattr(loss_scale, "START", 2.0**22)
    fp16.setattr(loss_scale, "GROWTH_INTERVAL", 2)
    whole = branch(finished, tmp_path / "whole", FP16)
    with killed_after(fp16, last):
        branch(finished, tmp_path / "cut", FP16)
    config = make_config(tmp_path / "cut", Path(finished[0].model.base), FP16)
    run = run_to(config, "train", tmp_path / "cut")
    assert f"resuming from step {last} of 6" in " ".join(capsys.readouterr().out.split())
    assert_same(whole, run)
    ours, theirs = ([{k: v for k, v in m.items() if k != "seconds"} for m in lines_of(r)] for r in (run, whole))
    assert ours == theirs
    assert {m["loss_scale"] for m in ours if "skipped" not in m} != {ours[-1]["loss_scale"]}  # it grew in between


def test_a_scale_that_falls_to_nothing(finished: tuple[Config, Run], tmp_path: Path, fp16: Any) -> None:
    """The step, its rows, what is saved and what to do."""
    fp16.setattr(loss_scale, "START", 4.0)
    fp16.setattr(LossScale, "overflows", lambda *_: True)
    with pytest.raises(UserError) as caught:
        branch(finished, tmp_path, FP16, "train.save_every=1")
    said = str(caught.value)
    assert "step 3: loss" in said
    assert "gradients overflow in fp16 at any loss scale, 3 steps in a row" in said
    assert "The newest checkpoint is that of step 2. The step's rows: " in said
    assert "model.dtype=fp32" in said


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_ranks_skip_together(finished: tuple[Config, Run], tmp_path: Path, fp16: Any) -> None:
    """One process overflows first; both skip, and the weights stay the same on both."""
    fp16.setattr(loss_scale, "START", 2.0**22)
    words = (FP16, "adapter.dropout=0")
    alone = branch(finished, tmp_path / "alone", *words)
    for stage in ("dataset", "tokens"):
        shutil.copytree(finished[1].folder(stage), tmp_path / "both" / "tiny" / stage)
    both = train_on_two(make_config(tmp_path, Path(finished[0].model.base), *words), tmp_path / "both")
    ours, theirs = ([(m["step"], "skipped" in m, m["loss_scale"]) for m in lines_of(r)] for r in (both, alone))
    assert ours == theirs
    assert losses_of(both) == pytest.approx(losses_of(alone), rel=2e-3)
