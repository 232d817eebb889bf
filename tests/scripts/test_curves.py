"""The same run through Hugging Face's Trainer with stock peft, and through our stages: step by step the same loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model import adapter as adapters
from pipeline.model.base import resolve
from pipeline.model.load import load_base
from pipeline.prompt.tokens import Tokens
from pipeline.training import metrics
from scripts.benchmarks.hf_trainer import stock_model, train_stock
from scripts.benchmarks.loss_curves import OURS, TRAINER, apart, curve, draw, numbers, outside, smoothed, table
from tests.helpers.tiny import make_config, run_to

SETTINGS = ("data.sources=[{path: families, rows: 30}]", "data.holdout=[]", "data.val=8", "adapter.dropout=0",
            "train.batch_size=8", "train.eval_every=2", "train.save_every=6", "train.eval_rows=8",
            "train.warmup=2", "train.epochs=2", "train.lr=5e-2")  # fmt: skip


@pytest.mark.parametrize("more", [(), ("prompt.mask_prompt=false", "train.schedule=linear", "train.weight_decay=0.1")])
def test_trainer_and_the_stages_agree_step_by_step(base: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    config = make_config(tmp_path, base, *SETTINGS, *more)
    run = run_to(config, "train", tmp_path)
    tokens, val = (Tokens(run.folder("tokens") / f"{part}.arrow") for part in ("train", "val"))
    assert len(tokens) % 8, "an epoch should end with a smaller step"
    model = stock_model(config, resolve(config.model))
    start = adapters.trained(
        adapters.attach(
            load_base(config.model, resolve(config.model), config.train.seed), config.adapter, config.train.seed
        )
    )
    assert len(start) == 8
    assert all(torch.equal(start[name], weight) for name, weight in adapters.trained(model).items())
    theirs = train_stock(model, config, tokens, val, tmp_path / "trainer")
    ours = metrics.read(run.root / "metrics.jsonl")
    assert (run.manifest("adapter") or {})["counts"]["path"] == "fast"
    for name, near in (("loss", 1e-5), ("val_loss", 1e-5), ("grad_norm", 1e-5), ("lr", 1e-9)):
        a, b = ([(m["step"], m[name]) for m in lines if name in m] for lines in (ours, theirs))
        assert len(a) == (4 if name == "val_loss" else 6)
        assert [step for step, _ in a] == [step for step, _ in b]
        apart = max(abs(x - y) for (_, x), (_, y) in zip(a, b, strict=True))
        print(f"{name}: {apart:.1e}")
        assert apart < near


def test_points_outside_two_deviations_are_counted() -> None:
    theirs = {1: {0: 2.0, 8: 1.0}, 2: {0: 2.0, 8: 2.0}, 3: {0: 2.0, 8: 3.0}}  # step 8: mean 2, deviation 1
    assert outside(theirs, theirs) == (0, 3, 1.0)  # step 0 has no spread and is not counted
    assert outside({1: {0: 2.5, 8: 4.25}, 2: {0: 2.0, 8: 4.0}}, theirs) == (1, 2, 2.25)
    assert apart({1: {0: 2.5, 8: 4.25}, 2: {0: 2.0, 8: 2.5}}, {1: theirs[1], 2: theirs[2]}) == {0: 0.5, 8: 3.25}


def test_running_mean_starts_at_the_first_loss() -> None:
    assert smoothed(curve([{"step": 1, "loss": 2.0}, {"step": 2, "val_loss": 9.0}, {"step": 2, "loss": 1.0}], "loss")) \
        == pytest.approx({1: 2.0, 2: 1.9})  # fmt: skip


def test_the_numbers_become_a_table_and_a_picture(tmp_path: Path) -> None:
    train = {who: {s: {1: 2.0 + s / 10 + more, 2: 1.5 + s / 10} for s in (1, 2, 3)} for who, more in
             ((TRAINER, 0.0), (OURS, 1e-5))}  # fmt: skip
    found = numbers(train, train, [1e-4, 2e-4, 3e-4])
    assert found["training loss"]["same_seed"]["largest"] == pytest.approx(1e-5)
    assert found["training loss"]["same_seed"]["median_deviation_of_seeds"] == pytest.approx(0.1)
    assert "| held-out loss | 6 | 0 | 1.00 sd |" in table(found)
    draw(tmp_path / "curves.png", train, train)
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
