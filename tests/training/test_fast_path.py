"""Which path a run takes, and what it does when memory runs out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import fast_path as paths
from pipeline.training import self_check
from pipeline.training.micro_batches import MicroBatch
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import (
    UNDROPPED,
    allow_any_type,
    both_paths,
    branch,
    losses_of,
    out_of_memory,
    tokens_of,
)


def test_a_model_that_cannot_be_packed_takes_the_plain_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_base(tmp_path / "base", attention_dropout=0.1)
    run = run_to(make_config(tmp_path, base, "train.max_steps=1"), "train", tmp_path)
    assert "the plain path is used: the base has attention dropout" in " ".join(capsys.readouterr().out.split())
    assert run.manifest("adapter")["counts"]["path"] == "plain"


def test_a_kernel_that_a_card_has_no_room_for(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton's own errors are no RuntimeErrors."""

    class OutOfResources(Exception):
        pass

    def leaks(*_: object) -> bool:
        raise OutOfResources("out of resource: shared memory")

    monkeypatch.setattr(self_check, "leaks", leaks)
    run = branch(finished, tmp_path, "train.max_steps=1")
    assert "the plain path is used: OutOfResources: out of resource: shared memory" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run.manifest("adapter")["counts"]["path"] == "plain"


def test_what_fits_is_measured_as_steps_are_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mixed types: trained weights are in float32 beside frozen ones in bf16."""
    seen = []

    def chosen(*_: object) -> int:
        seen.append(torch.is_autocast_enabled("cpu"))
        return 400

    monkeypatch.setattr(paths, "choose_padded", chosen)
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # a process otherwise has one precision for good
    words = ("adapter.method=norms", "model.dtype=bf16", "train.fast=false", "train.max_steps=1")
    run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert seen == [True]


def test_fp8_needs_a_card_that_has_it(base: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(UserError, match="Hopper") as caught:
        run_to(make_config(tmp_path, base, "model.quantize=fp8"), "train", tmp_path)
    assert caught.value.where == "model.quantize"
    assert not (tmp_path / "tiny" / "dataset").exists()  # told before data is made


def test_a_base_in_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where the plain twin computes; runs refuse it there."""
    allow_any_type(monkeypatch)
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    ours = run_to(make_config(tmp_path, base, "model.quantize=fp8", "train.max_steps=3"), "train", tmp_path)
    assert ours.manifest("adapter")["counts"]["path"] == "fast"
    exact = run_to(make_config(tmp_path, base, "name=exact", "train.max_steps=3"), "train", tmp_path)
    assert losses_of(ours) == pytest.approx(losses_of(exact), rel=2e-2)
    assert losses_of(ours) != losses_of(exact)


def test_fp8_is_not_replaced_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_any_type(monkeypatch)
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128, attention_dropout=0.1)
    with pytest.raises(UserError, match="attention dropout") as caught:
        run_to(make_config(tmp_path, base, "model.quantize=fp8"), "train", tmp_path)
    assert caught.value.where == "model.quantize"


def test_packs_are_made_ahead(finished: tuple[Config, Run]) -> None:
    """And anew, when other rows are asked for or the capacity has changed."""
    packed, _, _ = both_paths(finished)
    packed.thread = ThreadPoolExecutor(1)  # as on a GPU

    def ids(parts: list[MicroBatch]) -> list[list[int]]:
        return [part.ids[0].tolist() for part in parts]

    made = ids(packed.split(range(8)))
    packed.prefetch(range(8))
    assert packed.next is not None
    future = packed.next[1]
    assert packed.split(range(8)) is future.result()
    assert ids(future.result()) == made
    packed.prefetch(range(8, 16))
    assert ids(packed.split(range(8))) == made
    assert packed.next is None
    packed.prefetch(range(8))
    packed.micro_tokens = 1000
    assert len(packed.split(range(8))) == 1 < len(made)


def test_a_row_that_does_not_fit(finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = out_of_memory(monkeypatch, range(100))
    with pytest.raises(UserError, match="longest row"):
        branch(finished, tmp_path, *UNDROPPED)
    longest = int(tokens_of(Run(tmp_path / "tiny")).lengths.max())
    assert seen == [250, longest, longest]  # the last one with blocks recomputed
