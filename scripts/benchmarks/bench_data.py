"""Measures the data stage: `python -m scripts.benchmarks.bench_data FOLDER [CASE ...]`.

docs/benchmarks.md says what FOLDER holds.

Cases: whole (52,002 rows: rules, duplicates, contamination, split, report), growth (1, 4 and 16 times as many rows),
novelty (against rouge_score's algorithm), tokens (LLaMA). Without a case: all of them, about ten minutes on two cores.
Each case runs as a separate command; memory is the largest sum over its processes.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.command import guarded
from pipeline.dataset.select.novelty import filter_novel
from pipeline.dataset.select.rouge_tokens import tokens
from pipeline.run.errors import UserError

Table = list[tuple[str, str, str]]  # what, seconds or number, memory
SAMPLE = 2000  # instructions that the reference is run on
CHANGED = 4  # in copies of the data one of so many words is replaced


def whole(data: Path, work: Path) -> Table:
    """Everything `make data` does without a base model, on the real rows."""
    config = _config(data, work, "whole", data / "alpaca_data.json")
    seconds, memory = _run(["scripts.data", "--config", str(config)], work)
    report = json.loads((work / "runs/whole/dataset/report.json").read_text())
    return [(f"whole: {report['read']:,} rows, rules, duplicates, contamination, split, report", seconds, memory)]


def growth(data: Path, work: Path) -> Table:
    """The data stage alone on the rows and on copies with changed words."""
    lines: Table = []
    for times in (1, 4, 16):
        source = work / f"rows{times}.jsonl"
        count = write_rows(data / "alpaca_data.json", source, times=times)
        config = _config(data, work, f"growth{times}", source)
        seconds, memory = _run(["scripts.benchmarks.bench_data", "--stage", str(config)], work)
        lines.append((f"data stage: {count:,} rows", seconds, memory))
        source.unlink()
    return lines


def novelty(data: Path, work: Path) -> Table:
    """Our filter on all instructions, the reference on a sample, and whether the decisions on it are the same."""
    rows = [tokens(row["instruction"], "en") for row in json.loads((data / "alpaca_data.json").read_text())]
    started = time.perf_counter()
    kept = int(filter_novel(rows, 0.7).kept.sum())
    ours = time.perf_counter() - started
    # Half of the sample are changed copies of the other half, so that some rows are dropped.
    rng = random.Random(1)
    half = rng.sample(rows, SAMPLE // 2)
    sample = [*half, *(_changed(row, rng) for row in half)]
    started = time.perf_counter()
    theirs = _reference(sample)
    pairs = sum(theirs[:i].count(True) for i in range(len(sample)))
    rate = pairs / (time.perf_counter() - started)
    same = filter_novel(sample, 0.7).kept.tolist() == theirs
    needed = kept * (kept - 1) / 2 / rate
    return [
        (f"novelty: {len(rows):,} instructions, {kept:,} kept", f"{ours:.1f} s", ""),
        (f"  reference, {rate:,.0f} pairs a second on {SAMPLE:,} rows, would take", f"{needed / 3600:.1f} h", ""),
        ("  times as fast", f"{needed / ours:,.0f}", ""),
        (f"  same decisions on the sample ({theirs.count(False)} dropped)", "yes" if same else "NO", ""),
    ]


def _changed(row: list[str], rng: random.Random) -> list[str]:
    return [rng.choice(["some", "other", "words", word]) if rng.random() < 0.3 else word for word in row]


def _reference(rows: Sequence[list[str]]) -> list[bool]:
    """stanford_alpaca's loop with the scoring of rouge_score: a table of common lengths, F = 2PR / (P + R)."""
    kept: list[list[str]] = []
    decisions = []
    for row in rows:
        is_novel = all(_f(other, row) <= 0.7 for other in kept)
        decisions.append(is_novel)
        if is_novel:
            kept.append(row)
    return decisions


def _f(a: list[str], b: list[str]) -> float:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            table[i][j] = table[i - 1][j - 1] + 1 if same else max(table[i - 1][j], table[i][j - 1])
    common = table[-1][-1]
    if not common:
        return 0.0
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall)


def tokenised(data: Path, work: Path) -> Table:
    """The tokens stage with LLaMA's tokenizer on all rows."""
    lines: Table = []
    for join in ("apart", "joint"):
        more = {"model": {"tokenizer": str(data / "llama_tokenizer")}, "prompt": {"join": join}}
        config = _config(data, work, f"tokens-{join}", data / "alpaca_data.json", more)
        _, memory = _run(["scripts.data", "--config", str(config)], work)
        manifest = json.loads((work / f"runs/tokens-{join}/tokens/manifest.json").read_text())
        rows = sum(manifest["counts"][split]["rows"] for split in ("train", "val", "holdout"))
        lines.append((f"tokens stage: {rows:,} rows, LLaMA, join: {join}", f"{manifest['seconds']:.1f} s", memory))
    return lines


CASES: dict[str, Callable[[Path, Path], Table]] = {
    "whole": whole, "growth": growth, "novelty": novelty, "tokens": tokenised,
}  # fmt: skip


def _config(data: Path, work: Path, name: str, source: Path, more: Mapping[str, Any] | None = None) -> Path:
    benchmarks = [
        "eval/arc_easy.jsonl",
        "eval/arc_challenge.jsonl",
        "eval/hellaswag_1000.jsonl",
        "eval/mmlu/*_test.csv",
    ]
    values = {
        "name": name,
        "data": {
            "sources": [{"path": str(source), "language": "en"}],
            "benchmarks": [{"path": str(data / b)} for b in (*benchmarks, "eval/TruthfulQA.csv")],
            "val": 0.02,
        },
        **(more or {}),
    }
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def write_rows(source: Path, target: Path, count: int = 0, times: int = 1) -> int:
    """Writes the rows of `source`, then copies with changed words; returns how many. count: 0 = `times` all rows."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    words = sorted({word for row in rows for word in row["output"].split()})
    rng, count = random.Random(1), count or times * len(rows)
    with open(target, "w", encoding="utf-8") as file:
        for number, row in enumerate(itertools.islice(itertools.cycle(rows), count)):
            changed = {k: _other_words(v, words, rng) for k, v in row.items()} if number >= len(rows) else row
            file.write(json.dumps(changed) + "\n")
    return count


def _other_words(text: str, words: list[str], rng: random.Random) -> str:
    return " ".join(words[int(rng.random() * len(words))] if rng.random() < 1 / CHANGED else w for w in text.split(" "))


def _run(module: list[str], work: Path) -> tuple[str, str]:
    """Seconds and peak memory of a command and all its processes."""
    started = time.perf_counter()
    process = psutil.Popen([sys.executable, "-m", *module], env={**os.environ, "RUNS": str(work / "runs")})
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_memory(p) for p in [process, *_children(process)]))
        time.sleep(0.1)
    if process.returncode:
        raise UserError(f"{' '.join(module)} ended with {process.returncode}", str(work), "see above")
    return f"{time.perf_counter() - started:.1f} s", f"{peak / 2**30:.2f} GiB"


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _stage(config: str) -> None:
    """The data stage alone, for `growth`."""
    from pipeline.config.load import load
    from pipeline.run.folder import Run
    from pipeline.stages import bring_up_to_date

    settings = load(config, model=False)
    bring_up_to_date(settings, Run.of(settings.name), "data")


def main() -> None:
    if sys.argv[1:2] == ["--stage"]:
        return _stage(sys.argv[2])
    if len(sys.argv) < 2 or not Path(sys.argv[1], "alpaca_data.json").is_file():
        raise UserError("name the folder with alpaca_data.json and eval/", "FOLDER", "see docs/benchmarks.md")
    data = Path(sys.argv[1]).resolve()
    cases = sys.argv[2:] or list(CASES)
    if unknown := [c for c in cases if c not in CASES]:
        raise UserError(f"no such case: {unknown[0]}", "CASE", f"there are {', '.join(CASES)}")
    lines: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            lines += CASES[case](data, Path(folder))
    print(f"\n| {'what':76} | {'time':>10} | {'memory':>10} |\n|{'-' * 78}|{'-' * 11}:|{'-' * 11}:|")
    for what, seconds, memory in lines:
        print(f"| {what:76} | {seconds:>10} | {memory:>10} |")
    return None


if __name__ == "__main__":
    raise SystemExit(guarded(main))
