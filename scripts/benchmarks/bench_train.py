"""Measures training on one GPU: `python -m scripts.benchmarks.bench_train DATA TOKENIZER [CASE ...]`, or `make bench`.

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. Weights are random (speed does not
depend on them), the rows are real, cut at 512, LoRA r=16 on all linear layers (`full`: every weight is trained, under
autocast), an optimizer step per micro-batch. `bench_cases.py` lists the cases, this project's and its peers'; those of
a library that replaces parts of others run in a separate process (`bench_worker.py`).

tok/s counts the rows' own tokens: padding and shared preambles are not counted twice. Each case: steps until they are
steady, then timed ones (`steady.py`), the card waited for after each; tok/s and ms are medians, with the quartiles of
tok/s. `~`: the steps never became steady. `mean`: all tokens by all seconds, which is fairer where steps differ much,
as with padded rows. `of products`: the share of what matrix products alone allow (4 FLOPs a parameter and token, 6 with
`full`, at the rate of large bf16 products on this card, measured first): shared preambles and fp8 can exceed it.
`row losses`: six fixed rows in one micro-batch, their losses before the first step, and the largest difference from
this project's bf16 case: bf16's rounding if the peer computes the same work (`!` if more).

Everything is written to runs/bench.json too, after each process, from which `bench_results.py` makes what the pages
quote. Environment variable COMMIT: the commit of a copy without .git.
`--more` keeps the cases of an earlier call with the same commit, machine and libraries, which is for short calls.
With `--profile CASE ...` each case writes a trace and prints its ten largest kernels instead, each counted once.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, write_json
from pipeline.run.folder import Run
from pipeline.run.versions import commit
from pipeline.stages import bring_up_to_date
from scripts.benchmarks.bench_call import check_places, machine
from scripts.benchmarks.bench_cases import CASES, UNSLOTH, default_cases
from scripts.benchmarks.bench_results import THEN, table

RESULTS = Path("runs/bench.json")
LIBRARIES = ("torch", "transformers", "peft", "triton", "liger-kernel", "unsloth", "bitsandbytes")
PROCESSES = ("liger", "stock", "unsloth")  # in this order: `stock` writes the weights that Unsloth loads


def encoded(data: str, tokenizer: str, work: Path) -> tuple[Tokens, list[list[int]]]:
    """The rows of a file, encoded with Alpaca's template, and what they begin with. work: where the files go."""
    as_published = {"sources": [{"path": data}], "clean": "none", "duplicates": {"exact": False, "near": 0}}
    prompt = {"template": "alpaca", "join": "joint", "mask_prompt": True}
    values = {"name": "bench", "model": {"tokenizer": tokenizer}, "data": as_published, "prompt": prompt}
    config = Config.model_validate(values)
    run = Run(work / "bench")
    bring_up_to_date(config, run, "tokens")
    encoder = encoder_of(config.prompt, Path(tokenizer), config.model.add_tokens)
    return Tokens(tokens_file(work)), encoder.preambles()


def tokens_file(work: Path) -> Path:
    """Where `encoded` writes the rows."""
    return Run(work / "bench").folder("tokens") / "train.arrow"


def run_cases(
    names: Sequence[str], data: str, tokenizer: str, profile: bool, keep: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Measures the cases, each library in its process.

    Args:
        keep: gets the records of all cases so far, in the order of the names, after each case.

    Raises:
        UserError: a process ended without its results.
    """
    records = {
        name: {"name": name, "failed": f"not installed: {how}"} for name in names if (how := CASES[name].missing())
    }
    wanted = [name for name in names if name not in records]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        _, preambles = encoded(data, tokenizer, folder)
        shapes = {CASES[name].shape for name in wanted if CASES[name].how == UNSLOTH}
        weights = {shape: str(folder / f"base-{shape}") for shape in sorted(shapes)}
        results = folder / "results.jsonl"

        def collect() -> None:
            text = results.read_text() if results.is_file() else ""
            found = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]  # not a line in the making
            if any(record["name"] not in records for record in found):
                records.update((record["name"], record) for record in found)
                keep([dict(records[name]) for name in names if name in records])

        keep([dict(records[name]) for name in names if name in records])
        for process in PROCESSES:
            plan = {
                "cases": [name for name in wanted if CASES[name].process == process], "profile": profile,
                "tokens": str(tokens_file(folder)), "preambles": preambles, "results": str(results), "weights": weights,
                "save": weights if process == "stock" else {},
            }  # fmt: skip
            if plan["cases"] or plan["save"]:
                _run(process, plan, folder, collect)


def _run(process: str, plan: dict[str, Any], folder: Path, collect: Callable[[], None]) -> None:
    """collect: takes over the results so far, so that those of a call that is cut off are kept."""
    path = folder / f"{process}.json"
    path.write_text(json.dumps(plan))
    words = [sys.executable, "-m", "scripts.benchmarks.bench_worker", str(path), process]
    with subprocess.Popen(words) as worker:
        while worker.poll() is None:
            time.sleep(1)
            collect()
    collect()
    if worker.returncode:
        message = f"the process of the {process} cases ended with code {worker.returncode}"
        raise UserError(message, ", ".join(plan["cases"]), "its last lines say why; name the cases that work")


def described(records: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """The whole call, as `bench_results.py` describes it."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    products = [record.pop("products") for record in records if "products" in record]
    return {
        "machine": machine(), "versions": versions,
        "commit": os.environ.get("COMMIT") or commit() or "unknown", "date": datetime.date.today().isoformat(),
        "command": command_of([word for word in sys.argv[1:] if word != "--more"]), "rows": rows,
        "products": products[0] if products else 0.0, "cases": records,
    }  # fmt: skip


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Both calls as one, in the order of `CASES`; a case that both have is taken from the later one.

    Raises:
        UserError: they differ in more than their cases.
    """
    in_both = before["versions"].keys() & now["versions"].keys()
    known = [{**call, "versions": {name: call["versions"][name] for name in in_both}} for call in (before, now)]
    for name in ("commit", "machine", "versions", "rows"):
        if known[0][name] != known[1][name]:
            what = f"the cases there have another {name}: {before[name]}, not {now[name]}"
            raise UserError(what, str(RESULTS), "leave --more away, which measures anew")
    cases = {case["name"]: case for one in (before, now) for case in one["cases"]}
    command = before["command"] if not now["cases"] else before["command"] + THEN + now["command"]
    versions = {**before["versions"], **now["versions"]}
    return {**now, "command": command, "versions": versions, "products": before["products"] or now["products"],
            "cases": [cases[name] for name in CASES if name in cases]}  # fmt: skip


def command_of(words: Sequence[str]) -> str:
    """The `make bench` of these words, without folders, which are this machine's."""
    cases = " ".join(shlex.quote(word) for word in words[2:])
    named = f"make bench DATA={Path(words[0]).name} TOKENIZER={Path(words[1]).name}"
    return f'{named} CASES="{cases}"' if cases else named


def main() -> None:
    words = [word for word in sys.argv[1:] if word not in ("--profile", "--more")]
    check_places(words, "[CASE ...]")
    names = words[2:] or default_cases(torch.cuda.is_available())
    if unknown := [w for w in names if w not in CASES]:
        raise UserError(f"no such case: {unknown[0]!r}", "CASE", f"there are {', '.join(map(repr, CASES))}")
    rows = len(json.loads(Path(words[0]).read_text(encoding="utf-8")))
    RESULTS.parent.mkdir(exist_ok=True)
    if "--profile" in sys.argv:
        run_cases(names, words[0], words[1], True, lambda records: None)
        return
    before = read_json(RESULTS) if "--more" in sys.argv and RESULTS.is_file() else None

    def keep(records: list[dict[str, Any]]) -> None:
        now = described(records, rows)
        write_json(RESULTS, merged(before, now) if before else now)

    run_cases(names, words[0], words[1], False, keep)
    print(f"\n{table(read_json(RESULTS))}\n\n{RESULTS}: the same for scripts.benchmarks.bench_results")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
