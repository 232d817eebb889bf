"""Any number of ranks learns what one does, from the same rows in the same order."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora.layer import Linear
from safetensors.torch import load_file

from pipeline.config.schema import Config
from pipeline.prompt.batch import PaddedBatch
from pipeline.prompt.encode import IGNORE
from pipeline.run.folder import Run
from pipeline.training import checkpoint, loop, micro_batches, processes
from pipeline.training.schedule import step_rows
from tests.helpers.tiny import make_config, run_to, train_on
from tests.helpers.training_runs import UNDROPPED, assert_close, branch, losses_of, tokens_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")


def tokens_in(finished: tuple[Config, Run], folder: Path) -> Run:
    for stage in ("dataset", "tokens"):
        shutil.copytree(finished[1].folder(stage), folder / "tiny" / stage)
    return Run(folder / "tiny")


@pytest.fixture(scope="module")
def alone(finished: tuple[Config, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return branch(finished, tmp_path_factory.mktemp("alone"), *UNDROPPED)


def test_four_ranks_learn_what_one_does(finished: tuple[Config, Run], alone: Run, tmp_path: Path) -> None:
    tokens_in(finished, tmp_path)
    config = make_config(tmp_path, Path(finished[0].model.base), *UNDROPPED)
    assert_close(train_on(4, config, tmp_path), alone)


def test_two_ranks_on_padded_rows_learn_what_one_does(finished: tuple[Config, Run], alone: Run, tmp_path: Path) -> None:
    tokens_in(finished, tmp_path)
    config = make_config(tmp_path, Path(finished[0].model.base), *UNDROPPED, "train.fast=false")
    assert_close(train_on(2, config, tmp_path), alone, loss=2e-6)


def test_a_run_goes_on_with_another_number_of_ranks(
    finished: tuple[Config, Run], alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Two for two steps, one for two, four for the last two: the rows of each step, its losses and the weights are
    those of a run on one."""
    run = tokens_in(finished, tmp_path)
    config = make_config(tmp_path, Path(finished[0].model.base), *UNDROPPED, "train.keep=9")
    _note_rows(monkeypatch, tmp_path)
    for world, last in ((2, 2), (1, 4), (4, 6)):
        train_on(world, config, tmp_path) if world > 1 else run_to(config, "train", tmp_path)
        if last < 6:  # as if it had been killed after that step
            shutil.rmtree(run.folder("adapter"))
            for step in checkpoint.steps(run.folder("checkpoints")):
                if step > last:
                    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), step))
    said = " ".join(capfd.readouterr().out.split())
    assert "the checkpoint is of 2 processes, and this run has 1: the rows of each step stay the same" in said
    assert "the checkpoint is of 1 process, and this run has 4" in said
    assert "dropout draws other masks" in said
    assert_close(run, alone)

    rows = len(tokens_of(run))
    dealt: dict[tuple[int, int], list[int]] = defaultdict(list)
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        world, step, own = json.loads(line)
        dealt[world, step] += own
    for world, first in ((2, 0), (1, 2), (4, 4)):  # each went on to the end
        for step in range(first, 6):
            assert sorted(dealt[world, step]) == sorted(step_rows(step, rows, config.train))
    assert losses_of(run) == pytest.approx(losses_of(alone), rel=1e-6)


def _note_rows(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Each rank appends the rows that it computes in a step to a file."""
    stock, split = loop.mark, micro_batches.PackedMicroBatches.split
    at = [-1]

    def mark(kind: str, step: int | None = None) -> None:
        at[0] = -1 if step is None else step
        stock(kind, step)

    def noted(path: micro_batches.PackedMicroBatches, rows: list[int], step: int | None = None) -> object:
        if at[0] >= 0:  # else it is the self-check
            with open(folder / "rows.jsonl", "a") as file:
                file.write(json.dumps([int(os.environ.get("WORLD_SIZE", "1")), at[0], list(rows)]) + "\n")
        return split(path, rows, step)

    monkeypatch.setattr(loop, "mark", mark)
    monkeypatch.setattr(micro_batches.PackedMicroBatches, "split", noted)


@pytest.mark.parametrize("shard", ["none", "full"])
def test_an_adapter_that_some_steps_do_not_reach(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str
) -> None:
    """As that of an expert: only some rows pass an adapter, none of step 2, 3 and 5, in step 4 one of one rank. Then
    its weights keep, and AdamW counts no step for them; zeros would decay both."""
    tokens, settings = tokens_of(finished[1]), finished[0].train
    routed = {0: 8, 3: 1, 5: 8}  # step: rows that pass the adapter
    rows = [row for step, count in routed.items() for row in step_rows(step, len(tokens), settings)[:count]]
    _route(monkeypatch, {tokens.row(row)[0].astype(np.int64).tobytes() for row in rows})
    words = ("adapter.dropout=0", "train.fast=false", "train.weight_decay=0.1", "train.keep=9")
    alone = branch(finished, tmp_path / "alone", *words)
    tokens_in(finished, tmp_path)
    two = train_on(2, make_config(tmp_path, Path(finished[0].model.base), *words, f"train.shard={shard}"), tmp_path)
    assert_close(two, alone, weight=1e-6)
    for step in range(1, 7):
        states, wanted = (load_file(checkpoint.folder_of(run.folder("checkpoints"), step) / "optimizer.safetensors")
                          for run in (two, alone))  # fmt: skip
        assert states.keys() == wanted.keys()
        for name, state in wanted.items():
            apart = float((states[name] - state).norm())
            assert apart <= (0 if name.endswith("|step") else 1e-5) * float(state.norm()), f"step {step}: {name}"
        counted = {int(state) for name, state in wanted.items() if name.endswith("|step")}
        assert counted == {step, sum(at < step for at in routed)}


def _route(monkeypatch: pytest.MonkeyPatch, routed: set[bytes]) -> None:
    """While rows are trained, the adapter of one layer computes only these. routed: ids of rows, as bytes."""
    start, loss = micro_batches.PaddedMicroBatches.__init__, micro_batches.PaddedMicroBatches.loss
    stock, layer = Linear.forward, list[Linear]()
    passing: list[torch.Tensor | None] = [None]  # numbers of the rows of a micro-batch; None: all

    def starting(path: micro_batches.PaddedMicroBatches, model: Any, *rest: Any) -> None:
        layer[:] = [next(module for module in model.modules() if isinstance(module, Linear))]
        start(path, model, *rest)

    def routing(path: micro_batches.PaddedMicroBatches, part: PaddedBatch) -> torch.Tensor:
        lengths = (part.labels != IGNORE).cumsum(axis=1).argmax(axis=1) + 1  # the last token has a label
        names = [ids[:length].tobytes() for ids, length in zip(part.ids, lengths, strict=True)]
        passing[0] = torch.tensor([n for n, name in enumerate(names) if name in routed], dtype=torch.long)
        try:
            return loss(path, part)
        finally:
            passing[0] = None

    def forward(module: Linear, x: torch.Tensor) -> torch.Tensor:
        if passing[0] is None or module is not layer[0]:
            return stock(module, x)
        result = module.base_layer(x)
        if not len(passing[0]):
            return result
        return result.index_copy(0, passing[0], stock(module, x[passing[0]]))

    monkeypatch.setattr(micro_batches.PaddedMicroBatches, "__init__", starting)
    monkeypatch.setattr(micro_batches.PaddedMicroBatches, "loss", routing)
    monkeypatch.setattr(Linear, "forward", forward)


def test_every_rank_exchanges_as_often(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their packs: one rank takes a row at a time, and some steps have fewer rows than ranks."""
    tokens_in(finished, tmp_path)
    count, stock = [0], processes.exchanging

    def counted() -> object:
        count[0] += 1
        return stock()

    monkeypatch.setattr(processes, "exchanging", counted)
    agree = loop.agree
    longest = int(tokens_of(finished[1]).lengths.max())

    def unequal(path: micro_batches.PackedMicroBatches, accelerator: object) -> None:
        agree(path, accelerator)
        if os.environ["RANK"] == "1":
            path.micro_tokens = longest

    monkeypatch.setattr(loop, "agree", unequal)
    end = loop.wait_for_all

    def wait(accelerator: object) -> None:
        end(accelerator)  # type: ignore[arg-type]
        (tmp_path / f"count-{os.environ['RANK']}").write_text(str(count[0]))

    monkeypatch.setattr(loop, "wait_for_all", wait)
    rows = len(tokens_of(finished[1]))
    settings = ("adapter.dropout=0", f"train.batch_size={rows - 1}", "train.max_steps=3")
    train_on(3, make_config(tmp_path, Path(finished[0].model.base), *settings), tmp_path)
    counts = {(tmp_path / f"count-{rank}").read_text() for rank in range(3)}
    assert len(counts) == 1
    assert int(counts.pop()) > 9
