"""Tables of short runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from scripts.benchmarks import forgetting as script
from scripts.benchmarks import methods
from tests.helpers.tiny import make_config


@pytest.mark.parametrize("source", ["{path: families, rows: 40}", "{path: mine.json, limit: 3}"])
def test_every_variant_is_a_config(source: str, tmp_path: Path, base: Path) -> None:
    """On the config's own rows, without those that are rehearsed."""
    given = make_config(
        tmp_path, base, f"data.sources=[{{path: {script.SEEDS}}}, {source}]", "data.val_exact_only=false"
    )
    chosen = script.variants(given, tmp_path / "text.jsonl")
    made = {name: make_config(tmp_path, base, *words) for name, words in chosen.items()}
    own = made["none"].data.sources
    assert own == given.data.sources[1:]
    assert [len(config.data.sources) for config in made.values()] == [1, 2, *[1] * 7]
    assert {name for name, config in made.items() if config.adapter.method == "full"} == {
        "full", "full-l2_sp", "full-ewc"
    }  # fmt: skip
    with pytest.raises(UserError, match="seed tasks"):
        script.variants(make_config(tmp_path, base, f"data.sources=[{{path: {script.SEEDS}}}]"), tmp_path)


def test_tables_leave_out_what_was_not_measured(tuned: tuple[Config, Run], tmp_path: Path) -> None:
    shutil.copytree(tuned[1].root, tmp_path / "run")
    run = Run(tmp_path / "run")
    whole = script.table({"one": run, "two": run}).splitlines()
    assert whole[0].startswith("|  | exact match | unseen tasks | held-out loss |")
    assert whole[4].split(" | ")[1:] == whole[3].split(" | ")[1:]  # the same run, and nothing beside itself
    path = run.folder("export") / "results.json"
    results = json.loads(path.read_text())
    for side in (results["base"], results["tuned"]):
        side.pop("holdout")
        side["val"].pop("exact")
    path.write_text(json.dumps(results))
    for make in (script.table, methods.table):
        head, _, first, second = make({"one": run}).splitlines()
        assert "exact" not in head
        assert "unseen" not in head
        assert head.count("|") == first.count("|") == second.count("|")
        assert f"| {results['tuned']['val']['loss']:.3f} |" in second
