"""A run folder with every part in it and hostile text in every part, for tests of the run's page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison.winrate import win_rate
from pipeline.config.load import dump
from pipeline.evaluation.answers import Answer, marks
from pipeline.run.files import json_text, write_json, write_text
from pipeline.run.folder import Run
from pipeline.run_report.stage import build
from tests.helpers.report_run import CONFIG, NASTY, make_run

SECRET = "/home/somebody/models/base"
RUN = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"base": SECRET})})


def metrics_lines(steps: int) -> list[dict[str, Any]]:
    """As a training writes them: a look at every tenth step."""
    found: list[dict[str, Any]] = []
    for step in range(steps + 1):
        if step:
            line = {"step": step, "epoch": step / 50, "loss": 0.2 + 2 * math.exp(-step / 20), "lr": 1e-3, "tokens": 900}
            found.append({**line, "learnt": 90, "seconds": 0.5, **({"spike": ["a"]} if step == 7 else {})})
        if step % 10 == 0:
            said = [{"instruction": f"Ask {NASTY}", "expected": "yes", "said": f"step {step} {NASTY}"}]
            found.append({"step": step, "val_loss": 2 - step / 100, "general_loss": 3.0, "samples": said})
    return found


def measured(right: bool) -> dict[str, Any]:
    """What `measure` finds, for one model."""
    said = [Answer(f"Question {n} {NASTY}", "", "yes", "yes" if right and n else f"no {NASTY}", True, task)
            for n, task in enumerate(("c", "a<b>") * 2)]  # fmt: skip
    part = {**marks(said), "rows": 4, "loss": 0.5 if right else 2.0, "said": [a.as_dict() for a in said]}
    part |= {"by_task": {"a<b>": 0.5 * right, "c": 1.0 * right}, "by_group": {}}
    general = {"tokens": 100, "loss": 3.0 + right / 10, "perplexity": 20.0, "sums": [150.0, 150.0 + 10 * right],
               "counts": [50, 50], "by_kind": {"prose<i>": 3.0}}  # fmt: skip
    probes = {name: {"count": int(not right), "of": 5} for name in ("repeats", "language", "echoes", "empty")}
    probes |= {"stops": {"count": 5, "of": 5}}
    prompts = [{"prompt": f"Say {NASTY}", "said": NASTY, "stopped": right}]
    return {"val": part, "holdout": part, "general": general, "probes": probes, "prompts": prompts}


PROBED = {
    "part": "val", "rows": 4, "prompts": 1, "max_new_tokens": 24,
    "probes": {"stops": {"count": 1, "of": 4}, "repeats": {"count": 2, "of": 5}, "as_base": {"count": 0, "of": 5}},
    "warnings": [{"probe": "stops", "said": f"3 of 4 answers {NASTY}", "cause": "few <steps>", "fix": "more & more"}],
    "answers": [{"instruction": "Ask", "input": "", "expected": "yes", "said": NASTY, "stopped": False, "task": "c",
                 "signs": ["repeats"]}] * 2,
}  # fmt: skip
EVAL = {
    "models": {"base": {}, "tuned": {}},
    "rows": [
        {"name": f"arc {NASTY}", "metric": "acc", "base": 0.5, "base_error": 0.02, "tuned": 0.6, "tuned_error": 0.02,
         "change": 0.1, "change_error": 0.01, "better": "up", "n": 500, "note": NASTY},
        {"name": "wikitext", "metric": "perplexity", "base": 20.0, "base_error": None, "tuned": None,
         "tuned_error": None, "change": None, "change_error": None, "better": "down", "n": 5, "note": ""},
    ],
    "command": f"make eval {NASTY}", "versions": {},
}  # fmt: skip

JUDGE = {
    "judge": {"model": f"judge {NASTY}"}, "win_rate": win_rate(["tuned"] * 4 + ["tie"] * 2 + ["base"] * 2),
    "by_set": {}, "by_category": {f"maths {NASTY}": win_rate(["tuned", "base"])}, "consistency": 0.75, "first": 0.5,
}  # fmt: skip


def finish(run: Run) -> Run:
    """Adds to a run with data and tokens all that training, export, benchmarks and judges write."""
    write_text(run.root / "config.yaml", dump(RUN))
    write_text(run.root / "metrics.jsonl", "".join(json_text(line) + "\n" for line in metrics_lines(40)))
    with run.writing("adapter", {"tokens": run.result("tokens"), "train": {"batch_size": 8}}) as out:
        made = {"template": {"id": f"t{NASTY}", "hash": "ab12"}, "base_hash": "cd34", "base": SECRET}
        write_json(out.folder / "suri.json", made)
        write_json(out.folder / "probes.json", PROBED)
        out.counts.update(steps=40, trained_parameters=1000, parameters=5000, train_seconds=75.5, device="cpu")
    with run.writing("export", {"adapter": run.result("adapter")}) as out:
        write_json(out.folder / "results.json", {"base": measured(False), "tuned": measured(True), "warnings": []})
        write_json(out.folder / "suri.json", {"checks": {"reload": f"fine {NASTY}"}})
    for folder, name, value in (
        ("eval", "eval.json", EVAL), ("judge", "judge.json", JUDGE),
    ):  # fmt: skip
        run.folder(folder).mkdir()
        write_json(run.folder(folder) / name, value)
    run.folder("compare").mkdir()
    write_text(run.folder("compare") / "compare page.html", "<p>hello")
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run_report.html of a run with everything, for tests that only look at it."""
    return build(RUN, finish(make_run(tmp_path_factory.mktemp("whole"))))
