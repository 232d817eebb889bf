"""Whole runs whose frozen blocks are in main memory: the same weights, losses and resume as without."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.model import block_stream
from pipeline.model.block_stream import BlockStream, CpuCopier
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.free_memory import VARIABLE
from pipeline.training import metrics, placement, session
from pipeline.training.footprint import Footprint
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import assert_close, assert_same, branch, killed_after, losses_of

STREAM = "train.checkpointing=stream"


@pytest.fixture(autouse=True)
def _small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny base's blocks leave the card as a large one's do."""
    monkeypatch.setattr(block_stream, "SMALLEST", 0)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """Data and tokens of a run on a base of five blocks, of which two fit on the card."""
    folder = tmp_path_factory.mktemp("deep")
    config = make_config(folder, make_base(folder / "base", num_hidden_layers=5))
    return config, run_to(config, "tokens", folder)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is copied to the card."""
    sizes: list[int] = []
    stock = CpuCopier.start

    def start(copier: CpuCopier, pairs: list[Any]) -> None:
        sizes.append(len(pairs))
        stock(copier, pairs)

    monkeypatch.setattr(CpuCopier, "start", start)
    return sizes


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_streamed_run_is_the_same_run(
    deep: tuple[Config, Run], tmp_path: Path, fast: str, copied: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, evaluations and sample answers. Without adapters behind W, which the other run would have."""
    for name in ("streamed", "block"):
        (tmp_path / name).mkdir()
    words = ("train.max_steps=3", f"train.fast={fast}")
    streamed = branch(deep, tmp_path / "streamed", STREAM, *words)
    assert len(copied) > 50
    monkeypatch.setattr(FrozenWeights, "append_columns", lambda *_: 0)
    block = branch(deep, tmp_path / "block", "train.checkpointing=block", *words)
    assert_same(streamed, block)
    assert losses_of(streamed) == losses_of(block)
    looks = [
        [m["val_loss"] for m in metrics.read(r.root / "metrics.jsonl") if "val_loss" in m] for r in (streamed, block)
    ]
    assert looks[0] == looks[1]
    assert streamed.manifest("adapter")["counts"]["path"] == ("fast" if fast == "true" else "plain")


def test_a_streamed_run_is_close_to_a_usual_one(deep: tuple[Config, Run], tmp_path: Path) -> None:
    for name in ("streamed", "usual"):
        (tmp_path / name).mkdir()
    assert_close(branch(deep, tmp_path / "streamed", STREAM), branch(deep, tmp_path / "usual"))


def test_a_streamed_run_in_four_bits(tmp_path: Path, copied: list[int]) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128, num_hidden_layers=3)
    words = ("model.quantize=nf4", "train.max_steps=2", "eval.prompts=[]")
    streamed, block = (
        run_to(make_config(tmp_path, base, f"name={how}", f"train.checkpointing={how}", *words), "train", tmp_path)
        for how in ("stream", "block")
    )
    assert len(copied) > 10
    assert_same(streamed, block)
    assert losses_of(streamed) == losses_of(block)


def test_a_streamed_run_resumes_bit_identical(
    deep: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under auto, too, where more memory is free at the second start."""
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(placement, "_choose", lambda *_: "stream")
    monkeypatch.setattr(torch.cuda, "is_available", _only_in(placement.place))
    whole = branch(deep, tmp_path / "whole")
    with killed_after(monkeypatch, 3):
        branch(deep, tmp_path / "cut")
    monkeypatch.setattr(placement, "_choose", lambda *_: "auto")
    made: list[BlockStream] = []
    monkeypatch.setattr(session, "BlockStream", lambda: made.append(BlockStream()) or made[-1])
    cut = run_to(make_config(tmp_path / "cut", Path(deep[0].model.base)), "train", tmp_path / "cut")
    assert len(made) == 1
    assert_same(cut, whole)
    assert losses_of(cut) == losses_of(whole)
    state = json.loads((cut.folder("checkpoints") / "step-000006" / "state.json").read_text())
    assert state["checkpointing"] == "stream"


def _only_in(function: Any) -> Any:
    """`torch.cuda.is_available` as it would be there, and false elsewhere."""
    return lambda: sys._getframe(1).f_code is function.__code__


@pytest.mark.parametrize("way", ["offload", "stream"])
def test_too_little_main_memory_is_told_before_loading(
    deep: tuple[Config, Run], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "900000000")
    monkeypatch.setattr(session, "_load_model", None)
    with pytest.raises(UserError, match=f"{way} needs .* of main memory, and 900.0 MB are free") as caught:
        branch(deep, tmp_path, f"train.checkpointing={way}")
    assert caught.value.where == "train.checkpointing"


def test_the_fastest_that_fits() -> None:
    """A row of 100 tokens; 10 blocks of 1,000 bytes; of a token 10, 2 and 1 bytes are kept in each."""
    footprint = Footprint(
        blocks=10_000, rest=500, trained=0, copies=0, layers=10, kept=10, recomputed=2, small=1, working=1,
        working_recomputed=1, hidden=1, vocabulary=1, size=1, dequantized=0,
    )  # fmt: skip
    exact = {way: _least_budget(footprint, way) for way in ("none", "block", "offload", "stream")}
    assert exact["none"] > exact["block"] > exact["offload"] > exact["stream"]
    for way, budget in exact.items():
        assert placement.fastest(footprint, 100, budget + 1, 1 << 40) == way
    assert placement.fastest(footprint, 100, exact["stream"] - 1, 1 << 40) == ""
    assert placement.fastest(footprint, 100, exact["stream"] + 1, (1 << 30) + 9_999) == ""  # main memory
    assert placement.fastest(footprint, 100, exact["block"] + 1, 0) == "block"


def _least_budget(footprint: Footprint, way: str) -> float:
    static = footprint.static(way)
    return static + (footprint.peak(100, way) - static) / 0.9


@pytest.mark.parametrize("fast", ["true", "false"])
def test_too_little_main_memory_is_told_on_both_paths(
    deep: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: str
) -> None:
    monkeypatch.setenv(VARIABLE, "1000")
    with pytest.raises(UserError, match=r"stream needs 1\.1 GB of main memory, and 1 kB are free"):
        branch(deep, tmp_path, STREAM, f"train.fast={fast}")


def test_offload_on_the_plain_path_says_what_it_does(
    deep: tuple[Config, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch(deep, tmp_path, "train.checkpointing=offload", "train.fast=false", "train.max_steps=1")
    assert "train.checkpointing=offload is as block on the plain path" in " ".join(capsys.readouterr().out.split())
