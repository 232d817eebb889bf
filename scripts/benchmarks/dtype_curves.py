"""Loss curves of one recipe in several types of arithmetic: how far they lie from float32.

    python -m scripts.benchmarks.dtype_curves DATA [--steps N] [--rows N] [--types fp32,bf16,fp16] key=value ...

As `make curves`, with each type in place of each seed and no Trainer: the same rows, order, adapter and settings. For
each type it prints the largest relative distance from float32's curve: of the training loss (running mean of 0.9, as in
loss.png), of each single step, and of the held-out loss. fp16 needs a GPU; bf16 is slow on most CPUs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model.precision import check_card
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.stages import bring_up_to_date
from pipeline.training import metrics
from scripts.benchmarks.bench_call import where
from scripts.benchmarks.curves import parser, words_of
from scripts.benchmarks.loss_curves import Curve, curve, smoothed

REFERENCE = "fp32"


def distance(ours: Curve, theirs: Curve) -> float:
    """The largest |ours - theirs| / theirs over the steps of both. A skipped step of fp16 may lack its loss."""
    return max(abs(ours[step] - theirs[step]) / theirs[step] for step in ours.keys() & theirs.keys())


def table(lines: Mapping[str, list[dict[str, Any]]]) -> str:
    """Markdown. lines: metrics.jsonl of each type."""
    rows = ["| type | running mean of the loss | single steps | held-out loss | skipped steps | tok/s |",
            "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    losses = {name: curve(found, "loss") for name, found in lines.items()}
    held = {name: curve(found, "val_loss") for name, found in lines.items()}
    for name, found in lines.items():
        apart = (
            distance(smoothed(losses[name]), smoothed(losses[REFERENCE])),
            distance(losses[name], losses[REFERENCE]),
            distance(held[name], held[REFERENCE]),
        )
        steps = [m for m in found if "lr" in m]
        skipped = sum("skipped" in m for m in steps)
        speed = sum(m["tokens"] for m in steps) / sum(m["seconds"] for m in steps)
        rows.append(f"| {name} | {' | '.join(f'{x:.2%}' for x in apart)} | {skipped} | {speed:,.0f} |")
    return "\n".join(rows)


def configs_of(args: Any) -> dict[str, Config]:
    """One for each type, all checked before anything runs.

    Raises:
        UserError: float32 is not among the types, a type that this machine lacks, or an invalid setting.
    """
    types = args.types.split(",")
    if REFERENCE not in types:
        raise UserError("the others are compared with float32", "--types", f"add {REFERENCE}")
    words = words_of(args)
    configs = {one: load(args.config, [*words, f"model.dtype={one}", f"name=curves-{one}"]) for one in types}
    for config in configs.values():
        check_card(config.model)
    return configs


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--types", default="fp32,bf16,fp16", help="with commas (default: %(default)s)")
    configs, lines = configs_of(arguments.parse_intermixed_args(sys.argv[1:])), {}
    for name, config in configs.items():
        say(f"--- {name}")
        run = Run.of(config.name)
        bring_up_to_date(config, run, "train")
        lines[name] = metrics.read(run.root / "metrics.jsonl")
    say(f"\n{table(lines)}\n\n{where()}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
