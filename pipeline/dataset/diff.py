"""What changed between two builds of a data set: counts, and every row that is in another file.

Rows are matched by the hash of the text that was read: changes by rules are undone first, so that a row which a rule
fixed in only one of the builds is matched. A whole conversation is one row, matched by all its turns.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.dataset.example import Example
from pipeline.dataset.summary import label_of
from pipeline.dataset.turn import Turn
from pipeline.run.errors import UserError
from pipeline.run.files import json_lines, json_text, write_json_lines
from pipeline.run.folder import SPLITS
from pipeline.run.progress import say
from pipeline.run.terminal import Styled, safe
from pipeline.run.width import WIDTH, clipped, columns, padded

TEXTS = ("instruction", "input", "output")
SHOWN = 3  # rows of each kind of change on the screen
NAME = 40  # columns of a count's name on the screen
Texts = list[dict[str, str]]  # texts by field, one entry for each rule


class State(NamedTuple):
    """where: a split, or `rejected: RULE`. id: of the text in that build. copies: number of lines."""

    where: str
    id: str
    copies: int


def show(a: Path, b: Path) -> None:
    """Prints the changes from build `a` to build `b`, and writes all of them to b/data-diff.jsonl.

    Args:
        a, b: run folders.

    Raises:
        UserError: a folder has no finished data set.
    """
    before, after = _states(a), _states(b)
    changes: defaultdict[str, list[str]] = defaultdict(list)
    for row in sorted(before.keys() | after.keys()):
        if change := _change(before.get(row), after.get(row)):
            changes[change].append(row)
    _print_counts(a, b)
    if not changes:
        say("no row differs")
    wanted = {row for rows in changes.values() for row in rows}
    texts = _texts(a, wanted) | _texts(b, wanted)
    for change, rows in sorted(changes.items(), key=lambda item: (-len(item[1]), item[0])):
        say(f"{len(rows):,} rows: {change}")
        for row in rows[:SHOWN]:
            say("    " + clipped(_short(texts[row]), WIDTH - 4))
        if len(rows) > SHOWN:
            say(f"    and {len(rows) - SHOWN:,} more")
    listed = [(change, row) for change, rows in sorted(changes.items()) for row in rows]
    path = b / "data-diff.jsonl"
    write_json_lines(path, ({"change": change, "id": row, "row": texts[row]} for change, row in listed), default=str)
    say(f"all changes are in {path}")


def _change(before: State | None, after: State | None) -> str:
    """The difference of two states in words; empty if there is none."""
    if before is None or after is None:
        state = before or after
        assert state is not None
        return f"only in {'A' if before else 'B'} ({state.where})"
    if before.where != after.where:
        return f"{before.where} -> {after.where}"
    if before.id != after.id:
        return f"{after.where}, with another text"
    if before.copies != after.copies:
        return f"{after.where}, {before.copies} -> {after.copies} times"
    return ""


def _print_counts(a: Path, b: Path) -> None:
    counts = [_counts(a), _counts(b)]
    say(f"A: {a}\nB: {b}\n{'':{NAME}}{'A':>12}{'B':>12}{'B - A':>12}")
    for name in dict.fromkeys([*counts[0], *counts[1]]):
        one, two = counts[0][name], counts[1][name]
        change = f"{two - one:>+12,}" if one != two else ""
        if columns(name) > NAME:  # a long path stands unbroken on a separate line
            say(Styled(safe(name)))
        label = padded("" if columns(name) > NAME else name, NAME)
        say(f"{label}{one:>12,}{two:>12,}{change}")


def _counts(run: Path) -> Counter[str]:
    report = _report(run)
    counts = Counter({name: report[name] for name in ("read", *SPLITS, "rejected")})
    for rule in report["rules"]:
        for action in ("rejected", "fixed", "flagged"):
            if rule[action]:
                counts[f"  {rule['rule']} ({action})"] = rule[action]
    for source in report["sources"]:
        counts[f"  kept of {label_of(source)}"] += source["kept"]
    return counts


def _report(run: Path) -> dict[str, Any]:
    return dict(json.loads((_folder(run) / "report.json").read_text(encoding="utf-8")))


def _folder(run: Path) -> Path:
    folder = run / "dataset"
    if not (folder / "manifest.json").is_file():
        raise UserError("no finished data set there", str(folder), "make data with that config first")
    return folder


def _states(run: Path) -> dict[str, State]:
    """State of each row by the id of the text that was read; of equal rows the best state."""
    states: dict[str, State] = {}
    for id, state, _ in _rows(run):
        known = states.get(id)
        if known is None or _rank(state) < _rank(known):
            states[id] = state
        elif (known.where, known.id) == (state.where, state.id):
            states[id] = known._replace(copies=known.copies + 1)
    return states


def _rank(state: State) -> int:
    """train is better than val, val than holdout, and holdout than rejected."""
    return SPLITS.index(state.where) if state.where in SPLITS else len(SPLITS)


def _rows(run: Path) -> Iterator[tuple[str, State, Any]]:
    """Every line of a build: the id of the text that was read, the state of this one copy, the row."""
    folder = _folder(run)
    fixes = _fixes(folder)
    for line in json_lines(folder / "rejected.jsonl"):
        row = line["row"]
        own = str(row.get("id")) if isinstance(row, dict) else ""
        before = fixes.pop((line["source"], line["place"], own), [])
        yield _original(row, before), State(f"rejected: {line['rule']}", _id(row), 1), row
    # A kept row has no place. Fixes that no rejected row matched belong to the kept rows of that source and text.
    remaining: defaultdict[tuple[str, str], list[Texts]] = defaultdict(list)
    for (source, _, id), before in fixes.items():
        remaining[source, id].append(before)
    repeat = {share["source"]: share["repeat"] for share in _report(run)["mix"]}
    for split in SPLITS:
        seen: Counter[tuple[str, str]] = Counter()
        for row in json_lines(folder / f"{split}.jsonl"):
            key, id = (row["source"], row["id"]), row["id"]
            if key in remaining:
                times = repeat[row["source"]] if split == "train" else 1
                if seen[key] % times == 0:  # otherwise it is a repeat of the same row
                    before = remaining[key].pop(0) if remaining[key] else []
                seen[key] += 1
                id = _original(row, before)
            yield id, State(split, row["id"], 1), row


def _fixes(folder: Path) -> dict[tuple[str, str, str], Texts]:
    """The texts that rules replaced in each fixed row, in their order, by source, place and new id."""
    fixes: defaultdict[tuple[str, str, str], Texts] = defaultdict(list)
    for change in json_lines(folder / "changes.jsonl"):
        if change["action"] == "fixed":
            place = change["place"].replace("\n", " ")  # as rejected.jsonl has it
            fixes[change["source"], place, change["id"]].append(change["before"])
    return fixes


def _original(row: Any, fixes: Texts) -> str:
    """Id of the text as it was read: the fixes are undone in reverse order."""
    if not fixes:
        return _id(row)
    before: dict[str, str] = {}
    for texts in reversed(fixes):
        before |= texts
    turns = [{**turn, "content": before.get(f"turn {n}", turn["content"])} for n, turn in enumerate(_turns(row), 1)]
    texts = {name: before.get(name, row[name]) for name in (*TEXTS, "system") if name in row}
    return _id({**texts, "turns": turns, "tools": row.get("tools", [])} if turns else texts)


def _id(row: Any) -> str:
    """The id of a row as an `Example`; if it cannot be one, a hash of its JSON."""
    if isinstance(row, dict) and isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        input, system = (row[k] if isinstance(row.get(k), str) else "" for k in ("input", "system"))
        if turns := _turns(row):
            tools = row.get("tools") or ()
            return Example.whole([Turn.of(turn) for turn in turns], system=system, tools=tools, source="").id
        return Example.of(row["instruction"], input, row["output"], source="", system=system).id
    return "x" + Example.of(json_text(row, default=str), "", "", source="").id


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a row that is a whole conversation, as this project writes them; empty for other rows."""
    turns = row.get("turns")
    if not isinstance(turns, list) or not all(isinstance(t, dict) and {"role", "content"} <= set(t) for t in turns):
        return []
    return turns if {"user", "assistant"} <= {turn["role"] for turn in turns} else []


def _texts(run: Path, wanted: set[str]) -> dict[str, Any]:
    """The rows by the id of the text that was read."""
    return {id: row for id, _, row in _rows(run) if id in wanted}


def _short(row: Any) -> str:
    texts = [str(row[name]) for name in TEXTS if row.get(name)] if isinstance(row, dict) else [str(row)]
    if isinstance(row, dict) and (turns := _turns(row)):
        texts = [str(turn["content"]) for turn in turns]
    text = " | ".join(texts)
    return " ".join(text.split()) or str(row)
