"""Whether passes are recorded as CUDA graphs: measured once, remembered in checkpoints, the same on all ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.model.packed.cuda_graph import CudaGraphs, RecordedPass
from pipeline.model.packed.model import PackedModel
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.training import checkpoint, launch_time
from pipeline.training import fast_path as paths
from pipeline.training.launch_time import LaunchTime
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import both_paths, branch, killed_after, losses_of

BOUND, FREE = LaunchTime(0.10, 0.11, 300, 0), LaunchTime(0.10, 0.13, 300, 0)
STEPS = ("train.max_steps=4", "train.save_every=2")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose passes can be recorded; a graph is the pass itself."""
    monkeypatch.setattr(PackedModel, "can_be_recorded", True)
    monkeypatch.setattr(CudaGraphs, "needs_recording", lambda *_: False)


def measured(monkeypatch: pytest.MonkeyPatch, *results: LaunchTime | None) -> list[int]:
    """Has the next measurements give these results; the rows of each that is made."""
    left, rows = list(results), []

    def measure(path: Any, of: list[int]) -> LaunchTime | None:
        rows.append(len(of))
        return left.pop(0)

    monkeypatch.setattr(launch_time, "measure", measure)
    return rows


def resumed(finished: tuple[Config, Run], folder: Path, *overrides: str) -> Run:
    return run_to(make_config(folder, Path(finished[0].model.base), *overrides), "train", folder)


def state_of(run: Run) -> Any:
    root = run.folder("checkpoints")
    return read_json(checkpoint.folder_of(root, checkpoint.steps(root)[-1]) / checkpoint.STATE)["graphs"]


def test_a_pass_is_measured_and_nothing_is_left(finished: tuple[Config, Run]) -> None:
    packed, _, weights = both_paths(finished)
    before = torch.get_rng_state()
    found = launch_time.measure(packed, list(range(8)))
    assert found is not None
    assert 0 < found.host <= found.card * 4
    assert found.tokens == len(next(iter(packed.packer.packs(range(8)))).ids)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in weights)
    assert launch_time.measure(packed, []) is None


def test_what_counts_as_waiting() -> None:
    assert BOUND.is_bound
    assert not FREE.is_bound
    assert LaunchTime(1, 1, 1000, 100).bytes_of_graphs(2000, 7) == int(2.3 * 200) + 14
    assert LaunchTime(1, 1, 1000, 100).bytes_of_graphs(500, 0) == int(2.3 * 100)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("first", [BOUND, FREE])
def test_a_resumed_run_keeps_the_decision(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: LaunchTime
) -> None:
    rows = measured(monkeypatch, first)
    with killed_after(monkeypatch, 2):
        branch(finished, tmp_path / "killed", *STEPS)
    again = resumed(finished, tmp_path / "killed", *STEPS)
    assert len(rows) == 1
    assert state_of(again) is first.is_bound
    measured(monkeypatch, first)
    whole = branch(finished, tmp_path / "whole", *STEPS)
    assert losses_of(again) == losses_of(whole)


@pytest.mark.usefixtures("card")
def test_without_the_key_nothing_is_measured(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor decided: with the key it is measured when the run resumes."""
    rows = measured(monkeypatch, BOUND)
    with killed_after(monkeypatch, 2):
        branch(finished, tmp_path, *STEPS, "train.graphs=false")
    assert not rows
    run = resumed(finished, tmp_path, *STEPS)
    assert len(rows) == 1
    assert state_of(run) is True


@pytest.mark.parametrize(
    ("flags", "expected"), [([1, 0, 1], True), ([1, 1, 1], False), ([1, 0, 0], False), ([0, 0, 1], None)]
)
@pytest.mark.usefixtures("card")
def test_all_ranks_decide_alike(
    finished: tuple[Config, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[int],
    expected: bool | None,
) -> None:
    """flags: the minimum over all ranks of: can be recorded, is not bound, fits."""
    measured(monkeypatch, FREE)
    stock = paths.minimum
    monkeypatch.setattr(paths, "minimum", lambda acc, own: flags if len(own) == 3 else stock(acc, own))
    assert state_of(branch(finished, tmp_path, "train.max_steps=1")) is expected


def test_graphs_are_given_up_before_passes_get_smaller(
    finished: tuple[Config, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    packed, _, weights = both_paths(finished)
    capacity = packed.micro_tokens
    packed.graphs = CudaGraphs(packed.fast, weights, list(packed.packer.packs(range(8))))
    packed.graphs.recorded[()] = RecordedPass(Any, [], torch.zeros(()), [])  # type: ignore[arg-type]
    paths.reduce_memory(packed, 100, 4, may_recompute=True)
    assert (packed.micro_tokens, packed.graphs.recorded) == (capacity, {})
    assert "going on without CUDA graphs: step 5: out of memory" in capsys.readouterr().out
    paths.reduce_memory(packed, 100, 4, may_recompute=True)
    assert packed.micro_tokens == capacity // 2
