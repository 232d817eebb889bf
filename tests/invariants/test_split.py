"""However a step is split into micro-batches, and whatever blocks keep, it is the same step."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Config
from pipeline.model.loss import loss_sum
from pipeline.prompt.batch import PaddedBatch, pad
from pipeline.run.folder import Run
from pipeline.training import checkpoint, metrics
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import (
    UNDROPPED,
    assert_close,
    assert_same,
    branch,
    losses_of,
    out_of_memory,
    tokens_of,
)


def a_batch(rows: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    random_ = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        ids = random_.integers(3, 300, random_.integers(4, 20)).astype(np.int64)
        labels = ids.copy()
        labels[: len(ids) // 2] = -100
        made.append((ids, labels))
    return made


def test_accumulated_is_whole(base: Path) -> None:
    """1 x 8 rows and 8 x 1 row give the same loss and gradients, although rows differ in labelled tokens."""

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = a_batch(8)
    learnt = sum(pad([r]).labelled for r in rows)

    def gradients(groups: list[list[tuple[np.ndarray, np.ndarray]]]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for group in groups:
            loss = loss_sum(model, pad(group)) / learnt
            loss.backward()
            total += float(loss.detach())
        return total, [p.grad.clone() for p in model.parameters()]

    whole, grads = gradients([rows])
    parts, same = gradients([[r] for r in rows])
    assert abs(whole - parts) < 1e-6
    assert max((a - b).abs().max() for a, b in zip(grads, same, strict=True)) < 1e-6


def test_loss_is_cross_entropy_over_labels(base: Path) -> None:
    """Against the plain formula, with padding filled by other ids: padding is known by length, not by id."""

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    rows = a_batch(3, seed=1)
    wanted = 0.0
    for ids, labels in rows:
        log_p = model(input_ids=torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
        wanted -= sum(float(log_p[t - 1, labels[t]].detach()) for t in range(1, len(ids)) if labels[t] != -100)
    batch = pad(rows)
    assert math.isclose(float(loss_sum(model, batch)), wanted, rel_tol=1e-5)
    filled = batch.ids.copy()
    for n, (ids, _) in enumerate(rows):
        filled[n, len(ids) :] = 2  # the end token
    assert float(loss_sum(model, PaddedBatch(filled, batch.labels))) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("how", ["block", "offload"])
def test_what_blocks_keep_changes_nothing(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, how: str
) -> None:
    run = branch(finished, tmp_path, *UNDROPPED, f"train.checkpointing={how}")
    assert_same(run, undropped)
    assert losses_of(run) == losses_of(undropped)
    states = [
        json.loads((r.folder("checkpoints") / "step-000006" / "state.json").read_text()) for r in (run, undropped)
    ]
    assert [state["recompute"] for state in states] == [True, False]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("llama", ("adapter={method: full}", "train.lr=1e-3")),
        ("gpt_neox", ("adapter={r: 4, targets: [query_key_value]}",)),
    ],
    ids=["full", "neox"],
)
def test_what_a_model_s_own_blocks_keep_changes_nothing(
    base: Path, tmp_path: Path, kind: str, words: tuple[str, ...]
) -> None:
    """They go through transformers' checkpointing, packs and all."""
    if kind != "llama":
        base = make_base(tmp_path / "base", model_type=kind, num_key_value_heads=None)
    runs = []
    for way in ("none", "block", "offload"):
        folder = tmp_path / way
        folder.mkdir()
        settings = ("train.max_steps=2", "train.eval_rows=1", "eval.prompts=[]", f"train.checkpointing={way}")
        runs.append(run_to(make_config(folder, base, *words, *settings), "train", folder))
        assert runs[-1].manifest("adapter")["counts"]["path"] == "fast"
        state = json.loads((runs[-1].folder("checkpoints") / "step-000002" / "state.json").read_text())
        assert state["recompute"] == (way != "none")
        assert_same(runs[-1], runs[0])


def test_dropout_does_not_depend_on_what_blocks_keep(finished: tuple[Config, Run], tmp_path: Path) -> None:
    assert_same(branch(finished, tmp_path, "train.checkpointing=block"), finished[1])


def test_out_of_memory_halves_what_goes_through_at_once(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In the middle of a step, whose first half must not count twice."""
    seen = out_of_memory(monkeypatch, range(4, 5))
    run = branch(finished, tmp_path, *UNDROPPED)
    longest = int(tokens_of(run).lengths.max())
    assert seen[:5] == [250] * 5
    assert set(seen[5:]) == {max(125, longest)}
    assert f"out of memory; going on with at most {max(125, longest)} tokens in one pass" in " ".join(
        capsys.readouterr().out.split()
    )
    assert_close(run, undropped)


def test_blocks_keep_less_before_a_run_gives_up(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = out_of_memory(monkeypatch, range(2))
    run = branch(finished, tmp_path, *UNDROPPED)
    assert len(set(seen)) == 2
    state = json.loads((run.folder("checkpoints") / "step-000006" / "state.json").read_text())
    assert state["recompute"]
    assert_close(run, undropped)


@pytest.mark.parametrize("words", [("train.checkpointing=block",), ("train.micro_tokens=300", "train.eval_every=2")])
def test_a_run_goes_on_when_its_steps_are_split_in_another_way(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    """Whoever runs out of memory is told to change just that."""
    config, _ = finished
    shutil.copytree(undropped.root, tmp_path / config.name)
    run = Run(tmp_path / config.name)
    shutil.rmtree(run.folder("adapter"))
    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), 6))
    capsys.readouterr()
    branched = run_to(make_config(tmp_path, Path(config.model.base), *UNDROPPED, *words), "train", tmp_path)
    said = capsys.readouterr().out
    assert "resuming from step 5 of 6" in said
    assert "split anew" in " ".join(said.split())
    assert_close(branched, undropped)


def penalties_of(run: Run) -> list[float]:
    return [m["penalty"] for m in metrics.read(run.root / "metrics.jsonl") if "penalty" in m]


def test_a_penalty_does_not_depend_on_micro_batches_or_path(finished: tuple[Config, Run], tmp_path: Path) -> None:
    settings = ("adapter.dropout=0", "train.l2_sp=10")
    whole = branch(finished, tmp_path / "a", *settings)
    for n, more in enumerate(("train.micro_tokens=250", "train.fast=false")):
        other = branch(finished, tmp_path / str(n), *settings, more)
        assert losses_of(other) == pytest.approx(losses_of(whole), rel=1e-6)
        assert penalties_of(other) == pytest.approx(penalties_of(whole), rel=1e-3)
