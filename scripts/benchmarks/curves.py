"""`make curves DATA=alpaca_data.json`: loss curves of this project compared with Hugging Face's Trainer and peft.

    python -m scripts.benchmarks.curves DATA [--steps N] [--rows N] [--seeds 1,2,3] [--config FILE] key=value ...

The recipe is alpaca-lora's, with a model, a length and a batch that two CPU cores can train; on a GPU name larger ones
(`make curves DATA=... ARGS="--steps 1173 --rows 49942 prompt.cutoff=256 train.batch_size=128 data.val=2000"`). Each
seed, which decides the start of the adapter and the order of rows, is trained twice on the same rows: with Trainer on
padded rows (`hf_trainer.py`), and with the stages of `make train`. A finished run is not repeated. `loss_curves.py`
says how the curves are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model import base as bases
from pipeline.model.adapter import WEIGHTS
from pipeline.model.base.identity import identity
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.files import make_folder, write_json
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.stages import bring_up_to_date
from pipeline.training import metrics
from scripts.benchmarks.bench_call import where
from scripts.benchmarks.hf_trainer import MICRO_ROWS, stock_model, train_stock
from scripts.benchmarks.loss_curves import OURS, TRAINER, curve, draw, numbers, table

# Differences from alpaca-lora's recipe: all sizes, and no dropout, since its masks differ with padding.
SCALED = (
    "model.base=.cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf", "model.dtype=auto", "model.geometry=null",
    "data.val=24", "prompt.cutoff=128", "adapter.dropout=0", "train.batch_size=8", "train.warmup=0.085",
    "train.epochs=1000", "train.accumulation_4_28=0", "train.eval_rows=24", "train.tracker=none",
    "eval.general_windows=1", "eval.max_new_tokens=8",
)  # fmt: skip


def trainer_lines(config: Config, run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl of Trainer's run on the tokens of `run`, saved in its folder `trainer`."""
    settings = {name: config.value(name) for name in ("model", "adapter", "train")}
    key = {"version": 1, "tokens": run.result("tokens"), "base": identity(config.model),
           "micro_rows": MICRO_ROWS, **settings}  # fmt: skip
    if run.is_current("trainer", key):
        say(f"trainer: up to date ({run.folder('trainer')})")
    else:
        run.check("tokens")
        tokens, val = (Tokens(run.folder("tokens") / f"{part}.arrow") for part in ("train", "val"))
        with run.lock(), run.writing("trainer", key) as output, tempfile.TemporaryDirectory() as work:
            model = stock_model(config, bases.resolve(config.model))
            for line in train_stock(model, config, tokens, val, Path(work)):
                metrics.append(output.folder / "metrics.jsonl", line)
            model.save_pretrained(work)
            save_file(load_file(Path(work) / WEIGHTS), output.folder / WEIGHTS)
    return metrics.read(run.folder("trainer") / "metrics.jsonl")


def adapters_apart(run: Run) -> float:
    """|B - B'| / |B'| over all layers, B' Trainer's. B starts at zero, so it is the whole change."""
    ours, theirs = (load_file(run.folder(name) / WEIGHTS) for name in ("adapter", "trainer"))
    names = [name for name in theirs if "lora_B" in name]
    distance = sum(float((ours[n].float() - theirs[n].float()).pow(2).sum()) for n in names)
    return float((distance / sum(float(theirs[n].float().pow(2).sum()) for n in names)) ** 0.5)


def parser(purpose: str | None) -> argparse.ArgumentParser:
    """The words that this command shares with `dtype_curves.py`. purpose: its docstring."""
    parser = argparse.ArgumentParser(description=(purpose or "").split("\n")[0])
    parser.add_argument("data", help="instruction data in Alpaca form")
    parser.add_argument("--config", default="configs/alpaca-lora-7b.yaml", help="the recipe (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=32, help="optimiser steps of each run (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=256, help="rows to train on (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=4, help="held-out losses after the first (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def options() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--seeds", default="1,2,3", help="with commas; one alone is only trained (default: %(default)s)"
    )
    arguments.add_argument("--picture", default="", help="where to draw it (default: runs/curves/curves.png)")
    return arguments.parse_intermixed_args(sys.argv[1:])


def words_of(args: argparse.Namespace) -> list[str]:
    """Overrides of the recipe, without name and seed.

    Raises:
        UserError: no data, or an invalid number.
    """
    if not Path(args.data).is_file():
        raise UserError(f"no such file: {args.data!r}", "DATA", "make curves DATA=alpaca_data.json")
    if min(args.steps, args.looks, args.rows) < 1:
        raise UserError("steps, looks and rows are whole numbers above zero", "--steps ...", "such as --steps 32")
    words = [*SCALED, f"train.max_steps={args.steps}", f"train.save_every={args.steps}",
             f"train.eval_every={max(1, args.steps // args.looks)}", *args.overrides]  # fmt: skip
    limit = args.rows + int(load(args.config, words).data.val)
    return [*words, "data.sources=" + json.dumps([{"path": args.data, "limit": limit}], ensure_ascii=False)]


def configs_of(args: argparse.Namespace) -> dict[int, Config]:
    """One for each seed, all checked before anything runs.

    Raises:
        UserError: no data, no seed, or an invalid setting.
    """
    words, seeds = words_of(args), args.seeds.split(",")
    if not all(seed.strip().isdigit() for seed in seeds):
        raise UserError("seeds are whole numbers", "--seeds ...", "such as --seeds 1,2,3")
    return {s: load(args.config, [*words, f"name=curves-{s}", f"train.seed={s}"]) for s in sorted(map(int, seeds))}


def main() -> None:
    args = options()
    configs = configs_of(args)
    lines: dict[str, dict[int, list[dict[str, Any]]]] = {TRAINER: {}, OURS: {}}
    for seed, config in configs.items():
        run = Run.of(config.name)
        say(f"--- seed {seed}: {OURS}")
        bring_up_to_date(config, run, "train")
        lines[OURS][seed] = metrics.read(run.root / "metrics.jsonl")
        say(f"--- seed {seed}: {TRAINER}")
        lines[TRAINER][seed] = trainer_lines(config, run)
    if len(configs) < 2:
        say("one seed has no spread: give several seeds to compare")
        return
    train, look = ({who: {s: curve(found, name) for s, found in runs.items()} for who, runs in lines.items()}
                   for name in ("loss", "val_loss"))  # fmt: skip
    found = numbers(train, look, [adapters_apart(Run.of(c.name)) for c in configs.values()])
    folder = Run.of("curves").root
    make_folder(folder)
    picture = Path(args.picture or folder / "curves.png")
    draw(picture, train, look)
    write_json(folder / "curves.json", {"found": found, "where": where(), "train": train, "held_out": look})
    say(f"\n{table(found)}\n\n{where()}\n{picture}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
