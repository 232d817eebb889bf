"""Totals of a judge's replies: a winner for each question, win rates, and the judge's consistency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparison.answer_pairs import AnswerPair
from pipeline.comparison.verdict import ANSWERS, INPUT, PROMPT_HASH, SYSTEM, TASK, both, parse, winner
from pipeline.comparison.winrate import table, win_rate
from pipeline.config.schema import Judge
from pipeline.run.markdown import plain
from pipeline.run.width import aligned, wrapped

METHOD = (
    "Each pair is asked twice, with the answers in either order; verdicts that differ make a tie, equal answers are a "
    "tie without being asked, and a pair with a reply that holds no verdict is left out. Win rate: of the tuned model, "
    "a tie counts half. Interval: 95 %, Wilson's score interval (1927) over questions; it says nothing about other "
    "questions than these or other judges than this."
)


def outcome(pair: AnswerPair, replies: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """One line of verdicts.jsonl. replies: by the model whose answer stood first."""
    q = pair.question
    head = {"id": q.id, "set": q.set, "category": q.category, "identical": pair.identical}
    if pair.identical:
        return {**head, "winner": "tie", "consistent": None, "replies": []}
    readings = []
    for first, reply in replies.items():
        if reply is None:
            raise ValueError(f"no reply for {q.id}")
        verdict = parse(reply["reply"])
        readings.append({"first": first, "verdict": verdict, "winner": winner(verdict, first), **reply})
    one, two = (reply["winner"] for reply in readings)
    winner_of_both = both(one, two)
    consistent = None if winner_of_both == "unparsable" else one == two
    return {**head, "winner": winner_of_both, "consistent": consistent, "replies": readings}


def judgement(judge: Judge, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """judge.json.

    consistency: share of pairs with two verdicts on which both orders agree. first: share of verdicts for one side
    that were for the answer that stood first; a fair judge has one half.
    """
    replies = [reply for one in outcomes for reply in one["replies"]]
    sides = [reply["verdict"] for reply in replies if reply["verdict"] in ("first", "second")]
    consistent = [one["consistent"] for one in outcomes if one["consistent"] is not None]
    categories, sets = (dict.fromkeys(one[name] for one in outcomes) for name in ("category", "set"))
    decided = [one for one in outcomes if one["winner"] != "unparsable"]

    def rate(name: str = "", value: str = "") -> dict[str, Any]:
        return win_rate([one["winner"] for one in decided if not name or one[name] == value])

    return {
        "judge": {"model": judge.model, "base_url": judge.base_url or "OpenAI's own"},
        "asked": len(outcomes),
        "win_rate": rate(),
        "by_set": {value: rate("set", value) for value in sets},
        "by_category": {value: rate("category", value) for value in categories},
        "identical": sum(one["identical"] for one in outcomes),
        "unparsable": {
            "replies": sum(reply["verdict"] == "unparsable" for reply in replies),
            "questions": len(outcomes) - len(decided),
        },
        "consistency": sum(consistent) / len(consistent) if consistent else None,
        "first": sides.count("first") / len(sides) if sides else None,
        "tokens": {name: sum(r[name] for r in replies) for name in ("prompt_tokens", "completion_tokens")},
        "method": METHOD,
        "prompt": {"hash": PROMPT_HASH, "system": SYSTEM, "user": TASK + INPUT + ANSWERS},
    }


def _rows(totals: Mapping[str, Any]) -> list[tuple[str, ...]]:
    sets = totals["by_set"].items() if len(totals["by_set"]) > 1 else ()
    return table([("all", totals["win_rate"]), *sets, *totals["by_category"].items()])


def printed(totals: Mapping[str, Any]) -> str:
    """The table with notes for a terminal."""
    return "\n" + "\n".join([aligned(_rows(totals)), "", *map(wrapped, _notes(totals))])


def _notes(totals: Mapping[str, Any]) -> list[str]:
    notes = [f"judge: {totals['judge']['model']}, {totals['asked']} questions, each asked in both orders"]
    if totals["consistency"] is not None:
        notes.append(f"both orders agree: {totals['consistency']:.1%}")
    if totals["first"] is not None:
        notes.append(f"verdicts for the answer that stood first: {totals['first']:.1%}")
    if totals["identical"]:
        notes.append(f"equal answers, ties without being asked: {totals['identical']}")
    if totals["unparsable"]["replies"]:
        unparsable = totals["unparsable"]
        notes.append(
            f"replies without a verdict: {unparsable['replies']}; questions left out for it: {unparsable['questions']}"
        )
    return notes


def markdown(name: str, totals: Mapping[str, Any]) -> str:
    """judge.md. name: of the run."""
    head, *rows = _rows(totals)
    lines = [
        f"# {name}: base and tuned model before a judge",
        "",
        *(f"- {plain(note)}" for note in _notes(totals)),
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *("| " + " | ".join(map(plain, row)) + " |" for row in rows),
        "",
        METHOD,
        "",
        f"The judge's prompt (hash `{PROMPT_HASH}`) is in judge.json, its replies are in verdicts.jsonl.",
    ]
    return "\n".join(lines) + "\n"
