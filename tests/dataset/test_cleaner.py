"""The cleaner: actions, order, and rows that must pass unchanged."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.rule import RULES, Cleaner
from pipeline.demo.families import generate
from pipeline.run.errors import UserError
from tests.helpers.rules import row

DATA = Path(__file__).parents[2] / "data"
STANDARD = Cleaner("standard", {})


# --- the cleaner


def test_every_rule_says_what_it_does() -> None:
    for name, rule in RULES.items():
        assert name == rule.name
        assert 20 < len(rule.summary) <= 120
        assert "Source: " in (rule.function.__doc__ or "")
        assert "Misses: " in (rule.function.__doc__ or "")


def test_the_three_actions() -> None:
    texts = row("Say hello.\x00", "No input", "N/A")
    on = Cleaner("none", {"no-input-spelling": "on"})(texts)
    assert on.texts == texts._replace(input="")
    assert on.rejected is None
    assert [(c.rule, c.action, c.before, c.after) for c in on.changes] == [
        ("no-input-spelling", "fixed", {"input": "No input"}, {"input": ""})
    ]
    warned = Cleaner("none", {"no-input-spelling": "warn", "output-not-available": "warn"})(texts)
    assert warned.texts == texts
    assert warned.rejected is None
    assert [(c.rule, c.action, c.before, c.after) for c in warned.changes] == [
        ("no-input-spelling", "flagged", {"input": "No input"}, {}),
        ("output-not-available", "flagged", {"output": "N/A"}, {}),
    ]
    off = Cleaner("none", {})(texts)
    assert (off.texts, off.changes, off.rejected) == (texts, (), None)
    standard = STANDARD(texts)
    assert standard.rejected is not None
    assert standard.rejected[0] == "output-not-available"
    assert [c.rule for c in standard.changes] == ["control-characters", "no-input-spelling"]
    kept = Cleaner("standard", {"output-not-available": "off"})(texts)
    assert kept.texts == row("Say hello.", "", "N/A")


def test_flagged_rows_show_the_place() -> None:
    cleaner = Cleaner("none", {"personal-data": "warn"})
    change = cleaner(row(output="word " * 1_000 + "jane@naver.com" + " word" * 1_000)).changes[0]
    assert "jane@naver.com" in change.before["output"]
    assert len(change.before["output"]) < 300


def test_an_unknown_rule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        Cleaner("standard", {"refusals": "on"})
    assert caught.value.where == "data.rules"
    assert "refusal" in caught.value.fix


def test_a_cleaner_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(Cleaner("standard", {"refusal": "off"})))
    assert copy.actions["refusal"] == "off"
    assert copy(row(input="<noinput>")).texts.input == ""


def test_the_language_of_the_source_is_asked_only_where_it_is_set() -> None:
    texts = row("Explain it.", "", "이 가운데 첫 번째 것을 잘 보셔야 하고, 그것은 어렵지 않습니다.")
    assert STANDARD(texts).rejected is None
    found = STANDARD(texts, "en").rejected
    assert found is not None
    assert found[0] == "wrong-language"


NASTY: dict[str, Callable[[int], str]] = {
    "a": lambda n: "a" * n,
    "digits": lambda n: "0123456789" * (n // 10),
    "brackets": lambda n: "(" * n,
    "spaces": lambda n: " " * n,
    "no input": lambda n: "no input " * (n // 9),
    "lines": lambda n: "\n" * n,
    "sums": lambda n: "1+1=3 " * (n // 6),
    "equals": lambda n: "= " * (n // 2),
    "at": lambda n: "a.a@" * (n // 4),
    "nul": lambda n: "\x00" * n,
    "escapes": lambda n: "\\u00e9\\n" * (n // 8),
    "Ã": lambda n: "Ã" * n,
    "hangul": lambda n: "가" * n,
    "www": lambda n: "www." * (n // 4),
    "links": lambda n: "![" * (n // 2),
    "separators": lambda n: "\n____" * (n // 5) + "\n18. Instruction: x",
    "fields": lambda n: "{input}{0.__class__}" * (n // 20),
    "marks": lambda n: "\u200f\u05d0" * (n // 2),
}


@pytest.mark.parametrize("name", NASTY)
def test_no_text_is_too_much(name: str) -> None:
    """A catastrophic regex would not come back from these."""
    text = NASTY[name](100_000)
    cleaner = Cleaner("standard", dict.fromkeys(RULES, "on"))
    for texts in (row(text, "", text), row("Do it.", text, text), row("What is 1 + 1?", text, "2")):
        once = cleaner(texts, "en")
        if once.rejected is None:
            assert cleaner(once.texts, "en").texts == once.texts


def seeds(language: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (DATA / f"seed_tasks.{language}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize(("rows", "language"), [(generate(660, 42), "en"), (seeds("en"), "en"), (seeds("ko"), "ko")])
def test_our_own_rows_pass_untouched(rows: list[dict[str, Any]], language: str) -> None:
    cleaner = Cleaner("standard", dict.fromkeys(RULES, "on"))
    for item in rows:
        texts = Texts(item["instruction"], item.get("input", ""), item["output"])
        cleaned = cleaner(texts, language)
        assert (cleaned.texts, cleaned.rejected, cleaned.changes) == (texts, None, ())


def test_korean_chat_passes(shared_data: Path) -> None:
    with open(shared_data / "korean_chatbot.csv", encoding="utf-8", newline="") as file:
        rows = [row(item["Q"], "", item["A"]) for item in csv.DictReader(file)]
    assert sum(STANDARD(texts, "ko").rejected is not None for texts in rows) == 0


def test_alpaca(shared_data: Path) -> None:
    """What the defaults do to the original data; cleaning what they kept changes nothing."""
    rows = [Texts(**item) for item in json.loads((shared_data / "alpaca_data.json").read_text(encoding="utf-8"))]
    cleaned = [STANDARD(texts) for texts in rows]
    rejected: dict[str, int] = {}
    fixed: dict[str, int] = {}
    for item in cleaned:
        if item.rejected:
            rejected[item.rejected[0]] = rejected.get(item.rejected[0], 0) + 1
        for change in item.changes:
            if change.action == "fixed":
                fixed[change.rule] = fixed.get(change.rule, 0) + 1
    assert rejected["output-empty"] == 28
    assert fixed["merged-instructions"] == 37  # all that AlpacaDataCleaned's pattern finds
    assert fixed["no-input-spelling"] >= 478  # whole inputs that match AlpacaDataCleaned's pattern
    assert sum(rejected.values()) < 0.02 * len(rows)
    for item in cleaned:
        if not item.rejected and item.changes:
            again = STANDARD(item.texts)
            assert again.texts == item.texts
            assert again.rejected is None
            assert not any(change.action == "fixed" for change in again.changes)
