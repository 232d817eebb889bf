"""Trains some steps of a recipe within a limit of the card's memory, as a smaller card would have it.

    python -m scripts.benchmarks.bench_limited CONFIG DATA --gib 15 --steps 20 --folder FOLDER key=value ...

The base has random weights of the config's `model.geometry` and lies in FOLDER, where it is written first (26 GB in 16
bits for 12.8B). DATA: a file of rows; its texts are read as bytes, so rows are long. The limit holds from before the
base is loaded: torch refuses more, and memory that the card has beyond it is not seen. The last line has the peak,
which counts the tensors of the whole process, and the speed without the first five steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.stages import bring_up_to_date
from pipeline.training import metrics
from scripts.benchmarks.bench_call import where
from scripts.benchmarks.random_base import shape_of, write_base

WARM = 5  # steps that are not timed


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("data", help="rows to train on")
    parser.add_argument("--gib", type=float, default=15, help="memory of the card (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--folder", default="/tmp/suri-limited", help="of base and run (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_intermixed_args()


def main() -> None:
    args = options()
    folder = Path(args.folder)
    if not (folder / "base" / "config.json").is_file():
        say(f"writing a base with random weights to {folder / 'base'}")
        write_base(folder / "base", shape_of(args.config), torch.float16)
    config = load(args.config, [
        "name=limited", f"model.base={folder / 'base'}", "model.geometry=null", f"train.max_steps={args.steps}",
        "data.sources=" + json.dumps([{"path": args.data, "limit": 2000}]), "eval.prompts=[]", "eval.rows=1",
        "eval.max_new_tokens=2", "eval.general_windows=1", f"train.save_every={args.steps}",
        f"train.gpu_memory={args.gib}", *args.overrides,
    ])  # fmt: skip
    if args.gib and not torch.cuda.is_available():
        raise UserError("there is no card whose memory could be limited", "--gib", "name --gib 0 to try it on a CPU")
    run = Run(folder / config.name)
    bring_up_to_date(config, run, "train")
    steps = [m for m in metrics.read(run.root / "metrics.jsonl") if "lr" in m]
    counts = (run.manifest("adapter") or {})["counts"]
    timed = steps[WARM:] or steps
    speed = statistics.median(m["tokens"] / m["seconds"] for m in timed)
    say(f"{counts['steps']} steps, loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}, in {counts['dtype']}, "
        f"{counts.get('skipped_steps', 0)} skipped; peak {counts['peak_gib']:.2f} GiB of {args.gib:g}, "
        f"{counts['path']} path, {counts['micro_tokens']:,} tokens at once, {speed:,.0f} tok/s; {where()}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(guarded(main))
