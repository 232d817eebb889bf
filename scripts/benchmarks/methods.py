"""`make methods`: every way to adapt a model on one config, in one table.

    python -m scripts.benchmarks.methods [--steps N] [--only lora,ia3] --config FILE key=value ...

Each method is a separate run, `methods-NAME`, in a separate process (for its peak of memory), exported and measured
like any other. A finished run is not repeated, so a stopped call resumes with the next. Learning rates are usual for
each method; they were not searched.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.stages import stale
from scripts.benchmarks.forgetting import arguments, change, exact, markdown, results_of

COLUMNS = ("trained", "share", "training s", "peak GiB", "exact match", "unseen tasks", "held-out loss", "forgetting")
LORA = "r: 16, alpha: 32, targets: [all-linear]"
# Section `adapter` and learning rate of each.
VARIANTS = {
    "none": ("{method: none, shots: 4}", None),
    "lora": (f"{{method: lora, {LORA}}}", 2e-3),
    "lora-plus": (f"{{method: lora, {LORA}, lora_plus: 8}}", 5e-4),
    "rslora": (f"{{method: lora, {LORA}, rslora: true}}", 5e-4),
    "dora": (f"{{method: lora, {LORA}, dora: true}}", 2e-3),
    "pissa": (f"{{method: lora, {LORA}, init: pissa}}", 2e-4),
    "full": ("{method: full}", 1e-4),
    "head": ("{method: head}", 1e-3),
    "norms": ("{method: norms}", 1e-2),
    "ia3": ("{method: ia3}", 1e-2),
    "houlsby": ("{method: houlsby}", 2e-3),
    "pfeiffer": ("{method: pfeiffer}", 2e-3),
    "prefix": ("{method: prefix}", 1e-2),
    "prompt": ("{method: prompt}", 3e-2),
    "ptuning": ("{method: ptuning}", 5e-3),
}


def row_of(run: Run) -> list[str]:
    """A finished run's numbers, in the order of `COLUMNS`."""
    base, tuned = results_of(run)["base"], results_of(run)["tuned"]
    counts = (run.manifest("adapter") or {})["counts"]
    trained, whole = counts.get("trained_parameters", 0), counts.get("parameters", 0)

    return [
        f"{trained:,}", f"{trained / whole:.2%}" if whole else "", f"{counts.get('train_seconds', 0):.0f}",
        f"{counts['peak_gib']:.1f}" if "peak_gib" in counts else "", exact(tuned, "val"), exact(tuned, "holdout"),
        f"{tuned['val']['loss']:.3f}", change(base, tuned),
    ]  # fmt: skip


def table(runs: dict[str, Run]) -> str:
    """Markdown, with the base in its first line."""
    base = results_of(next(iter(runs.values())))["base"]
    first = ["", "", "", "", exact(base, "val"), exact(base, "holdout"), f"{base['val']['loss']:.3f}", ""]
    return markdown(COLUMNS, [["base", *first], *([name, *row_of(run)] for name, run in runs.items())])


def main() -> None:
    args = arguments(__doc__, 74)
    names = args.only.split(",") if args.only else list(VARIANTS)
    if unknown := sorted(set(names) - set(VARIANTS)):
        raise UserError(f"no such variant: {', '.join(unknown)}", "--only", f"some of {', '.join(VARIANTS)}")
    commands, configs = {}, {}
    for name in names:  # all are checked before the first one runs
        adapter, rate = VARIANTS[name]
        words = [f"name=methods-{name}", "export.min_eos=0", *args.overrides, f"adapter={adapter}"]
        if rate is None:
            words += ["train.max_steps=0"]
        else:
            words += [f"train.max_steps={args.steps}", f"train.save_every={args.steps}", f"train.lr={rate}"]
        configs[name] = load(args.config, words)
        commands[name] = [sys.executable, "-m", "scripts.export", "--config", args.config, *words]
    runs = run_all(configs, commands)
    if not runs:
        raise UserError("no run succeeded", "make methods", "see the output of each")
    say("\n" + table(runs))
    all_ended_well(configs, runs)


def all_ended_well(configs: Mapping[str, Config], runs: Mapping[str, Run]) -> None:
    """Raises:
    UserError: a variant is not in the table.
    """
    if missing := [name for name in configs if name not in runs]:
        what = f"{len(missing)} of {len(configs)} runs failed: {', '.join(missing)}"
        raise UserError(what, "the table above", "see the output of each; the next call runs only those")


def run_all(configs: Mapping[str, Config], commands: Mapping[str, Sequence[str]]) -> dict[str, Run]:
    """Runs the commands of unfinished variants and prints times; returns the runs that succeeded.

    Args:
        configs, commands: of each variant.
    """
    runs = {name: Run.of(config.name) for name, config in configs.items()}
    left = [name for name, run in runs.items() if stale(configs[name], run)]
    if done := [name for name in runs if name not in left]:
        say(f"finished before: {', '.join(done)}")
    spent: list[float] = []
    for n, name in enumerate(left, 1):
        say(f"--- {name}, {n} of {len(left)}")
        started = time.monotonic()
        failed = subprocess.run(commands[name], check=False).returncode
        spent.append(time.monotonic() - started)
        if failed:
            say(f"--- {name} failed, see above; it is left out of the table")
            del runs[name]
        rest = statistics.mean(spent) * (len(left) - n)
        say(
            f"--- {name}: {spent[-1]:.0f} s"
            + (f"; the other {len(left) - n}: about {rest / 60:.0f} min" if rest else "")
        )
    return runs


if __name__ == "__main__":
    raise SystemExit(guarded(main))
