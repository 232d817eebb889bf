"""Measures the filters of generated rows: `python -m scripts.benchmarks.bench_filters [ALPACA_DATA.json]`.

Drafts go through all filters one by one, as in `make generate`, until the pool holds 52,000 instructions; then further
candidates are timed: new ones, copies with one changed word, and long ones. English instructions are those of the file,
where one is given; else, and in Korean, they are random walks over the words of the seed tasks. About three minutes.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.command import guarded
from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.request import Draft

POOL = 52_000
TIMED = 1000  # candidates of each kind


def instructions(language: str, file: Path | None) -> Iterator[str]:
    """Instructions without end: of the file first, then made from the words of the seeds."""
    if file is not None:
        yield from (row["instruction"] for row in json.loads(file.read_text(encoding="utf-8")))
    lines = Path(f"data/seed_tasks.{language}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines for text in (json.loads(line)["instruction"], json.loads(line)["output"])]
    after: defaultdict[str, list[str]] = defaultdict(list)
    for words in map(str.split, texts):
        for one, other in itertools.pairwise(words):
            after[one].append(other)
    draw, starts = random.Random(0), sorted(after)
    while True:
        words = [draw.choice(starts)]
        for _ in range(draw.randint(6, 16)):
            jump = draw.random() < 0.25 or words[-1] not in after
            words.append(draw.choice(starts) if jump else draw.choice(after[words[-1]]))
        yield " ".join(words)


def measure(language: str, file: Path | None) -> None:
    """Fills a pool and prints milliseconds a candidate and megabytes."""
    settings = Synthesis(
        method="self-instruct", language=language, seeds=(f"data/seed_tasks.{language}.jsonl",),
        rules={"unclear-instruction": "off", "wrong-language": "off"},
    )  # fmt: skip
    process = psutil.Process()
    filters, source, passed = DraftFilters(settings), instructions(language, file), []
    before, begin, seen = process.memory_info().rss, time.perf_counter(), 0
    output = {"en": "An output of a few words.", "ko": "몇 마디로 된 답입니다."}[language]
    for text in source:
        seen += 1
        if not filters.draft(Draft(text, output=output)).rejected:
            passed.append(text)
        if len(passed) == POOL:
            break
    seconds, memory = time.perf_counter() - begin, (process.memory_info().rss - before) / 1e6
    print(f"{language}: {seen:,} drafts, {POOL:,} passed: {1000 * seconds / seen:.2f} ms a draft, {memory:.0f} MB")
    draw = random.Random(1)
    fresh = [next(source) for _ in range(TIMED)]
    copies = [_changed(text, draw) for text in draw.sample(passed, TIMED)]
    long = [" ".join(draw.sample(passed, 8)) for _ in range(TIMED)]
    for name, candidates in (("new", fresh), ("copies with a changed word", copies), ("eight joined", long)):
        times, rejected = [], 0
        for text in candidates:
            start = time.perf_counter()
            rejected += filters.draft(Draft(text, output=output)).rejected is not None
            times.append(1000 * (time.perf_counter() - start))
        times.sort()
        line = f"mean {sum(times) / len(times):.2f} ms, median {times[len(times) // 2]:.2f}, 99 % {times[-10]:.2f}"
        print(f"{language}: {name}: {line}, most {times[-1]:.2f}; {rejected / len(times):.0%} rejected")


def _changed(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words))] = "zebra"
    return " ".join(words)


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    measure("en", file)
    measure("ko", None)


if __name__ == "__main__":
    guarded(main)
