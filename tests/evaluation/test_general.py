"""Forgetting: the loss on general text, its change, and their errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import stages
from pipeline.config.schema import Config, Prompt
from pipeline.evaluation.general import forgetting, general_loss
from pipeline.evaluation.results import rows_of_table
from pipeline.evaluation.scores import ratio
from pipeline.model.load import load_folder
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder
from pipeline.prompt.general_text import BUILT_IN, cut_windows, read_passages
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.folder import Run
from pipeline.training import metrics


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(templates.load("alpaca-short"), Tokenizer(base), Prompt())


def test_ratio_is_the_cluster_estimator() -> None:
    sums, counts = [4.0, 9.0, 2.0], [2, 3, 1]
    mean, error = ratio(sums, counts)
    assert mean == 15 / 6
    rests = np.array([4 - 5, 9 - 7.5, 2 - 2.5])
    assert error == pytest.approx(math.sqrt(3 / 2 * (rests**2).sum()) / 6)
    assert math.isnan(ratio([1.0], [1])[1])
    # Windows of one size: the standard error of a mean.
    values = np.random.default_rng(0).normal(size=50)
    assert ratio((10 * values).tolist(), [10] * 50)[1] == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_error_matches_a_bootstrap() -> None:
    random_ = np.random.default_rng(1)
    counts = random_.integers(20, 256, 60)
    sums = counts * random_.normal(3, 0.5, 60)
    drawn = random_.integers(0, 60, (4000, 60))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    assert ratio(sums.tolist(), counts.tolist())[1] == pytest.approx(means.std(), rel=0.05)


def test_general_loss_is_cross_entropy(base: Path, encoder: Encoder) -> None:
    """Against the plain formula, window by window; the model is left in its mode."""
    model = load_folder(base, torch.float32).train()
    chosen = cut_windows(read_passages(BUILT_IN), encoder, 6, 40)
    found = general_loss(model, chosen)
    assert model.training
    model.eval()
    total = 0.0
    for window, value in zip(chosen, found["sums"], strict=True):
        log_p = model(input_ids=torch.from_numpy(window.ids)[None]).logits[0].double().log_softmax(-1).detach()
        own = -sum(float(log_p[t - 1, window.ids[t]]) for t in range(1, len(window.ids)))
        assert value == pytest.approx(own, rel=1e-5)
        total += own
    assert found["tokens"] == sum(len(w.ids) - 1 for w in chosen) == sum(found["counts"])
    assert found["loss"] == pytest.approx(total / found["tokens"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert set(found["by_kind"]) == {w.kind for w in chosen}
    assert general_loss(model, []) == {}


def test_forgetting_is_the_paired_change() -> None:
    base = {"sums": [10.0, 100.0, 3.0], "counts": [5, 20, 2]}
    assert forgetting(base, base) == (0.0, 0.0)
    # Windows differ much, their changes do not: the error is that of the changes.
    worse = {"sums": [s + 0.5 * n for s, n in zip(base["sums"], base["counts"], strict=True)], "counts": [5, 20, 2]}
    change, error = forgetting(base, worse)
    assert change == pytest.approx(0.5)
    assert error == pytest.approx(0, abs=1e-12)
    assert forgetting(worse, base)[0] == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="other windows"):
        forgetting(base, {"sums": [1.0], "counts": [5]})


def test_every_run_says_it(tuned: tuple[Config, Run]) -> None:
    """In results.json, the table, the card, and while training; base and tuned on the same tokens."""
    _, run = tuned
    results = json.loads((run.folder("export") / "results.json").read_text())
    base, after = results["base"]["general"], results["tuned"]["general"]
    assert base["counts"] == after["counts"]
    assert base["windows"] == 2  # as many as the tiny config asks for
    change, error = forgetting(base, after)
    assert change == pytest.approx(after["loss"] - base["loss"])
    assert change != 0 < error
    table = {what: (before, now) for what, before, now in rows_of_table(results["base"], results["tuned"])}
    assert table["forgetting: change of that loss"] == ("", f"{change:+z.3f} ± {error:.3f}")
    assert table["general text: perplexity"][0] == f"{base['perplexity']:.1f}"
    card = (run.folder("export") / "README.md").read_text()
    assert f"| forgetting: change of that loss |  | {change:+z.3f} ± {error:.3f} |" in card
    lines = metrics.read(run.root / "metrics.jsonl")
    assert [m["step"] for m in lines if "general_loss" in m] == [0, 3, 6]
    assert [m for m in lines if "penalty" in m] == []
    counts = run.manifest("export")["counts"]["general"]
    assert counts.keys() == {"windows", "tokens", "loss", "standard_error", "perplexity"}


def test_another_text_asks_for_another_export_only(tuned: tuple[Config, Run], tmp_path: Path) -> None:
    config, run = tuned
    text = tmp_path / "text.txt"
    text.write_text("Some text.\nAnd some more.\n")
    other = config.model_copy(update={"eval": config.eval.model_copy(update={"general": str(text)})})
    assert stages.stale(config, run) == []
    assert stages.stale(other, run) == ["export"]
    one = stages.BY_NAME["export"].key(other, run)
    text.write_text("Some text.\nAnd much more.\n")
    assert stages.BY_NAME["export"].key(other, run) != one
