"""report.json: counts of rows by rule, source and split, made while the rows are read and written."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline.config.schema import Data
from pipeline.dataset.chunk import EXAMPLES, ChunkResult
from pipeline.dataset.clean.rule import RULES
from pipeline.dataset.read.source import labels
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.select.split import group_members
from pipeline.run.folder import SPLITS

TURNS = (2, 3, 5, 7, 9, 13, 21, 51)  # the smallest number of turns in each group of the report
LONGEST = 2000  # characters of a text in the report; the files have the whole
MEANINGS = {
    "duplicate": "Equal to an earlier row, letter case, Unicode form and white space aside.",
    "near-duplicate": "Shares most of its shingles with an earlier row that was kept.",
    "not-novel": "Its instruction is too close (ROUGE-L) to one that was kept.",
    "contaminated": "Holds a question of a benchmark.",
    "limit": "Left out: over its source's limit.",
    "task-limit": "Left out: over data.task_limit for its task.",
    "weight": "Left out so that the sources have the ratio of their weights.",
    "rehearsal": "Left out so that rehearsal has its share.",
    "not-json": "The line could not be parsed.",
    "duplicate-key": "An object names one field twice with different values.",
    "invalid-utf-8": "A text is not UTF-8.",
    "undesired": "A label says that the answer is a bad one (preference data).",
    "call-without-result": "A call of a tool is not followed by its result; the turns before it are kept.",
    "result-without-call": "A tool result without its call; the turns before it are kept.",
    "field-not-used": "Holds content that its form does not use.",
}


class Summary:
    """Counts by rule, source and split, with the first few examples of each rule."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.labels = labels(data.sources)
        self.read: Counter[int] = Counter()
        self.forms: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.notes: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.counts: Counter[tuple[str, str, int]] = Counter()  # (rule, rejected | fixed | flagged, source)
        self.examples: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.splits: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.languages: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.tasks: Counter[str] = Counter()
        self.with_input = 0
        self.turns: Counter[int] = Counter()  # rows by their number of turns, if conversations stay whole
        self.conversations: Counter[str] = Counter()

    def add(self, result: ChunkResult) -> None:
        """Counts a chunk that was read."""
        self.forms[result.source].update(result.forms)
        self.notes[result.source].update(result.notes)
        self.read[result.source] += len(result.lines)
        for rule, count in result.rejected.items():
            self.counts[rule, "rejected", result.source] += count
        for rule, rows in result.examples.items():
            for row in rows:
                self._example(rule, {"action": "rejected", **row})
        seen: set[tuple[str, ...]] = set()
        for change in result.changes:
            if "turns" in change:  # a conversation counts once, however many of its turns a rule changed
                mark = (change["rule"], change["action"], change["place"])
                if mark in seen:
                    continue
                seen.add(mark)
            self.counts[change["rule"], change["action"], result.source] += 1
            self._example(change["rule"], change)

    def drop(self, rejected: Mapping[str, Any], source: int) -> None:
        """Counts a row that was dropped after reading, given as in rejected.jsonl."""
        self.counts[rejected["rule"], "rejected", source] += 1
        self._example(rejected["rule"], {"action": "rejected", **rejected})

    def keep(self, split: str, source: int, language: str, task: str, with_input: bool) -> None:
        """Counts a row of a split."""
        self.splits[source][split] += 1
        self.languages[source][language] += 1
        self.tasks[task] += 1
        self.with_input += with_input

    def keep_turns(self, turns: int, answers: int, learnt: int, with_system: int, with_tools: int) -> None:
        """Counts the turns of a kept row, if conversations stay whole."""
        self.turns[turns] += 1
        self.conversations.update(
            rows=1, several=turns > 2, turns=turns, answers=answers, learnt=learnt, with_system=with_system,
            with_tools=with_tools,
        )  # fmt: skip

    def _example(self, rule: str, example: Mapping[str, Any]) -> None:
        if len(self.examples[rule]) < EXAMPLES:
            self.examples[rule].append(shortened(dict(example)))

    def count(self, action: str = "rejected", source: int | None = None, rule: str = "") -> int:
        """Rows rejected, fixed or flagged, of all or one source, by all rules or one."""
        return sum(
            n
            for (name, what, number), n in self.counts.items()
            if what == action and source in (None, number) and rule in ("", name)
        )

    def sources(self) -> list[dict[str, Any]]:
        """An entry for each source."""
        entries = []
        for n, source in enumerate(self.data.sources):
            left_out = sum(self.count("rejected", n, rule) for rule in LEFT_OUT)
            entries.append(
                {
                    "path": source.path, **({"label": self.labels[n]} if self.labels[n] != source.path else {}),
                    "forms": _sorted(self.forms[n]), "read": self.read[n],
                    "kept": sum(self.splits[n].values()), "rejected": self.count("rejected", n), "left_out": left_out,
                    **{split: self.splits[n][split] for split in SPLITS}, "languages": _sorted(self.languages[n]),
                    **({"notes": _sorted(self.notes[n])} if self.notes[n] else {}),
                }
            )  # fmt: skip
        return entries

    def rules(self) -> list[dict[str, Any]]:
        """An entry for each rule with a hit, in the order of their hits."""
        entries = []
        for rule in dict.fromkeys(rule for rule, _, _ in self.counts):
            by_source: Counter[str] = Counter()
            for (name, _, number), n in self.counts.items():
                if name == rule:
                    by_source[self.labels[number]] += n
            what = RULES[rule].summary if rule in RULES else MEANINGS.get(rule, "")
            counts = {action: self.count(action, rule=rule) for action in ("rejected", "fixed", "flagged")}
            entries.append(
                {"rule": rule, "what": what, **counts, "by_source": dict(by_source), "examples": self.examples[rule]}
            )
        return sorted(entries, key=lambda r: (-r["rejected"] - r["fixed"] - r["flagged"], r["rule"]))

    def as_dict(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """The content of report.json. more: entries that others made."""
        total: Counter[str] = Counter()
        languages: Counter[str] = Counter()
        for n in range(len(self.data.sources)):
            total.update(self.splits[n])
            languages.update(self.languages[n])
        named = {task for task in self.tasks if task}
        groups = {g: sum(self.tasks[t] for t in group_members(g, named, self.data.groups)) for g in self.data.groups}
        mix = [{**line, "source": label} for line, label in zip(more["mix"], self.labels, strict=True)]
        return {
            "read": sum(self.read.values()), "kept": sum(total.values()), **{split: total[split] for split in SPLITS},
            "rejected": self.count("rejected"), "left_out": sum(self.count(rule=rule) for rule in LEFT_OUT),
            "with_input": self.with_input, "sources": self.sources(), "rules": self.rules(), **more, "mix": mix,
            "languages": _sorted(languages), "tasks": _sorted(self.tasks), "groups": groups,
            **({"conversations": {**self.conversations, "by_turns": self._by_turns()}} if self.turns else {}),
        }  # fmt: skip

    def _by_turns(self) -> dict[str, int]:
        """Rows by number of turns, in the groups of `TURNS`."""
        groups: Counter[str] = Counter()
        for low, high in itertools.pairwise((*TURNS, 0)):
            name = f"{low}" if high == low + 1 else f"{low}-{high - 1}" if high else f"{low} or more"
            groups[name] += sum(n for turns, n in self.turns.items() if low <= turns and (turns < high or not high))
        return {name: n for name, n in groups.items() if n}


def label_of(line: Mapping[str, Any]) -> str:
    """The name of a source of report.json in tables: its label, or its path if that is unique."""
    return str(line.get("label") or line.get("path"))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def shortened(value: Any) -> Any:
    """The value with long texts cut, for the report."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[:LONGEST] + f"… ({len(value):,} letters)"
    if isinstance(value, Mapping):
        return {key: shortened(inner) for key, inner in list(value.items())[:50]}
    if isinstance(value, list | tuple):
        return [shortened(inner) for inner in value[:50]]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
