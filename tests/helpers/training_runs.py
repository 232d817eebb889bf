"""Runs on the tiny base: variants of a run, and comparisons of two."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.training import checkpoint, metrics, self_check
from pipeline.training.micro_batches import MicroBatch, PackedMicroBatches, PaddedMicroBatches
from tests.helpers.tiny import make_config, run_to


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.folder("adapter").glob("*model.safetensors")))


def tokens_of(run: Run) -> Tokens:
    return Tokens(run.folder("tokens") / "train.arrow")


UNDROPPED = ("adapter.dropout=0", "train.micro_tokens=250")


def branch(finished: tuple[Config, Run], folder: Path, *overrides: str) -> Run:
    """A run with other settings on the same tokens, which need not be made again."""
    config, run = finished
    for stage in ("dataset", "tokens"):
        shutil.copytree(run.folder(stage), folder / config.name / stage)
    return run_to(make_config(folder, Path(config.model.base), *overrides), "train", folder)


@contextlib.contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Context in which a run must end right after it has saved the checkpoint of a step."""
    save = checkpoint.save

    def killed(root: Path, number: int, *rest: Any) -> None:
        save(root, number, *rest)
        if number == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(Killed):
            yield


def assert_close(a: Run, b: Run, loss: float = 1e-6, weight: float = 1e-4) -> None:
    """Losses up to `loss` of their size, weights up to `weight` of a tensor's (AdamW blows small gradients up)."""
    assert losses_of(a) == pytest.approx(losses_of(b), rel=loss)
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    apart = {name: float((t - second[name]).norm() / second[name].norm()) for name, t in first.items()}
    assert max(apart.values()) <= weight, apart


def assert_same(a: Run, b: Run) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def losses_of(run: Run) -> list[float]:
    return [m["loss"] for m in metrics.read(run.root / "metrics.jsonl") if "loss" in m]


def penalties_of(run: Run) -> list[float]:
    return [m["penalty"] for m in metrics.read(run.root / "metrics.jsonl") if "penalty" in m]


class Killed(Exception):
    pass


def both_paths(finished: tuple[Config, Run]) -> tuple[PackedMicroBatches, PaddedMicroBatches, list[torch.Tensor]]:
    config, run = finished
    tokens = tokens_of(run)
    model = adapters.attach(load_folder(Path(config.model.base), torch.float32), config.adapter, 1)
    packed = PackedMicroBatches(PackedModel(model, 200), tokens, [], 250)
    return packed, PaddedMicroBatches(model, tokens, Accelerator(cpu=True), 250), list(adapters.trained(model).values())


def out_of_memory(monkeypatch: pytest.MonkeyPatch, calls: range) -> list[int]:
    """The card's memory runs out in these passes; returns the capacities of all of them."""
    counted, stock, seen = itertools.count(), PackedMicroBatches.loss, []

    def loss(path: PackedMicroBatches, part: MicroBatch) -> torch.Tensor:
        seen.append(path.micro_tokens)
        if next(counted) in calls:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return stock(path, part)

    monkeypatch.setattr(PackedMicroBatches, "loss", loss)
    monkeypatch.setattr(self_check, "difference", lambda *_: (0.0, 0.0))
    return seen


QUICK = ("eval.prompts=[]", "eval.rows=1", "train.max_steps=4")


def allow_any_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a CPU train in fp16 and with a base in fp8."""
    for module in ("model.precision", "training.loop"):
        monkeypatch.setattr(f"pipeline.{module}.check_card", lambda _: None)


def copy_run(finished: tuple[Config, Run], folder: Path) -> Run:
    """A copy of a run, to be changed."""
    shutil.copytree(finished[1].root, folder / "tiny")
    return Run(folder / "tiny")
