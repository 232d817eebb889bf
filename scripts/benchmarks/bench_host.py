"""All lines of the scaling table for one host in one call: first what the model of cost predicts, then measurements.

    python -m scripts.benchmarks.bench_host DATA TOKENIZER --cards=8 [--out=runs/host.md] [--tiny]

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. In this order, each with a limit of
time, so that the following ones are reached:

    predicted   `make plan GPUS=N` of the recipe: step, efficiency, parts, memory with sharded weights
    128, 1024   `bench_scaling`: LoRA on a 7B geometry (random weights), bf16 and fp8, on one card and on all
    full        `bench_sharded`: all weights of 7B, FSDP2
    run         the whole Alpaca-LoRA run from DATA to the adapter, on all cards, base with random weights in fp8

The output of all goes to the screen and, after each part, into `--out`. `--tiny`: small models, on CPUs (gloo) where
there is no card; to try the script.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.command import guarded
from pipeline.ranks.card import card_count, card_name, uses_cpu
from pipeline.run.errors import UserError
from scripts.benchmarks.bench_call import check_places, where
from scripts.benchmarks.bench_shapes import SHAPES

RECIPE = "configs/alpaca-lora-7b.yaml"
MODULE = (sys.executable, "-m")
DEFAULT_OUT = Path("runs/host.md")


@dataclass(frozen=True)
class Part:
    """A command. limit: seconds after which it is ended."""

    name: str
    words: Sequence[str]
    limit: float


def parts_of(data: str, tokenizer: str, cards: int, tiny: bool, work: Path) -> list[Part]:
    """The parts in their order. work: folder of the whole run and its config."""
    rows, kinds, shapes = (("8", "16"), "bf16", ("--tiny",)) if tiny else (("128", "1024"), "bf16,fp8", ())
    counts = f"--cards=1,{cards}"
    recipe = f"--config={_recipe(data, tokenizer, work, tiny)}"
    predicted = [*MODULE, "scripts.plan", recipe, f"--gpus={cards}", "--card=h200"]
    scaling = [*MODULE, "scripts.benchmarks.bench_scaling", data, tokenizer, counts, f"--types={kinds}", *shapes]
    sharded = [
        *MODULE,
        "scripts.benchmarks.bench_sharded",
        data,
        tokenizer,
        f"--cards={cards}",
        "--cases=full",
        *shapes,
    ]
    whole = [*MODULE, "scripts.train", recipe, f"--gpus={cards}"]
    return [
        Part("predicted", predicted, 120),
        *(Part(f"LoRA, {count} rows a step", [*scaling, f"--rows={count}"], 240) for count in rows),
        Part("all weights, FSDP2", [*sharded, f"--rows={rows[0]}"], 180),
        Part("the whole Alpaca-LoRA run", whole, 600),
    ]


def _recipe(data: str, tokenizer: str, work: Path, tiny: bool) -> Path:
    """The published recipe on a base with random weights, as a config."""
    values = yaml.safe_load(Path(RECIPE).read_text(encoding="utf-8"))
    size = "tiny" if tiny else "7b"
    values["name"] = "host"
    values["model"] = {"geometry": SHAPES[size], "tokenizer": str(Path(tokenizer).resolve())}
    if not tiny and not uses_cpu():
        values["model"] |= {"quantize": "fp8"}
    values.setdefault("data", {})["sources"] = [{"path": str(Path(data).resolve())}]
    values["eval"] = {**values.get("eval", {}), "prompts": [], "rows": 16, "max_new_tokens": 2}
    values["data"]["val"] = min(int(values["data"].get("val", 0)), 8 if tiny else 2000)
    if tiny:
        values["train"] = {**values.get("train", {}), "max_steps": 2}
    path = work / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def run(part: Part, out: Path, work: Path) -> None:
    """Runs a part, and adds its output to the file."""
    started, lines = time.perf_counter(), [f"\n## {part.name}\n", "```"]
    print(lines[0], flush=True)
    process = subprocess.Popen(
        part.words, env={**os.environ, "RUNS": str(work / "runs")}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    limit = threading.Timer(part.limit, _end, [process])
    limit.start()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip("\n"))
    code, seconds = process.wait(), time.perf_counter() - started
    limit.cancel()
    how = f"cut off after {part.limit:.0f} s" if seconds >= part.limit else f"exit code {code}"
    lines += ["```", f"{seconds:.0f} s, {how}\n"]
    print(lines[-1], flush=True)
    with out.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines))


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a part with all ranks that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Raises:
    UserError: a word of the command line is wrong, or there are too few cards.
    """
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
    if unknown := options.keys() - {"cards", "out", "tiny"}:
        raise UserError(f"no such option: --{unknown.pop()}", "bench_host", "there is --cards, --out and --tiny")
    check_places(words, page="docs/scaling.md")
    number, tiny = options.get("cards", ""), "tiny" in options
    if not number.isdecimal() or int(number) < 2:
        raise UserError(f"{number!r} is no number of cards above 1", "--cards", "such as --cards=8")
    if uses_cpu() and not tiny:
        raise UserError("no card", "bench_host", "--tiny tries the script on CPUs")
    if not uses_cpu() and int(number) > card_count():
        raise UserError(f"{number} cards, and torch sees {card_count()}", "--cards", "name fewer")
    os.environ["ACCELERATE_USE_CPU"] = "1" if uses_cpu() else ""
    out = Path(options.get("out") or DEFAULT_OUT)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"# {number} cards: {where()}, {card_name(0)}\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for part in parts_of(words[0], words[1], int(number), tiny, Path(folder)):
            run(part, out, Path(folder))
    print(f"all of it: {out}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
