"""What the page shows of a run folder: losses, base against tuned, and example questions. Reads files only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.pages.charts import thinned
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.training import metrics

DATA = Path(__file__).parents[3] / "data"  # of a checkout
LANGUAGES = ("en", "ko")
EXAMPLES, LONGEST_EXAMPLE = 3, 160  # questions of a language; characters of instruction and input
MOST_POINTS = 600


def run_data(config: Config, run: Run) -> dict[str, Any]:
    """Losses by step, and the table of results; empty where the run has none yet."""
    from pipeline.evaluation.results import rows_of_table  # these import torch
    from pipeline.release.card import column_names

    results = read_json(run.folder("export") / "results.json")
    rows: list[tuple[str, str, str]] = []
    if isinstance(results, dict) and "base" in results and "tuned" in results:
        rows = rows_of_table(results["base"], results["tuned"])
    columns = ["", *column_names(config.adapter)]
    return {"run": config.name, "metrics": losses(run), "table": {"columns": columns if rows else [], "rows": rows}}


def losses(run: Run) -> list[dict[str, float]]:
    """`step` and `loss` of at most `MOST_POINTS` points, and `val_loss` of the steps that were measured."""
    lines = metrics.read(run.root / "metrics.jsonl")
    points: dict[float, dict[str, float]] = {}
    for name, some in (("loss", thinned(metrics.points(lines, "loss"), MOST_POINTS)),
                       ("val_loss", metrics.points(lines, "val_loss"))):  # fmt: skip
        for step, value in some:
            points.setdefault(step, {"step": step})[name] = value
    return [points[step] for step in sorted(points)]


def example_questions() -> list[dict[str, str]]:
    """Short questions of the sets that come with Suri, each of another category; none where the sets are missing."""
    chosen = []
    for language in LANGUAGES:
        name = f"questions_{language}.jsonl"
        path = next((folder / name for folder in (Path("data"), DATA) if (folder / name).is_file()), None)
        if path is None:
            continue
        by_category: dict[str, dict[str, str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            length = len(row["instruction"]) + len(row.get("input") or "")
            if length <= LONGEST_EXAMPLE:
                by_category.setdefault(row.get("category", ""), row)
        chosen += [
            {"language": language, "instruction": row["instruction"], "input": row.get("input") or ""}
            for row in list(by_category.values())[:EXAMPLES]
        ]
    return chosen


def finite(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: null in their place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value
