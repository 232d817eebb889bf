"""Sharded weights on cards: with one card a group of one, with two the losses of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pipeline.ranks.launch import launch
from pipeline.run.folder import Run
from pipeline.training import checkpoint
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import assert_same, losses_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
two_cards = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
COMMON = ("eval.prompts=[]", "eval.rows=2", "train.micro_tokens=400", "train.graphs=false")
FULL, LORA = (*COMMON, "adapter.method=full", "train.lr=1e-3"), (*COMMON, "adapter.dropout=0")
CASES = {
    "full": FULL,
    "full recomputed": (*FULL, "train.checkpointing=block"),
    "full on padded rows": (*FULL, "train.fast=false"),
    "lora": LORA,
    "lora recomputed": (*LORA, "train.checkpointing=block"),
    "lora on padded rows": (*LORA, "train.fast=false"),
    "nf4": (*LORA, "model.quantize=nf4"),
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of more than `block_stream.SMALLEST` bytes, in five blocks: some are not there while others compute."""
    shape = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 5}
    return make_base(tmp_path_factory.mktemp("wide") / "base", **shape)


def trained(base: Path, folder: Path, cards: int, *settings: str) -> Run:
    """A run on so many cards, in this process if it is one."""
    folder.mkdir(exist_ok=True)
    config = make_config(folder, base, *settings)
    if cards == 1:
        return run_to(config, "train", folder)
    launch(cards, ["train", f"--config={folder / 'tiny.yaml'}", *settings])
    return Run(folder / "tiny")


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("case", CASES)
def test_one_card_in_a_group_of_one(wide: Path, tmp_path: Path, case: str, dtype: str, tolerance: float) -> None:
    settings = (*CASES[case], f"model.dtype={dtype}")
    whole = trained(wide, tmp_path / "whole", 1, *settings, "train.shard=none")
    sharded = trained(wide, tmp_path / "sharded", 1, *settings, "train.shard=full")
    assert losses_of(sharded) == pytest.approx(losses_of(whole), rel=tolerance)
    assert not torch.distributed.is_initialized()


def test_gathered_blocks_are_the_same_bytes(wide: Path, tmp_path: Path) -> None:
    """In 4 bits adapters have no columns behind the weights with or without, so the run is the same to the bit."""
    settings = (*LORA, "model.quantize=nf4", "model.dtype=bf16")
    runs = [trained(wide, tmp_path / way, 1, *settings, f"train.shard={way}") for way in ("none", "full")]
    assert_same(*runs)
    assert losses_of(runs[0]) == losses_of(runs[1])


def test_an_export_of_a_sharded_run(wide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = (*FULL, "model.dtype=bf16", "train.shard=full")
    trained(wide, folder, 1, *settings)
    run = run_to(make_config(folder, wide, *settings), "export", folder)
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(run.folder("export")).dtype == torch.bfloat16


@two_cards
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("case", CASES)
def test_two_cards_learn_what_one_does(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, dtype: str, tolerance: float
) -> None:
    settings, losses = (*CASES[case], f"model.dtype={dtype}", "train.shard=full"), []
    for cards in (1, 2):
        folder = tmp_path / str(cards)
        monkeypatch.setenv("RUNS", str(folder))
        losses.append(losses_of(trained(wide, folder, cards, *settings)))
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


@two_cards
def test_a_run_goes_on_with_another_number_of_cards(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two, then one, then two again."""
    settings = (*FULL, "model.dtype=fp32", "train.keep=9", "train.shard=full")
    monkeypatch.setenv("RUNS", str(tmp_path / "alone"))
    alone = trained(wide, tmp_path / "alone", 1, *settings)
    folder = tmp_path / "run"
    monkeypatch.setenv("RUNS", str(folder))
    for cards, last in ((2, 2), (1, 4), (2, 6)):
        run = trained(wide, folder, cards, *settings)
        if last < 6:
            shutil.rmtree(run.folder("adapter"))
            for step in checkpoint.steps(run.folder("checkpoints")):
                if step > last:
                    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), step))
    assert losses_of(run) == pytest.approx(losses_of(alone), rel=1e-5)
