"""`make forgetting`: compares means against forgetting on one config: none, rehearsal, L2-SP, EWC, all weights.

    python -m scripts.benchmarks.forgetting [--steps N] [--only none,l2_sp] --config FILE key=value ...

Every variant is a separate run, `forgetting-VARIANT`, from the same base on the same rows, exported and measured like
any other; a finished one is not repeated. Rehearsal rows and EWC's general text are this project's English seed tasks,
which are removed from the config's sources.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.evaluation.general import forgetting
from pipeline.evaluation.results import exact_share
from pipeline.evaluation.scores import shown
from pipeline.run.errors import UserError
from pipeline.run.files import make_folder, read_json, write_text
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.stages import bring_up_to_date
from pipeline.training import metrics

SEEDS = Path("data/seed_tasks.en.jsonl")
COLUMNS = (
    "exact match",
    "unseen tasks",
    "held-out loss",
    "general text",
    "forgetting",
    "beside the first",
    "penalty",
    "training s",
)


def variants(config: Config, text: Path) -> dict[str, tuple[str, ...]]:
    """Overrides of each variant. Strengths are a factor of ten apart; they were not searched."""
    own = [
        source.model_dump(mode="json", exclude_unset=True)
        for source in config.data.sources
        if not source.path.startswith(SEEDS.as_posix().split(".")[0])
    ]
    if not own:
        raise UserError("all sources are seed tasks, which are the rehearsal rows", "data.sources", "name a task")
    task = f"data.sources={json.dumps(own)}"
    with_rehearsal = f"data.sources={json.dumps([*own, {'path': SEEDS.as_posix(), 'rehearsal': True}])}"
    full = ("adapter={method: full}", "train.lr=2e-4")
    ewc = f"train.ewc_data={text}"
    return {
        "none": (task,),
        "rehearsal": (with_rehearsal, "data.rehearsal=0.15"),
        "l2_sp-0.001": (task, "train.l2_sp=0.001"),
        "l2_sp-0.01": (task, "train.l2_sp=0.01"),
        "ewc-1": (task, "train.ewc=1", ewc),
        "ewc-10": (task, "train.ewc=10", ewc),
        "full": (task, *full),
        "full-l2_sp": (task, *full, "train.l2_sp=0.01"),
        "full-ewc": (task, *full, "train.ewc=10", ewc),
    }


def seeds_as_text(path: Path) -> Path:
    """Writes the seed tasks as general text: instruction, input and output of each."""
    rows = [json.loads(line) for line in SEEDS.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = ["\n\n".join(filter(None, (row["instruction"], row["input"], row["output"]))) for row in rows]
    make_folder(path.parent)
    write_text(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    return path


def results_of(run: Run) -> dict[str, Any]:
    """Results of the export: `base` and `tuned`."""
    results: dict[str, Any] = read_json(run.folder("export") / "results.json")
    return results


def row_of(run: Run, first: Run) -> list[str]:
    """A finished run's numbers, in the order of `COLUMNS`. first: run of the table's first row, to compare with."""
    base, tuned = results_of(run)["base"], results_of(run)["tuned"]
    beside = change(results_of(first)["tuned"], tuned) if run != first else ""
    penalties = [m["penalty"] for m in metrics.read(run.root / "metrics.jsonl") if "penalty" in m]
    counts: dict[str, Any] = (run.manifest("adapter") or {})["counts"]

    return [
        exact(tuned, "val"), exact(tuned, "holdout"), f"{tuned['val']['loss']:.3f}", f"{tuned['general']['loss']:.3f}",
        change(base, tuned), beside, f"{penalties[-1]:.3f}" if penalties else "", f"{counts['train_seconds']:.0f}",
    ]  # fmt: skip


def exact(results: dict[str, Any], part: str) -> str:
    """Share of correct answers with its standard error; empty if no row has one correct answer."""
    measured = results.get(part, {})
    return exact_share(measured, ".0%") if "exact" in measured else ""


def change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Change of the loss on general text, with its standard error."""
    change, error = forgetting(before["general"], after["general"])
    return shown(change, error, "+.3f")


def table(runs: dict[str, Run]) -> str:
    """Markdown, with the base in its first line."""
    one = next(iter(runs.values()))
    results = results_of(one)["base"]
    first = [exact(results, "val"), exact(results, "holdout"), f"{results['val']['loss']:.3f}",
             f"{results['general']['loss']:.3f}", "", "", "", ""]  # fmt: skip
    return markdown(COLUMNS, [["base", *first], *([name, *row_of(run, one)] for name, run in runs.items())])


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without empty columns; the first cell of each row is its name."""
    filled = [0, *(n for n in range(1, len(columns) + 1) if any(row[n] for row in rows))]
    lines = [["", *columns], ["---", *["---:"] * len(columns)], *rows]
    lines = [[line[n] for n in filled] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arguments(about: str, steps: int) -> argparse.Namespace:
    """The command line of a script that compares short runs: config, steps, only, overrides."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps of each run (default: %(default)s)")
    parser.add_argument("--only", default="", help="some of the variants, with commas between them")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(sys.argv[1:])
    if args.steps < 1:
        raise UserError(f"{args.steps} steps train nothing", "--steps", "give 1 or more")
    return args


def main() -> None:
    args = arguments(__doc__, 60)
    text = seeds_as_text(Run.of("forgetting").root / "general.jsonl")
    chosen = variants(load(args.config, args.overrides), text)
    if args.only:
        if unknown := set(args.only.split(",")) - set(chosen):
            raise UserError(f"no such variant: {', '.join(sorted(unknown))}", "--only", f"one of {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in args.only.split(",")}
    # All configs are checked before the first run.
    configs: dict[str, Config] = {}
    for name, overrides in chosen.items():
        common = (f"train.max_steps={args.steps}", f"train.save_every={args.steps}", "export.min_eos=0",
                  f"name=forgetting-{name}")  # fmt: skip
        configs[name] = load(args.config, (*common, *args.overrides, *overrides))  # variants override the command line
    runs = {}
    for name, config in configs.items():
        say(f"--- {name}")
        runs[name] = Run.of(config.name)
        bring_up_to_date(config, runs[name], "export")
    say("\n" + table(runs))


if __name__ == "__main__":
    raise SystemExit(guarded(main))
