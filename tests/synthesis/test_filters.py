"""Filters of drafts and rows: each rule with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.run.errors import UserError
from pipeline.synthesis.classification import GROUP
from pipeline.synthesis.evolve import EVOLVED
from pipeline.synthesis.filters import SIMILAR, DraftFilters, detected_as, missing_rules
from pipeline.synthesis.request import Draft

ENGLISH = "data/seed_tasks.en.jsonl"


def filters(**more: Any) -> DraftFilters:
    return DraftFilters(Synthesis.model_validate({"method": "self-instruct", "seeds": [ENGLISH], **more}))


def draft(instruction: str, input: str = "", output: str = "An output that is fine.", **notes: Any) -> Draft:
    return Draft(instruction, input, output, notes=notes)


def rule_of(draft: Draft) -> str:
    return draft.rejected[0] if draft.rejected else ""


@pytest.mark.parametrize(
    ("bad", "rule", "reason"),
    [
        (draft(" "), "instruction-empty", "empty"),
        (draft("Name two fruits.", output=" "), "output-empty", "empty"),
        (draft("Go on."), "too-short", "4 letters"),
        (draft("Name two fruits.", "x" * 301), "too-long", "input has 301 characters, more than 300"),
        (draft("Name two fruits.", output="Sorry, as an AI language model I cannot eat fruits."), "refusal", "refuses"),
        (
            draft("Name two fruits.", output="Les fruits sont dans le panier et il est sur la table avec du pain."),
            "wrong-language", "'fr'",
        ),
        (draft("Write a haiku about a bicycle left out in the rain."), "not-novel", "ROUGE-L 1.00 with: Write a haiku"),
    ],
)  # fmt: skip
def test_each_rule_says_why(bad: Draft, rule: str, reason: str) -> None:
    decided = filters(longest=300).draft(bad)
    assert decided.rejected
    assert decided.rejected[0] == rule
    assert reason in decided.rejected[1]


def test_short_korean_instructions_are_not_too_short() -> None:
    own = filters(language="ko")
    assert not own.draft(draft("시 한 편 써 줘", output="봄이 오면 꽃이 핀다.")).rejected
    assert rule_of(own.draft(draft("시 써", output="봄이 오면 꽃이 핀다."))) == "too-short"


def test_a_rejected_draft_names_the_most_similar_instruction() -> None:
    own = filters()
    first = "Explain why the harbour freezes so late in the winter of this year."
    assert not own.draft(draft(first)).rejected
    decided = own.draft(draft("Explain why the harbour freezes so late in the autumn of this year."))
    assert decided.rejected
    assert decided.rejected[1] == f"its instruction has ROUGE-L 0.92 with: {first}"
    assert decided.notes[SIMILAR] == {"instruction": first, "rouge_l": 0.9231}


def test_what_was_rejected_is_compared_with_nothing() -> None:
    own = filters()
    assert own.draft(draft("Explain how a tide mill works.", output="")).rejected
    assert not own.draft(draft("Explain how a tide mill works.")).rejected


def test_korean_novelty_counts_syllables() -> None:
    own = filters(language="ko", seeds=["data/seed_tasks.ko.jsonl"])
    output = "맑은 날에는 산책하기 좋습니다."
    assert not own.draft(draft("오늘 서울 날씨를 한 문장으로 알려 주세요.", output=output)).rejected
    assert rule_of(own.draft(draft("오늘 서울 날씨가 어떤지 한 문장으로 알려 주세요.", output=output))) == "not-novel"


def test_novelty_can_be_off_and_equal_rows_are_duplicates_then() -> None:
    own = filters(novelty=0)
    assert not own.draft(draft("Explain how a tide mill works.")).rejected
    assert not own.draft(draft("Explain how a tide mill works.", output="In another way.")).rejected
    assert rule_of(own.draft(draft("Explain how a  TIDE mill works."))) == "duplicate"


def test_rules_fix_texts_and_can_be_set() -> None:
    fixed = filters().draft(draft("Name two fruits that grow here.", "None", "Apples and pears."))
    assert (fixed.rejected, fixed.input) == (None, "")
    refused = draft("Name two fruits that grow here.", output="Sorry, as an AI language model I cannot eat fruits.")
    assert not filters(rules={"refusal": "off"}).draft(refused).rejected
    with pytest.raises(UserError) as error:
        filters(rules={"refusals": "off"})
    assert error.value.where == "synthesis.rules"


def test_foreign_script_is_rejected_in_rows() -> None:
    own = filters(language="ko")
    row = draft("건강에 좋은 습관을 말해 주세요.", output="每日 아침에 일어나 물을 마시고 운동하세요.")
    assert not own.draft(row).rejected, "the method asks again first"
    assert own.row(row).rejected == ("wrong-script", "output holds a script that Korean does not use: 每日")
    assert not filters(language="ko", keep_scripts=False).row(row).rejected


def test_contaminated_rows(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    asked = "Which of the planets in our solar system has the largest number of known moons today?"
    questions.write_text(json.dumps({"question": asked}) + "\n", encoding="utf-8")
    own = filters(benchmarks=[{"path": str(questions), "name": "moons"}])
    decided = own.draft(draft("Answer the question below.", asked, "Saturn."))
    assert decided.rejected
    assert decided.rejected[0] == "contaminated"
    assert "of a question of moons" in decided.rejected[1]
    assert not own.draft(draft("Answer the question below.", "What is a moon?", "A natural satellite.")).rejected, (
        "what is contaminated takes no place in the pool"
    )


def test_evolved_rows_are_compared_but_not_with_their_parents() -> None:
    own = filters(evolve={"rounds": 1})
    parent = "Explain how a tide mill works in a small harbour."
    deeper = parent[:-1] + " of the north."
    assert not own.draft(draft(parent)).rejected
    assert not own.row(draft(parent)).rejected
    assert rule_of(own.row(draft(deeper))) == "not-novel"
    assert not own.row(draft(deeper, **{EVOLVED: (parent,)})).rejected
    assert rule_of(own.row(draft(deeper, "x", **{EVOLVED: (parent,)}))) == "not-novel", "the same evolution again"
    seed = "Write a haiku about a bicycle left out in the rain."
    assert rule_of(own.row(draft(seed, **{EVOLVED: (parent,)}))) == "not-novel"


def test_rows_of_one_group_share_their_instruction() -> None:
    own = filters(evolve={"rounds": 1})
    text = "Say whether the message below is spam or not."
    assert not own.row(draft(text, "You won!", "spam", **{GROUP: "g"})).rejected
    assert not own.row(draft(text, "See you at nine.", "not spam", **{GROUP: "g"})).rejected
    assert rule_of(own.row(draft(text, "You won!", "spam", **{GROUP: "g"}))) == "duplicate"
    assert rule_of(own.row(draft(text, "Hello.", "not spam", **{GROUP: "other"}))) == "not-novel"


def test_translated_rows_may_resemble_each_other() -> None:
    own = DraftFilters(Synthesis(method="translate", language="ko"))
    assert not own.draft(Draft("다음 문장을 한 문장으로 요약하세요.", "첫째 글")).rejected
    assert not own.draft(Draft("다음 문장을 한 문장으로 요약하세요.", "둘째 글")).rejected
    assert rule_of(own.draft(Draft("다음 문장을 한 문장으로 요약하세요.", "둘째 글"))) == "duplicate"


def test_languages_without_rules_are_said() -> None:
    assert [detected_as(name) for name in ("en", "ko", "ja", "zh", "ru", "nl", "xx")] == [
        "en", "ko", "ja", "zh", "cyrl", "", "",
    ]  # fmt: skip
    assert missing_rules(Synthesis(language="ko")) == ""
    assert "Dutch" in missing_rules(Synthesis(language="nl"))
    assert "wrong-script" not in missing_rules(Synthesis(language="nl"))
    assert "wrong-script" in missing_rules(Synthesis(language="xx"))
    dutch = draft("Noem twee soorten fruit die hier groeien.", output="Appels en peren zijn hier was en is of water.")
    assert not filters(language="nl").row(dutch).rejected
    russian = draft("Назовите два фрукта, которые растут здесь.", output="Яблоки и груши растут здесь повсюду.")
    assert not filters(language="ru").row(russian).rejected
