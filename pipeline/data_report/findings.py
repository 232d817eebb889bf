"""Titles of the data report's charts: what each chart shows, in one sentence made from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.data_report.numbers import share
from pipeline.data_report.verbs import LANGUAGES
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.summary import label_of
from pipeline.pages.phrases import Phrase, joined, labelled, phrase

Numbers = Mapping[str, Any]


def flow(numbers: Numbers) -> Phrase:
    """How many of the rows read were kept, rejected and left out."""
    read, kept, left = numbers["read"], numbers["kept"], numbers["left_out"]
    bad = numbers["rejected"] - left
    parts = [phrase("finding-flow", kept=f"{kept:,}", read=f"{read:,}", share=share(kept, read))]
    parts += [phrase("finding-flow-rejected", n=f"{bad:,}")] if bad else []
    parts += [phrase("finding-flow-left", n=f"{left:,}")] if left else []
    return joined(parts, ", ") if len(parts) > 1 else joined([*parts, phrase("finding-flow-none")], ", ")


def sources(numbers: Numbers, names: Mapping[str, str]) -> Phrase:
    """The source that most kept rows come from."""
    kept = {label_of(source): int(source.get("kept") or 0) for source in numbers["sources"]}
    largest, total = max(kept, key=lambda label: kept[label]), sum(kept.values())
    if not total:
        return phrase("finding-sources-none")
    if len(kept) == 1:
        return phrase("finding-sources-one", source=names[largest])
    return phrase("finding-sources", source=names[largest], share=share(kept[largest], total))


def mix(numbers: Numbers, names: Mapping[str, str]) -> Phrase:
    """The source with the largest share of the training rows."""
    largest = max(numbers["mix"], key=lambda line: line["share"])
    return phrase("finding-mix", source=names[largest["source"]], share=share(largest["share"], 1))


def rules(numbers: Numbers) -> Phrase:
    """The rule that rejected most rows, or that fixed or flagged most where none rejected any."""
    acted = [rule for rule in numbers["rules"] if rule["rule"] not in LEFT_OUT]
    for action in ("rejected", "fixed", "flagged"):
        rule = max(acted, key=lambda rule: int(rule.get(action) or 0), default=None)
        if rule is not None and rule.get(action):
            return phrase(f"finding-rules-{action}", rule=rule["rule"], n=f"{int(rule[action]):,}")
    return phrase("finding-rules-none")


def lengths(key: str, measured: Numbers, unit: Phrase) -> Phrase:
    """Median and longest. key: `row` or `answer`."""
    values = {"median": f"{measured['quantiles']['p50']:g}", "longest": f"{measured['longest']:,}"}
    return phrase(f"finding-lengths-{key}", unit=unit, **values)


def longest_group(measured: Numbers, names: Mapping[str, str]) -> Phrase:
    """The source whose rows are longest by the median."""
    groups = [group for group in measured["groups"] if group["source"] in names]
    longest = max(groups, key=lambda group: group["row"]["p50"])
    values = {"median": f"{longest['row']['p50']:g}", "unit": phrase(f"word-{measured['unit']}")}
    key = "finding-length-groups" if len(names) > 1 else "finding-length-group"
    return phrase(key, source=names[longest["source"]], **values)


def duplicates(numbers: Numbers) -> Phrase:
    """How many groups there are, and the rows left over in them."""
    found = numbers["duplicates"]
    rows = sum(int(found.get(kind) or 0) for kind in ("exact", "near", "novelty"))
    return phrase("finding-duplicates", rows=f"{rows:,}", groups=f"{sum(s['groups'] for s in found['sizes']):,}")


def contamination(numbers: Numbers) -> Phrase:
    """Rows that hold a test question."""
    rows = sum(int(n or 0) for row in numbers["contamination"]["table"].values() for n in row.values())
    return phrase("finding-contamination", rows=f"{rows:,}") if rows else phrase("finding-contamination-none")


def most_common(kind: str, counts: Mapping[str, int]) -> Phrase:
    """The most common name and its share. kind: `languages`, `tasks` (of those that are named) or `task-groups`."""
    named = {name: n for name, n in counts.items() if name != phrase("word-no-task")} or counts
    name = max(named, key=lambda name: named[name])
    return phrase(f"finding-{kind}", name=name, share=share(counts[name], sum(counts.values())))


def verbs(entry: Numbers, language: str) -> Phrase:
    """The most common request: verb and noun with their rows. language: `en` or `ko`."""
    pairs = [(o["rows"], v["verb"], o["object"]) for v in entry["verbs"] for o in v["objects"]]
    rows, verb, noun = max(pairs, key=lambda pair: pair[0])
    values = {"pair": request(verb, noun, language), "rows": f"{rows:,}", "parsed": f"{entry['parsed']:,}"}
    return phrase("finding-verbs", language=labelled(LANGUAGES[language]), **values)


def request(verb: str, noun: str, language: str) -> str:
    """Verb and noun in the order of their language: Korean ends with its verb."""
    return f"{noun} {verb}" if language == "ko" else f"{verb} {noun}"
