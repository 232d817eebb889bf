"""How long training will take: by an earlier run where one fits, else by a measured product."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.training import duration as durations
from pipeline.training.duration import duration, from_earlier_runs, lines, operations
from pipeline.training.plan import Plan, plan
from tests.helpers.tiny import make_config


def test_by_the_speed_of_an_earlier_run(finished: tuple[Config, Run]) -> None:
    config, run = finished
    found = from_earlier_runs(config.model, config.adapter, 1000.0, run.root.parent)
    assert found is not None
    steps = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    speeds = [s["tokens"] / s["seconds"] for s in steps if "loss" in s][1:]
    slow, _, fast = statistics.quantiles(speeds, n=4)
    assert (found.low, found.high) == (pytest.approx(1000 / fast), pytest.approx(1000 / slow))
    assert not found.is_rough
    assert str(run.root) in found.source


@pytest.mark.parametrize("word", ["adapter.r=2", "model.dtype=bf16", "adapter.last_blocks=1"])
def test_a_run_of_other_settings_says_nothing(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, word: str
) -> None:
    changed = make_config(tmp_path, base, word)
    assert from_earlier_runs(changed.model, changed.adapter, 1000.0, finished[1].root.parent) is None


def test_a_rough_estimate_is_a_range(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "product_speed", lambda config: 1e9)
    config = make_config(tmp_path, base)
    planned = plan(config, {"rows": 80, "tokens": 4000})
    found = duration(config, planned, tmp_path / "runs")
    assert found is not None
    work = operations(config.adapter, planned) * 6 * 8 * 50  # steps, rows a step, tokens a row
    assert (found.low, found.high) == (
        pytest.approx(work / durations.SHARE[1] / 1e9), pytest.approx(work / durations.SHARE[0] / 1e9)
    )  # fmt: skip
    assert found.is_rough
    assert "rough estimate" in lines(planned, found)[0]


def test_operations_of_a_token(base: Path, tmp_path: Path) -> None:
    """Forward 2 a parameter, backward 2 for the blocks that it reaches, 2 a trained one."""
    whole = make_config(tmp_path, base)
    planned = plan(whole, {"rows": 80, "tokens": 4000})
    assert operations(whole.adapter, planned) == 4 * planned.parameters + 2 * planned.trained
    half = make_config(tmp_path, base, "adapter.last_blocks=1")
    assert operations(half.adapter, planned) == 3 * planned.parameters + 2 * planned.trained
    full = make_config(tmp_path, base, "adapter.method=full")
    assert operations(full.adapter, planned) == 6 * planned.parameters


def test_the_speed_of_a_product_is_measured(config: Config) -> None:
    assert durations.product_speed(config.model) > 0


@pytest.mark.parametrize("unknown", ["rows", "tokens", "steps", "trained"])
def test_nothing_is_said_of_what_is_unknown(config: Config, tmp_path: Path, unknown: str) -> None:
    values = {"rows": 10, "tokens": 100, "steps": 2, "trained": 5, unknown: None if unknown != "trained" else 0}
    planned = Plan(
        exact=True, parameters=9, everything=9, weights_gib=0, training_gib=0, checkpoint_gb=0, token_mib=0, **values
    )  # type: ignore[arg-type]
    assert duration(config, planned, tmp_path) is None
    assert lines(planned, None) == []
