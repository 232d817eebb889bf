"""Measures the precision of rules on other data: `python -m scripts.benchmarks.precision hits OUT SET=PATH ...`.

`hits` runs every rule on the sets (any source of `data.sources`) and writes a seeded sample of the hits of each rule,
one a line, with `right: null`. A person reads them and writes true or false. Then
`python -m scripts.benchmarks.precision table OUT` prints the hits, rows read and rows right of each rule and set.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.command import guarded
from pipeline.config.schema import Source
from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.rule import RULES, Cleaner
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.row import check
from pipeline.dataset.read.source import read
from pipeline.run.errors import UserError
from pipeline.run.files import json_text

SAMPLE = 25  # hits that a person reads, of each rule and set
LONGEST = 1_500  # characters of a text


def hits_in(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rule and row of every hit; then an empty name with the number of rows as `rows`."""
    cleaner = Cleaner("none", {name: "warn" for name, rule in RULES.items() if not rule.by_source})
    source, count = Source(path=path), 0
    for raw in read(source, seed=0):
        for one in to_alpaca(raw, source):
            example = check(one, source)
            if not isinstance(example, Example):
                continue
            count += 1
            texts = Texts(example.instruction, example.input, example.output)
            for change in cleaner(texts).changes:
                excerpt = {name: text[:LONGEST] for name, text in texts._asdict().items()}
                yield change.rule, {"place": one.place, "reason": change.reason, "seen": change.before, **excerpt}
    yield "", {"rows": count}


def hits(out: Path, sets: Sequence[str], seed: int = 0) -> None:
    """Writes the samples to `out`."""
    with open(out, "w", encoding="utf-8") as file:
        for named in sets:
            name, _, path = named.partition("=")
            if not path:
                raise UserError(f"{named!r} is not NAME=PATH", "SET=PATH", "for example sharegpt=chats.json")
            sample: dict[str, list[dict[str, Any]]] = defaultdict(list)
            total: Counter[str] = Counter()
            rng, rows = random.Random(seed), 0
            for rule, hit in hits_in(path):
                if not rule:
                    rows = hit["rows"]
                    continue
                total[rule] += 1  # reservoir sampling: each hit stays with the same probability
                at = len(sample[rule]) if total[rule] <= SAMPLE else rng.randrange(total[rule])
                sample[rule][at : at + 1] = [hit] if at < SAMPLE else sample[rule][at : at + 1]
            file.write(json_text({"set": name, "rows": rows, "hits": dict(total)}) + "\n")
            for rule in RULES:
                for hit in sample[rule]:
                    file.write(json_text({"set": name, "rule": rule, "right": None, **hit}) + "\n")


def table(judged: Path) -> str:
    """Markdown: a line for each rule and set with a hit."""
    total: dict[tuple[str, str], int] = {}
    right: Counter[tuple[str, str]] = Counter()
    rows_read: Counter[tuple[str, str]] = Counter()
    for line in judged.read_bytes().splitlines():  # of bytes: of text it would also cut at U+2028
        row = json.loads(line)
        if "rule" not in row:
            total.update({(rule, row["set"]): count for rule, count in row["hits"].items()})
        elif row["right"] is not None:
            rows_read[row["rule"], row["set"]] += 1
            right[row["rule"], row["set"]] += row["right"] is True
    lines = ["| rule | set | hits | read | right |", "|---|---|--:|--:|--:|"]
    for key in sorted(total, key=lambda k: (list(RULES).index(k[0]), k[1])):
        lines.append(f"| `{key[0]}` | {key[1]} | {total[key]:,} | {rows_read[key]} | {right[key]} |")
    return "\n".join(lines)


def main() -> None:
    match sys.argv[1:]:
        case ["hits", out, *sets] if sets:
            hits(Path(out), sets)
        case ["table", judged]:
            print(table(Path(judged)))
        case _:
            raise UserError("no such step", "scripts.benchmarks.precision", "hits OUT SET=PATH ..., or table OUT")


if __name__ == "__main__":
    sys.exit(guarded(main))
