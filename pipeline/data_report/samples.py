"""Rows to read, sampled by content hash from every split, source and language, and for every rule that acted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data_report.rows import HashSample, content_hash, read
from pipeline.dataset.read.tool_calls import text_of
from pipeline.dataset.select.decide import LEFT_OUT

ROWS = 200  # drawn from the rows that stay
PER_RULE = 6  # drawn for each rule, once from rejected and once from changed rows
CLUSTERS = 40  # drawn from the duplicates, beside the largest
FIELDS = ("instruction", "input", "output")


@dataclass
class Sample:
    """A row as the page shows it. split: also `rejected` and `left-out`. size: tokens or characters of the row and of
    its answer, where known."""

    split: str
    source: str
    language: str
    task: str
    place: str
    texts: dict[str, Any]
    rules: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None


@dataclass
class Pool:
    """Collects samples while the splits are read.

    Attributes:
        wanted: ids of rows that a rule changed, drawn beforehand from changes.jsonl.
        changes: what rules did, by id, for rows that may be shown.
    """

    wanted: set[str] = field(default_factory=set)
    changes: defaultdict[str, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    _rows: dict[tuple[str, str, str], HashSample[tuple[str, Sample]]] = field(default_factory=dict)
    _changed: dict[str, Sample] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Pool:
        """Samples the changed rows first, so that one pass over the splits finds them."""
        samples: defaultdict[str, HashSample[str]] = defaultdict(lambda: HashSample(PER_RULE))
        for change in read(folder / "changes.jsonl"):
            samples[str(change.get("rule"))].add(change["id"], change["id"])
        return cls({id for sample in samples.values() for id in sample.drawn()})

    def add(self, split: str, row: Mapping[str, Any], size: tuple[int, int] | None = None) -> None:
        """Offers a row of a split to the sample."""
        stratum = (split, str(row["source"]), str(row["language"]))
        sample = self._rows.get(stratum)
        if sample is None:
            sample = self._rows[stratum] = HashSample(ROWS)
        if row["id"] in self.wanted and row["id"] not in self._changed:
            self._changed[row["id"]] = _sample(split, row, size)
        if sample.wants(row["id"]):
            sample.add(row["id"], (row["id"], _sample(split, row, size)))

    def drawn(self, folder: Path) -> list[Sample]:
        """Samples of the splits, the same number from each stratum where it has so many; then rejected rows."""
        chosen = dict(self._changed)
        queues = [lottery.drawn() for _, lottery in sorted(self._rows.items())]
        for turn in range(ROWS):
            for queue in queues:
                if turn < len(queue) and len(chosen) < ROWS + len(self._changed):
                    chosen.setdefault(*queue[turn])
        for change in read(folder / "changes.jsonl"):
            sample = chosen.get(change["id"])
            if sample is not None and change["rule"] not in sample.rules:
                sample.rules.append(change["rule"])
                sample.notes.append(f"{change['action']} by {change['rule']}: {change.get('reason', '')}")
        order = sorted(chosen.items())  # by id, which is a hash: parts and sources mixed
        return [sample for _, sample in order] + rejected(folder / "rejected.jsonl")


def rejected(path: Path) -> list[Sample]:
    """A few rejected rows of each rule; those over a limit are called left out."""
    by_rule: defaultdict[str, HashSample[dict[str, Any]]] = defaultdict(lambda: HashSample(PER_RULE))
    for row in read(path):
        by_rule[str(row.get("rule"))].add(content_hash([row.get("place"), row.get("source")]), row)
    samples = []
    for rule, sample in sorted(by_rule.items()):
        split = "left-out" if rule in LEFT_OUT else "rejected"
        for row in sample.drawn():
            texts = row.get("row")
            shown = shown_texts(texts) if isinstance(texts, dict) else {}
            samples.append(
                Sample(
                    split, str(row.get("source", "")), str(_of(texts, "language")), str(_of(texts, "task")),
                    str(row.get("place", "")), shown or {"row": texts}, [rule], [str(row.get("reason", ""))],
                )
            )  # fmt: skip
    return samples


def clusters(folder: Path, largest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of duplicates to read: the largest, then some by content hash, groups of near duplicates first."""
    near: HashSample[dict[str, Any]] = HashSample(CLUSTERS)
    other: HashSample[dict[str, Any]] = HashSample(CLUSTERS // 2)
    seen = {_of(cluster.get("kept"), "place") for cluster in largest}
    for cluster in read(folder / "duplicates.jsonl"):
        kept = cluster.get("kept") or {}
        if kept.get("place") not in seen:
            sample = near if any(row.get("kind") != "exact" for row in cluster.get("rows", ())) else other
            sample.add(content_hash([kept.get("place"), kept.get("id")]), {**cluster, "size": 1 + len(cluster["rows"])})
    return [*largest, *near.drawn(), *other.drawn()]


def _sample(split: str, row: Mapping[str, Any], size: tuple[int, int] | None) -> Sample:
    texts = {name: text for name, text in shown_texts(row).items() if text or name != "input"}
    return Sample(split, str(row["source"]), str(row["language"]), str(row.get("task", "")), "", texts, size=size)


def shown_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of a row by field, of a conversation by the numbers of its turns; empty if it has neither."""
    system = {"system": row["system"]} if row.get("system") else {}
    turns = row.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "role" in turn for turn in turns):
        fields = {name: row[name] for name in FIELDS if name in row}
        return system | fields if fields else {}
    shown = dict(system)
    for number, turn in enumerate(turns, 1):
        calls = [text_of(turn["tool_calls"])] if turn.get("tool_calls") else []
        mark = ", no loss" if turn.get("weight") == 0 else ""
        shown[f"{number}. {turn['role']}{mark}"] = "\n".join(filter(None, (str(turn.get("content") or ""), *calls)))
    return shown


def characters(row: Mapping[str, Any]) -> tuple[int, int]:
    """Characters of a row of a split, and of what it teaches: its output, or the answers that carry loss."""
    if "turns" not in row:
        answer = len(row["output"])
        return len(row["instruction"]) + len(row["input"]) + answer + len(row.get("system", "")), answer
    turns = [(turn["role"] == "assistant" and turn.get("weight") != 0, len(turn["content"])) for turn in row["turns"]]
    whole = sum(size for _, size in turns) + len(row.get("system", ""))
    return whole, sum(size for learn, size in turns if learn)


def _of(row: Any, name: str) -> Any:
    return row.get(name) or "" if isinstance(row, dict) else ""
