"""What a run writes, and what stops it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from pipeline.config.schema import Config, Train
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import checkpoint, metrics
from pipeline.training.metrics import Spikes
from pipeline.training.schedule import (
    step_rows,
)
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import (
    branch,
    tokens_of,
    weights,
)


def test_run_leaves_its_traces(finished: tuple[Config, Run]) -> None:
    _, run = finished
    lines = metrics.read(run.root / "metrics.jsonl")
    assert [m["step"] for m in lines if "val_loss" in m] == [0, 3, 6]
    assert [m["step"] for m in lines if "loss" in m] == [1, 2, 3, 4, 5, 6]
    assert (run.root / "loss.png").stat().st_size > 5000
    assert checkpoint.steps(run.folder("checkpoints")) == [5, 6]
    assert run.manifest("adapter")["counts"]["trained_parameters"] == 2 * (4 * (32 + 32) + 4 * (32 + 16))


def test_other_settings_do_not_use_old_checkpoints(base: Path, tmp_path: Path) -> None:
    run = run_to(make_config(tmp_path, base, "train.max_steps=2"), "train", tmp_path)
    first = weights(run)
    run_to(make_config(tmp_path, base, "train.max_steps=2", "train.seed=1"), "train", tmp_path)
    assert any(not torch.equal(t, first[n]) for n, t in weights(run).items())
    state = json.loads((run.folder("checkpoints") / "step-000002" / "state.json").read_text())
    assert state["step"] == 2


def test_infinite_loss_stops_with_the_step(base: Path, tmp_path: Path) -> None:
    words = ("train.lr=1e9", "train.clip=0", "train.max_steps=6", "train.neftune=5")
    with pytest.raises(UserError, match=r"step \d+: loss .*(nan|inf)") as caught:
        run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert caught.value.fix == "lower train.lr or train.neftune, or raise train.warmup"
    assert not (tmp_path / "tiny" / "adapter").exists()
    tokens = tokens_of(Run(tmp_path / "tiny"))
    step = int(caught.value.what.split("step ")[1].split(":")[0]) - 1
    names = tokens.names_of(step_rows(step, len(tokens), Train(batch_size=8)))
    assert f"step's rows: {', '.join(names)}" in caught.value.what


def test_experts_are_not_dropped_out(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", model_type="mixtral", num_local_experts=2)
    with pytest.raises(UserError, match="mixtral") as caught:
        run_to(make_config(tmp_path, base, "train.max_steps=1", "adapter.targets=[all-linear]"), "train", tmp_path)
    assert (caught.value.where, "set adapter.dropout=0" in caught.value.fix) == ("adapter.dropout", True)


def test_a_tokenizer_that_stock_transformers_would_not_read_stops_before_training(tmp_path: Path) -> None:
    """For some types of models AutoTokenizer builds the tokenizer anew, whatever tokenizer.json says."""
    base = make_base(tmp_path / "base", model_type="qwen2", vocab_size=512)
    config = make_config(tmp_path, base, "train.max_steps=1")
    with pytest.raises(UserError, match="stock transformers") as caught:
        run_to(config, "train", tmp_path)
    assert "Qwen2Tokenizer" in caught.value.fix
    assert not (tmp_path / "tiny" / "checkpoints").exists()
    AutoTokenizer.from_pretrained(base).save_pretrained(base)  # one of that type's own
    assert run_to(config, "train", tmp_path).manifest("adapter") is not None


def test_rows_that_the_model_does_not_see(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", max_position_embeddings=64)
    with pytest.raises(UserError, match=" 64") as caught:
        run_to(make_config(tmp_path, base), "train", tmp_path)
    assert caught.value.where == "prompt.cutoff"


def test_a_spike_names_its_rows(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = itertools.count(1)
    monkeypatch.setattr(Spikes, "is_spike", lambda *_: next(steps) == 2)
    run = branch(finished, tmp_path, "train.max_steps=3")
    tokens = tokens_of(run)
    named = {m["step"]: m["spike"] for m in metrics.read(run.root / "metrics.jsonl") if "spike" in m}
    assert named == {2: tokens.names_of(step_rows(1, len(tokens), Train(batch_size=8)))}
    assert "the loss jumped to" in " ".join(capsys.readouterr().out.split())
