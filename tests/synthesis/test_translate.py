"""Translation of a data set, with a scripted teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.run.errors import UserError
from pipeline.synthesis.request import Draft, Reply, Request
from pipeline.synthesis.translate import Translate
from tests.helpers.teacher_replies import driven, generated

ROWS = [
    {"instruction": "Write a letter to {name} with 3 reasons.", "input": "", "output": "Dear ..."},
    {"instruction": "Summarise the text below.", "input": "A cat sat on the mat in 1999.", "output": "A cat sat."},
]
KOREAN = [
    {"instruction": "{name}에게 이유 3가지가 담긴 편지를 쓰세요.", "input": ""},
    {"instruction": "아래 글을 요약하세요.", "input": "1999년에 고양이가 깔개에 앉았다."},
]
ANSWER = "고양이가 깔개 위에 앉았다는 이야기입니다."


def settings(folder: Path, rows: Any = ROWS, **more: Any) -> Synthesis:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    values: dict[str, Any] = {
        "method": "translate", "language": "ko", "from_language": "en", "sources": [{"path": str(path)}],
        "teacher": {"model": "m", "terms": "any"},
    }  # fmt: skip
    return Synthesis(**{**values, **more})


def reply(texts: Mapping[str, str], untranslatable: str = "") -> str:
    return json.dumps({"untranslatable": untranslatable, **texts}, ensure_ascii=False)


def draft_of(method: Translate, *replies: Reply | str, number: int = 0) -> tuple[Draft, list[Request]]:
    (draft,), asked = driven(method.draft(number), replies)
    return draft, asked


def test_a_row_is_translated_then_answered_anew(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path))
    assert (method.items, method.rows_per_item) == (2, 1)
    draft, (request,) = draft_of(method, reply(KOREAN[1]), number=1)
    assert request.purpose == "translation"
    assert request.schema is not None
    assert list(request.schema["properties"]) == ["untranslatable", "instruction", "input"]
    assert "A cat sat on the mat in 1999." in request.messages[0][1]
    assert "한국어로 번역" in request.messages[0][1]
    assert (draft.instruction, draft.input, draft.output, draft.rejected) == (*KOREAN[1].values(), "", None)
    (row,), (second,) = driven(method.finish(draft), [ANSWER])
    assert (row.output, row.rejected) == (ANSWER, None)
    assert row.requests == (request.key, second.key)
    assert row.origin["place"].endswith("rows.jsonl:2")
    assert set(row.origin) == {"source", "place", "id", "prompt"}
    assert KOREAN[1]["input"] in second.messages[0][1]
    assert second.schema is None


def test_without_rewriting_the_output_is_translated_in_the_same_request(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path, rewrite=False))
    draft, _ = draft_of(method, reply({**KOREAN[1], "output": "고양이가 앉았다."}), number=1)
    rows, asked = driven(method.finish(draft), [])
    assert (rows[0].output, asked) == ("고양이가 앉았다.", [])


def test_outputs_are_not_needed_where_they_are_written_anew(tmp_path: Path) -> None:
    rows = [{"instruction": "Name three fruits.", "input": ""}, {"instruction": "Name a fruit.", "output": ""}]
    assert Translate(settings(tmp_path, rows)).items == 2
    (rejected,), asked = driven(Translate(settings(tmp_path, rows[1:], rewrite=False)).draft(0), [])
    assert (rejected.rejected, asked) == (("output-empty", "output is empty"), [])


def test_a_translation_that_is_not_intact_is_asked_for_once_more(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path))
    bad = reply({"instruction": "이름에게 이유가 담긴 편지를 쓰세요.", "input": ""})
    draft, asked = draft_of(method, bad, reply(KOREAN[0]))
    assert draft.rejected is None
    assert [request.purpose for request in asked] == ["translation", "repair"]
    assert [role for role, _ in asked[1].messages] == ["user", "assistant", "user"]
    assert "placeholder missing: {name}" in asked[1].messages[2][1]
    assert "number missing: 3" in asked[1].messages[2][1]
    assert draft.requests == tuple(request.key for request in asked)
    draft, _ = draft_of(method, bad, bad)
    assert draft.rejected == (
        "not-intact", "instruction: placeholder missing: {name}; instruction: number missing: 3",
    )  # fmt: skip
    assert draft.raw == bad


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        ({"instruction": "Summarise the text below.", "input": KOREAN[1]["input"]}, "not-translated"),
        ({"instruction": KOREAN[1]["instruction"], "input": ROWS[1]["input"]}, "not-translated"),
        ({"instruction": "아래 글을 要約하세요.", "input": KOREAN[1]["input"]}, "wrong-script"),
        ({"instruction": KOREAN[1]["instruction"], "input": ""}, "empty-translation"),
        ({"instruction": "", "input": KOREAN[1]["input"]}, "empty-translation"),
    ],
)
def test_faults_of_a_translation(tmp_path: Path, texts: dict[str, str], rule: str) -> None:
    method = Translate(settings(tmp_path))
    draft, asked = draft_of(method, reply(texts), reply(texts), number=1)
    assert draft.rejected is not None
    assert draft.rejected[0] == rule
    assert len(asked) == 2
    assert draft_of(method, reply(texts), reply(KOREAN[1]), number=1)[0].rejected is None


def test_foreign_script_of_the_source_may_stay(tmp_path: Path) -> None:
    row = {"instruction": "Explain the sign 山 to a child.", "input": "", "output": "x"}
    draft, _ = draft_of(
        Translate(settings(tmp_path, [row])), reply({"instruction": "아이에게 山 기호를 설명하세요.", "input": ""})
    )
    assert draft.rejected is None


def test_a_task_that_makes_no_sense_in_the_other_language(tmp_path: Path) -> None:
    row = {"instruction": "How many letters has the word 'tree'?", "input": "", "output": "4"}
    method = Translate(settings(tmp_path, [row]))
    draft, asked = draft_of(method, reply({"instruction": "", "input": ""}, "asks for English letters"))
    assert draft.rejected == ("untranslatable", "asks for English letters")
    assert draft.instruction == row["instruction"]
    assert len(asked) == 1
    for word in ("no", "No.", "None", "아니요", "..."):
        got = reply({"instruction": "'나무'는 몇 글자인가요?", "input": ""}, word)
        assert draft_of(method, got)[0].rejected is None


def test_replies_that_cannot_be_read(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path))
    draft, asked = draft_of(method, "no JSON", reply(KOREAN[0]))
    assert (draft.rejected, len(asked)) == (None, 2)
    draft, _ = draft_of(method, "no JSON", "still none")
    assert draft.rejected is not None
    assert (draft.rejected[0], draft.raw) == ("unparsable", "still none")
    draft, asked = draft_of(method, Reply('{"instruction": "한', finish="length"))
    assert draft.rejected is not None
    assert (draft.rejected[0], len(asked)) == ("cut-off", 1)
    draft, _ = draft_of(method, Reply("", failure="the prompt is too long"))
    assert draft.rejected == ("refused-request", "the prompt is too long")
    draft, _ = draft_of(method, Reply("", finish="content_filter"))
    assert draft.rejected == ("refusal", "the provider's content filter ended the reply")
    draft, asked = draft_of(method, "I'm sorry, but I cannot assist with that request.")
    assert (draft.rejected, len(asked)) == (("refusal", "the teacher refuses"), 1)


def test_an_output_in_the_wrong_language_is_asked_for_once_more(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path))
    draft, _ = draft_of(method, reply(KOREAN[1]), number=1)
    english = "The cat was sitting on the mat and it did not want to leave it."
    (row,), asked = driven(method.finish(draft), [english, ANSWER])
    assert (row.output, row.rejected, len(asked)) == (ANSWER, None, 2)
    (row,), _ = driven(method.finish(draft), [english, english])
    assert row.rejected is not None
    assert row.rejected[0] == "wrong-language"
    (row,), _ = driven(method.finish(draft), [Reply("고양이가", finish="length")])
    assert row.rejected is not None
    assert row.rejected[0] == "cut-off"


@pytest.mark.parametrize(
    ("languages", "source", "translation", "name"),
    [
        (("ko", "en"), "3만 5천 원을 계산하세요.", "Calculate 35,000 won.", "English"),
        (("en", "de"), "Name 3 animals that live in the sea.", "Nenne drei Tiere, die im Meer leben.", "German"),
        (("", "ja"), "Name 3 animals.", "動物を3つ挙げてください。", "Japanese"),
        (("en", "qaa"), "Name 3 animals.", "Nomu tri bestoj.", "the language with the ISO 639 code 'qaa'"),
    ],
)
def test_language_pairs(tmp_path: Path, languages: tuple[str, str], source: str, translation: str, name: str) -> None:
    rows = [{"instruction": source, "input": "", "output": "x"}]
    method = Translate(settings(tmp_path, rows, from_language=languages[0], language=languages[1]))
    draft, (request,) = draft_of(method, reply({"instruction": translation, "input": ""}))
    assert (draft.rejected, draft.instruction) == (None, translation)
    assert f"Translate it into {name}" in request.messages[0][1]


def test_a_language_without_a_name_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Translate(settings(tmp_path, language="qaa"))
    assert "no name is known for the language qaa" in capsys.readouterr().out


def test_text_mode(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path, teacher={"model": "m", "terms": "any", "json_mode": "text"}))
    text = f"번역불가: 아니요\n지시: {KOREAN[1]['instruction']}\n입력: {KOREAN[1]['input']}"
    draft, (request,) = draft_of(method, text, number=1)
    assert (draft.instruction, draft.input, draft.rejected) == (*KOREAN[1].values(), None)
    assert request.schema is None
    assert "지시: Summarise the text below." in request.messages[0][1]
    draft, _ = draft_of(method, f"번역불가: 아니요\n지시: {KOREAN[0]['instruction']}\n입력: <noinput>")
    assert (draft.input, draft.rejected) == ("", None)


def keys(method: Translate) -> list[str]:
    return [next(method.draft(number)).key for number in range(method.items or 0)]


def test_a_row_more_keeps_the_requests_of_the_others(tmp_path: Path) -> None:
    before = keys(Translate(settings(tmp_path)))
    more = {"instruction": "Name a colour of the sky.", "input": "", "output": "Blue"}
    after = keys(Translate(settings(tmp_path, [ROWS[0], more, ROWS[1]])))
    assert [after[0], after[2]] == before
    assert len({*after}) == 3


def test_rows_of_a_source_that_cannot_be_used_are_rejected_without_a_request(tmp_path: Path) -> None:
    method = Translate(settings(tmp_path, [*ROWS, {"instruction": 7, "output": "x"}]))
    (draft,), asked = driven(method.draft(2), [])
    assert draft.rejected == ("instruction-not-text", "instruction is a number, not text")
    assert draft.origin["place"].endswith("rows.jsonl:3")
    assert asked == []
    with pytest.raises(UserError, match="none of its 1 rows can be used"):
        Translate(settings(tmp_path, [{"a": "b"}]))


def test_rows_that_are_too_long_are_not_paid_for(tmp_path: Path) -> None:
    rows = [{"instruction": "Summarise the text.", "input": "word " * 300, "output": "x"}]
    (draft,), asked = driven(Translate(settings(tmp_path, rows, longest=1000)).draft(0), [])
    assert (draft.rejected, asked) == (("too-long", "input has 1,500 characters, more than 1,000"), [])


def test_an_input_that_says_there_is_none_is_empty(tmp_path: Path) -> None:
    rows = [{"instruction": "Name three colours.", "input": "<noinput>", "output": "x"}]
    draft, (request,) = draft_of(
        Translate(settings(tmp_path, rows)), reply({"instruction": "색 세 가지를 대세요.", "input": "<noinput>"})
    )
    assert (draft.input, draft.rejected) == ("", None)
    assert "<noinput>" not in request.messages[0][1]


def test_a_limit_takes_rows_by_their_hashes(tmp_path: Path) -> None:
    rows = [{"instruction": f"Name {number} animals.", "output": "x"} for number in range(40)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps(rows))
    limited = {"sources": [{"path": str(path), "limit": 10}]}
    few = {row.example.instruction for row in Translate(settings(tmp_path, **limited)).rows}  # type: ignore[union-attr]
    path.write_text(json.dumps([{"instruction": "Name a plant.", "output": "x"}, *rows]))
    again = {row.example.instruction for row in Translate(settings(tmp_path, **limited)).rows}  # type: ignore[union-attr]
    assert len(few) == 10
    assert len(few & again) >= 9


def test_a_generation_pays_once(tmp_path: Path) -> None:
    def says(request: Request) -> str:
        if request.purpose == "answer":
            return ANSWER
        return reply(KOREAN["cat sat" in request.messages[0][1]])

    config = settings(tmp_path)
    result, asked = generated(config, tmp_path, says)
    assert [(row.instruction, row.input) for row in result.rows] == [tuple(row.values()) for row in KOREAN]
    assert len(asked) == 4
    again, asked = generated(config, tmp_path, says)
    assert (again.rows, asked) == (result.rows, [])
