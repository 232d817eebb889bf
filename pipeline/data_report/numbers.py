"""Everything that the page shows as a number, counted once from the data stage and the tokens stage."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import Config
from pipeline.data_report.lengths import Part, lengths
from pipeline.data_report.rows import Lottery, read
from pipeline.data_report.samples import Pool, Sample, clusters
from pipeline.data_report.verbs import LANGUAGES, SAMPLE
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.select.split import PARTS
from pipeline.dataset.summary import label_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.progress import bar

STEPS = 8  # rules with a step of their own in the flow
SIZES = ((2, 2), (3, 3), (4, 4), (5, 9), (10, 99), (100, None))  # of groups of duplicates


@dataclass
class Found:
    """numbers: all that the page shows as numbers. samples, clusters: rows to look at. instructions, rows: what there
    is to parse, a sample of each language, and how many rows it was drawn from."""

    numbers: dict[str, Any]
    samples: list[Sample]
    clusters: list[dict[str, Any]]
    instructions: dict[str, list[str]]
    rows: dict[str, int]


class _Pass:
    """One pass over the parts: lengths, rows to show, and instructions to parse."""

    def __init__(self, run: Run, sources: Sequence[str]) -> None:
        self.run, self.folder = run, run.folder("dataset")
        self.sources = {label: number for number, label in enumerate(dict.fromkeys(sources))}
        self.pool = Pool.of(self.folder)
        self.draws: defaultdict[str, Lottery[str]] = defaultdict(lambda: Lottery(SAMPLE))
        self.rows: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    def part(self, name: str, tokens: Tokens | None) -> Part:
        """Reads one part. With `tokens` its lengths are those, and the rows over the cutoff that were left out go."""
        part = Part(name)
        names = tokens.names.to_pylist() if tokens is not None else []
        at, last = 0, ""
        for row in read(self.folder / f"{name}.jsonl"):
            size: tuple[int, int] | None
            size = len(row["instruction"]) + len(row["input"]) + len(row["output"]), len(row["output"])
            part.add(row["id"], self.sources.setdefault(row["source"], len(self.sources)), *size)
            if tokens is not None:
                encoded = at < len(names) and names[at] == row["id"]
                size = (int(tokens.lengths[at]), int(tokens.labelled[at])) if encoded else None
                at += encoded
            self.pool.add(name, row, size)
            if row["id"] != last:  # with `repeat` the same row comes several times
                self.rows[row["language"]] += 1
                self.draws[row["language"]].add(row["id"], row["instruction"])
            last = row["id"]
        self.lines[name] = len(part.ids)
        if tokens is not None:
            part.measure(tokens)
        return part


def gather(config: Config, run: Run) -> Found:
    """Reads the run folder once. Missing parts of it (tokens, benchmarks, tasks) leave their keys empty."""
    folder = run.folder("dataset")
    report: dict[str, Any] = read_json(folder / "report.json") or {}
    encoded = run.manifest("tokens") is not None
    work = _Pass(run, [label_of(source) for source in report.get("sources", ())])
    parts = []
    with bar(total=sum(int(report.get(name) or 0) for name in PARTS), what="report: rows") as progress:
        for name in PARTS:
            parts.append(work.part(name, _tokens(run, name) if encoded else None))
            progress.update(work.lines[name])
    measured = lengths([p for p in parts if p.ids], list(work.sources), config.prompt.cutoff if encoded else None)
    groups = report.get("duplicates") or {}
    numbers = {
        "name": config.name,
        "seed": config.data.seed,
        **{name: int(report.get(name) or 0) for name in ("read", "kept", "rejected", "left_out", "with_input", *PARTS)},
        "repeats": work.lines["train"] - int(report.get("train") or 0),
        "flow": flow(report),
        **{name: report.get(name) or [] for name in ("sources", "rules", "mix")},
        **{name: report.get(name) or {} for name in ("languages", "tasks", "groups", "contamination")},
        "duplicates": {**{k: v for k, v in groups.items() if k != "largest"}, **_group_sizes(run)},
        "lengths": measured | (_beyond(run) if encoded else {}),
    }
    asked = {language: work.draws[language].drawn() for language in LANGUAGES if language in work.draws}
    shown = clusters(folder, list(groups.get("largest") or ()))
    return Found(numbers, work.pool.drawn(folder), shown, asked, dict(work.rows))


def flow(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps from rows read to rows learnt. kind: total, minus or part; a total is the one before less the minuses."""
    rules = [(r["rule"], int(r.get("rejected") or 0)) for r in report.get("rules", ()) if r.get("rejected")]
    faults = [(rule, n) for rule, n in rules if rule not in LEFT_OUT]
    left = [(rule, n) for rule, n in rules if rule in LEFT_OUT]
    read, kept = int(report.get("read") or 0), int(report.get("kept") or 0)
    untold = int(report.get("rejected") or 0) - sum(n for _, n in rules)
    if untold > 0:
        faults.append(("rejected", untold))
    faults.sort(key=lambda step: (-step[1], step[0]))
    few, rest = faults[:STEPS], faults[STEPS:]
    steps = [{"name": "read", "kind": "total", "rows": read}]
    steps += [{"name": rule, "kind": "minus", "rows": n} for rule, n in few]
    if rest:
        steps.append({"name": f"{len(rest)} other rules", "kind": "minus", "rows": sum(n for _, n in rest)})
    if left:
        steps.append({"name": "sound", "kind": "total", "rows": read - sum(n for _, n in faults)})
        steps += [{"name": rule, "kind": "minus", "rows": n} for rule, n in left]
    steps.append({"name": "kept", "kind": "total", "rows": kept})
    return steps + [{"name": name, "kind": "part", "rows": int(report[name])} for name in PARTS if report.get(name)]


def _tokens(run: Run, name: str) -> Tokens | None:
    path = run.folder("tokens") / f"{name}.arrow"
    return Tokens(path) if path.is_file() else None


def _beyond(run: Run) -> dict[str, int]:
    """Rows over the cutoff, which the histogram shows at it, or which were left out, as the tokens stage counted."""
    counts = (run.manifest("tokens") or {}).get("counts", {})
    found = {key: sum((counts.get(part) or {}).get(key, 0) for part in PARTS) for key in ("cut", "rejected", "no_loss")}
    return {"cut": found["cut"], "too_long": found["rejected"], "no_loss": found["no_loss"]}


def _group_sizes(run: Run) -> dict[str, Any]:
    """How large the groups of duplicates are, and how alike near ones are."""
    sizes: Counter[int] = Counter()
    alike: Counter[int] = Counter()
    for cluster in read(run.folder("dataset") / "duplicates.jsonl"):
        sizes[1 + len(cluster["rows"])] += 1
        for row in cluster["rows"]:
            if row.get("kind") == "near":
                alike[min(int(float(row.get("similarity") or 0) * 50 + 1e-9), 49)] += 1
    counted = [
        {"size": f"{low}" if low == high else f"{low}+" if high is None else f"{low} to {high}",
         "groups": sum(n for size, n in sizes.items() if low <= size and (high is None or size <= high))}
        for low, high in SIZES
    ]  # fmt: skip
    last = max((i for i, entry in enumerate(counted) if entry["groups"]), default=-1)
    return {"sizes": counted[: last + 1], "near_similarity": {f"{n / 50:.2f}": alike[n] for n in sorted(alike)}}


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
