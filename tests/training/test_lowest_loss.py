"""Early stopping, and the weights of the lowest held-out loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config.load import load
from pipeline.config.schema import Train
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.training import checkpoint, metrics
from pipeline.training.lowest_loss import LowestLoss, never_early
from pipeline.training.optimizer_state import Layout
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import assert_same, killed_after

WORDS = (
    "train.lr=0.05", "train.max_steps=8", "train.eval_every=1", "train.save_every=3", "eval.prompts=[]",
    "train.schedule=constant",
)  # fmt: skip


def test_lowest_of_some_losses() -> None:
    lowest = LowestLoss.of(Train(early_stop=2, best=True), {}, rows=1)
    found = [(lowest.add(step, loss), lowest.is_over) for step, loss in enumerate([0.1, 3.0, 2.0, 2.0, float("nan")])]
    assert found == [(False, False), (True, False), (True, False), (False, False), (False, True)]
    assert lowest.state() == {"lowest": {"step": 2, "loss": 2.0, "since": 2}, "best": {"step": 2}}
    assert lowest.counts(4, 9) == {"planned_steps": 9, "best_step": 2, "best_loss": 2.0}
    assert LowestLoss.of(Train(early_stop=2, best=True), lowest.state(), rows=1) == lowest
    assert (lowest.is_before(4), lowest.is_before(2)) == (True, False)


def test_neither_key_leaves_nothing() -> None:
    lowest = LowestLoss.of(Train(), {}, rows=0)
    assert [lowest.add(1, 1.0), lowest.add(2, 2.0), lowest.is_over, lowest.is_before(2)] == [False] * 4
    assert (lowest.state(), lowest.counts(2, 2)) == ({}, {})


@pytest.mark.parametrize(
    ("patience", "between", "total", "said"),
    [
        (3, 0, 100, "the held-out loss is measured 4 times, every 25 steps: set train.eval_every=12"),
        (2, 0, 100, ""),  # at 25, 50 and 75
        (1, 200, 100, "the held-out loss is measured 1 time, every 200 steps: set train.eval_every=25"),
        (5, 1, 6, "the held-out loss is measured 6 times, every step: lower train.early_stop"),
        (5, 1, 7, ""),
        (0, 0, 100, ""),
    ],
)
def test_a_run_that_cannot_end_early_says_what_to_set(patience: int, between: int, total: int, said: str) -> None:
    settings = Train(early_stop=patience, eval_every=between)
    assert never_early(settings, total).partition("since ")[2] == said
    if "eval_every=" in said:
        assert not never_early(Train(early_stop=patience, eval_every=int(said.rpartition("=")[2])), total)


def _rising(monkeypatch: pytest.MonkeyPatch, lowest: int) -> None:
    """Measured losses fall until the step `lowest`, and rise after it."""

    def measure(_: Any, step: int) -> dict[str, Any]:
        return {"step": step, "val_loss": 1.0 + abs(step - lowest) / 10}

    monkeypatch.setattr("pipeline.training.periodic_eval.PeriodicEval.measure", measure)


def test_the_weights_of_the_lowest_loss_are_the_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run_to(make_config(tmp_path, base, "name=two", *WORDS, "train.max_steps=2"), "train", tmp_path)
    _rising(monkeypatch, 2)
    run = run_to(make_config(tmp_path, base, *WORDS, "train.best=true", "train.early_stop=3"), "train", tmp_path)
    counts = run.manifest("adapter")["counts"]
    assert (counts["steps"], counts["planned_steps"], counts["best_step"], counts["best_loss"]) == (5, 8, 2, 1.0)
    assert_same(run, plain)
    last = load_file(run.folder("adapter") / "last" / "adapter_model.safetensors")
    kept = load_file(run.folder("checkpoints") / "step-000005" / "weights.safetensors")
    assert sorted(t.double().sum().item() for t in last.values()) == sorted(
        t.double().sum().item() for t in kept.values()
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "stopped at step 5 of 8: the held-out loss was lowest 3 measurements ago, at step 2: 1.0000" in said
    assert "the weights of step 2 are used" in said


@pytest.mark.parametrize("last", [2, 3, 4])
def test_a_killed_run_keeps_the_same_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """Killed after the checkpoint of the lowest loss, after the next one, and after one in between."""
    _rising(monkeypatch, 2)
    words = (*WORDS, "train.best=true", "train.early_stop=4", "train.keep=1", "train.save_every=1")
    whole = run_to(make_config(tmp_path, base, "name=whole", *words), "train", tmp_path)
    config = make_config(tmp_path, base, *words)
    with killed_after(monkeypatch, last):
        run_to(config, "train", tmp_path)
    run = run_to(config, "train", tmp_path)
    assert_same(run, whole)
    assert [m["step"] for m in metrics.read(run.root / "metrics.jsonl") if "loss" in m] == [1, 2, 3, 4, 5, 6]
    assert run.manifest("adapter")["counts"]["best_step"] == 2


def test_damaged_best_weights_are_a_damaged_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rising(monkeypatch, 1)
    run = run_to(make_config(tmp_path, base, *WORDS, "train.best=true", "train.max_steps=2"), "train", tmp_path)
    root = run.folder("checkpoints")
    path = root / "step-000002" / f"{checkpoint.BEST}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # a hard link of step 1's weights
    path.write_bytes(data)
    assert "best.safetensors is not what was written" in checkpoint.damage(root, 2, Layout({}, {}))


def test_without_held_out_rows_it_is_refused(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\nmodel: {{base: {base}}}\ndata: {{val: 0}}\ntrain: {{early_stop: 2, best: true}}\n")
    with pytest.raises(UserError) as error:
        load(path, [])
    text = str(error.value)
    assert text.count("needs held-out rows, and data.val is 0") == 2
    with pytest.raises(UserError, match="no held-out row that is measured"):
        LowestLoss.of(Train(best=True), {}, rows=0)


@pytest.mark.parametrize("key", ["early_stop=2", "best=true"])
def test_held_out_rows_without_labelled_tokens_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Only the rows that are measured count: here the first two, and the third has labelled tokens."""
    config = make_config(tmp_path, base, *WORDS, "train.eval_rows=2", f"train.{key}")
    val = run_to(config, "tokens", tmp_path).folder("tokens") / "val.arrow"

    def read(path: Path) -> Tokens:
        tokens = Tokens(path)
        if path == val:
            tokens.labels = tokens.labels.copy()
            tokens.labels[: tokens.offsets[2]] = IGNORE
            tokens.labelled[:2] = 0
            assert tokens.labelled[2] > 0
        return tokens

    monkeypatch.setattr("pipeline.training.preflight.Tokens", read)
    with pytest.raises(UserError, match="measured while training has a labelled token") as error:
        run_to(config, "train", tmp_path)
    assert error.value.where == f"train.{key.partition('=')[0]}"


@pytest.mark.parametrize("optimizer", ["adamw8bit", "adafactor"])
def test_other_optimizers_resume_bit_identical(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    words = ("adapter.method=full", "train.max_steps=4", "train.save_every=2", "train.lr=1e-3", "eval.prompts=[]",
             f"train.optimizer={optimizer}")  # fmt: skip
    whole = run_to(make_config(tmp_path, base, "name=whole", *words), "train", tmp_path)
    config = make_config(tmp_path, base, *words)
    with killed_after(monkeypatch, 2):
        run_to(config, "train", tmp_path)
    run = run_to(config, "train", tmp_path)
    assert_same(run, whole)
    end = [
        load_file(r.folder("checkpoints") / "step-000004" / f"{checkpoint.OPTIMIZER}.safetensors") for r in (run, whole)
    ]
    assert end[0].keys() == end[1].keys()
    assert all(torch.equal(tensor, end[1][name]) for name, tensor in end[0].items())
