"""The self-check finds paths that differ and operations that are not deterministic."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.prompt.pack import Packer
from pipeline.run.folder import Run
from pipeline.training import self_check
from pipeline.training.micro_batches import MicroBatch, PackedMicroBatches, PaddedMicroBatches
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import (
    both_paths,
    branch,
)


@pytest.mark.parametrize("off", [(0.0, 0.5), (0.5, 0.0), (math.nan, 0.0)])
def test_a_path_that_differs_is_not_used(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], off: tuple[float, float],
) -> None:  # fmt: skip
    monkeypatch.setattr(self_check, "difference", lambda *_: off)
    run = branch(finished, tmp_path, "train.max_steps=1")
    assert "more than rounding explains" in " ".join(capsys.readouterr().out.split())
    assert run.manifest("adapter")["counts"]["path"] == "plain"


@pytest.mark.parametrize(("error", "percent"), [(0.31, "31%"), (math.nan, "nan%")])
def test_masks_that_differ_are_not_used(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], error: float, percent: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(self_check, "largest_mask_error", lambda _: error)
    run = branch(finished, tmp_path, "train.max_steps=1")
    assert f"dropout's kernels differ by {percent} from each other; the plain path is used" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run.manifest("adapter")["counts"]["path"] == "plain"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_rows_that_affect_each_other_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    """Through a convolution, by however little, also where memory is too small to compare more."""

    def difference(*_: object) -> tuple[float, float]:
        if whole:
            return 0.0, 0.0
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(self_check, "difference", difference)
    base = make_base(tmp_path / "base", model_type="lfm2", layer_types=["conv", "full_attention"])
    config = make_config(tmp_path, base, "train.max_steps=1", "adapter.targets=[all-linear]")
    run = run_to(config, "train", tmp_path)
    assert "rows of a pack affect each other in this model; the plain path is used" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run.manifest("adapter")["counts"]["path"] == "plain"


def test_rows_with_a_preamble_do_not_affect_each_other(finished: tuple[Config, Run]) -> None:
    packed, _, trained = both_paths(finished)
    start = packed.tokens.row(0)[0][:3].tolist()
    packed.packer = Packer(packed.tokens, [start], 1 << 20)
    assert packed.packer.pack(range(8)).preambles == 1
    assert not self_check.leaks(packed, range(8))
    assert [w for w in trained if w.grad is not None] == []


def test_difference(finished: tuple[Config, Run]) -> None:
    """Dropout, which the adapter has, is off meanwhile; nothing is left behind."""
    packed, plain, trained = both_paths(finished)
    plain.model.train()
    loss, gradient = self_check.difference(packed, plain, range(8), trained)
    assert 0 <= loss < 1e-6
    assert 0 < gradient < 1e-5
    assert plain.model.training
    assert all(linear.has_dropout for linear in (packed.fast.blocks[0].qkv, packed.fast.blocks[1].qkv))
    assert [w for w in trained if w.grad is not None] == []


def test_difference_sees_a_gradient_that_is_missing(
    finished: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain, trained = both_paths(finished)
    stock = PackedMicroBatches.loss
    monkeypatch.setattr(PackedMicroBatches, "loss", lambda path, part: stock(path, part).detach())
    assert self_check.difference(packed, plain, range(8), trained)[1] == pytest.approx(1)


def test_operations_that_are_not_deterministic_are_named(
    finished: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked on a card; here of an operation that raises there as it would."""
    _, plain, trained = both_paths(finished)
    assert self_check.is_deterministic(plain, 0, trained, True)
    assert not plain.is_deterministic
    stock = PaddedMicroBatches.loss

    def loss(path: PaddedMicroBatches, part: MicroBatch) -> torch.Tensor:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("kthvalue CUDA does not have a deterministic implementation, but you set")
        return stock(path, part)

    monkeypatch.setattr(PaddedMicroBatches, "loss", loss)
    assert not self_check.is_deterministic(plain, 0, trained, True)
    assert "may differ slightly (kthvalue" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(PaddedMicroBatches, "loss", lambda path, part: 1 / torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        self_check.is_deterministic(plain, 0, trained, True)
    assert [w for w in trained if w.grad is not None] == []
