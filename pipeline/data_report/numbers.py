"""The numbers of the data report, counted in one pass over the results of the data stage and the tokens stage."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data_report.lengths import SplitLengths, lengths
from pipeline.data_report.rows import HashSample, read
from pipeline.data_report.samples import Pool, Sample, characters, clusters
from pipeline.data_report.verbs import LANGUAGES, SAMPLE
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.summary import label_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.files import read_json
from pipeline.run.folder import SPLITS, Run
from pipeline.run.progress import bar

STEPS = 8  # rules with their own step in the flow
SIZES = ((2, 2), (3, 3), (4, 4), (5, 9), (10, 99), (100, None))  # of groups of duplicates


@dataclass
class ReportData:
    """What the data report shows.

    Attributes:
        numbers: as in report.json, without the verbs. samples, clusters: rows and groups of duplicates to read.
        instructions: a sample to parse, by language. rows: how many rows a language has.
    """

    numbers: dict[str, Any]
    samples: list[Sample]
    clusters: list[dict[str, Any]]
    instructions: dict[str, list[str]]
    rows: dict[str, int]


class _SplitReader:
    """Reads the splits: collects lengths, rows to show, and instructions to parse."""

    def __init__(self, run: Run, sources: Sequence[str]) -> None:
        self.run, self.folder = run, run.folder("dataset")
        self.sources = {label: number for number, label in enumerate(dict.fromkeys(sources))}
        self.pool = Pool.of(self.folder)
        self.draws: defaultdict[str, HashSample[str]] = defaultdict(lambda: HashSample(SAMPLE))
        self.rows: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    def read_split(self, name: str, tokens: Tokens | None) -> SplitLengths:
        """Lengths of one split in `tokens`, without rows that the tokens stage left out; else in characters."""
        split = SplitLengths(name)
        kept = tokens.without_parts() if tokens is not None else []
        names = tokens.names_of(kept) if tokens is not None else []
        encoded_rows, last = 0, ""
        for row in read(self.folder / f"{name}.jsonl"):
            whole, answer = characters(row)
            size: tuple[int, int] | None = (whole, answer)
            split.add(row["id"], self.sources.setdefault(row["source"], len(self.sources)), whole, answer)
            if tokens is not None:
                encoded = encoded_rows < len(names) and names[encoded_rows] == row["id"]
                at = kept[encoded_rows] if encoded else 0
                size = (int(tokens.lengths[at]), int(tokens.labelled[at])) if encoded else None
                encoded_rows += encoded
            self.pool.add(name, row, size)
            if row["id"] != last:  # with `repeat` the same row comes several times
                self.rows[row["language"]] += 1
                self.draws[row["language"]].add(row["id"], row["instruction"])
            last = row["id"]
        self.lines[name] = len(split.ids)
        if tokens is not None:
            split.measure(tokens)
        return split


def gather(run: Run, name: str, seed: int, cutoff: int) -> ReportData:
    """Reads the run folder once. Keys of what is missing there (tokens, benchmarks, tasks) stay empty.

    Args:
        name, seed: of the run and of its data, for the page. cutoff: `prompt.cutoff`.
    """
    folder = run.folder("dataset")
    report: dict[str, Any] = read_json(folder / "report.json") or {}
    encoded = run.manifest("tokens") is not None
    reader = _SplitReader(run, [label_of(source) for source in report.get("sources", ())])
    splits = []
    with bar(total=sum(int(report.get(name) or 0) for name in SPLITS), what="report: rows") as progress:
        for split in SPLITS:
            splits.append(reader.read_split(split, _tokens(run, split) if encoded else None))
            progress.update(reader.lines[split])
    measured = lengths([p for p in splits if p.ids], list(reader.sources), cutoff if encoded else None)
    duplicates = report.get("duplicates") or {}
    numbers = {
        "name": name,
        "seed": seed,
        **{
            name: int(report.get(name) or 0) for name in ("read", "kept", "rejected", "left_out", "with_input", *SPLITS)
        },
        "repeats": reader.lines["train"] - int(report.get("train") or 0),
        "flow": flow(report),
        **{name: report.get(name) or [] for name in ("sources", "rules", "mix")},
        **{name: report.get(name) or {} for name in ("languages", "tasks", "groups", "contamination")},
        **{name: report[name] for name in ("conversations",) if name in report},
        "duplicates": {**{k: v for k, v in duplicates.items() if k != "largest"}, **_group_sizes(run)},
        "lengths": measured | (_beyond(run) if encoded else {}),
    }
    instructions = {language: reader.draws[language].drawn() for language in LANGUAGES if language in reader.draws}
    groups_shown = clusters(folder, list(duplicates.get("largest") or ()))
    return ReportData(numbers, reader.pool.drawn(folder), groups_shown, instructions, dict(reader.rows))


def flow(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps from rows read to the splits. kind: total, minus (taken off the total before it) or part (a split)."""
    rules = [(r["rule"], int(r.get("rejected") or 0)) for r in report.get("rules", ()) if r.get("rejected")]
    faults = [(rule, n) for rule, n in rules if rule not in LEFT_OUT]
    left = [(rule, n) for rule, n in rules if rule in LEFT_OUT]
    read, kept = int(report.get("read") or 0), int(report.get("kept") or 0)
    unnamed = int(report.get("rejected") or 0) - sum(n for _, n in rules)
    if unnamed > 0:
        faults.append(("rejected", unnamed))
    faults.sort(key=lambda step: (-step[1], step[0]))
    largest, rest = faults[:STEPS], faults[STEPS:]
    steps = [{"name": "read", "kind": "total", "rows": read}]
    steps += [{"name": rule, "kind": "minus", "rows": n} for rule, n in largest]
    if rest:
        steps.append({"name": f"{len(rest)} other rules", "kind": "minus", "rows": sum(n for _, n in rest)})
    if left:
        steps.append({"name": "sound", "kind": "total", "rows": read - sum(n for _, n in faults)})
        steps += [{"name": rule, "kind": "minus", "rows": n} for rule, n in left]
    steps.append({"name": "kept", "kind": "total", "rows": kept})
    return steps + [{"name": name, "kind": "part", "rows": int(report[name])} for name in SPLITS if report.get(name)]


def _tokens(run: Run, name: str) -> Tokens | None:
    path = run.folder("tokens") / f"{name}.arrow"
    return Tokens(path) if path.is_file() else None


def _beyond(run: Run) -> dict[str, int]:
    """Rows longer than the cutoff, as the tokens stage counted: cut there, left out, or without labelled tokens."""
    counts = (run.manifest("tokens") or {}).get("counts", {})
    rows = {
        key: sum((counts.get(split) or {}).get(key, 0) for split in SPLITS) for key in ("cut", "rejected", "no_loss")
    }
    return {"cut": rows["cut"], "too_long": rows["rejected"], "no_loss": rows["no_loss"]}


def _group_sizes(run: Run) -> dict[str, Any]:
    """Groups of duplicates by size, and rows by similarity to the kept row of their group."""
    sizes: Counter[int] = Counter()
    similarities: Counter[int] = Counter()
    for cluster in read(run.folder("dataset") / "duplicates.jsonl"):
        sizes[1 + len(cluster["rows"])] += 1
        for row in cluster["rows"]:
            if row.get("kind") == "near":
                similarities[min(int(float(row.get("similarity") or 0) * 50 + 1e-9), 49)] += 1
    counted = [
        {"size": f"{low}" if low == high else f"{low}+" if high is None else f"{low} to {high}",
         "groups": sum(n for size, n in sizes.items() if low <= size and (high is None or size <= high))}
        for low, high in SIZES
    ]  # fmt: skip
    last = max((i for i, entry in enumerate(counted) if entry["groups"]), default=-1)
    return {
        "sizes": counted[: last + 1],
        "near_similarity": {f"{n / 50:.2f}": similarities[n] for n in sorted(similarities)},
    }


def share(part: float, whole: float) -> str:
    """A percentage that is never 0 % or 100 % by rounding alone."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 10 or percent > 99 else f"{percent:.0f} %"


def totals(rules: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Rows rejected, fixed and flagged by all rules together."""
    return {name: sum(int(r.get(name) or 0) for r in rules) for name in ("rejected", "fixed", "flagged")}
