"""Questions and answers from documents and from given questions, with a scripted teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.run.errors import UserError
from pipeline.synthesis.questions import Item, Questions
from pipeline.synthesis.request import Draft, Reply, Request
from tests.helpers.teacher_replies import driven, generated

HANGUL = (
    "한글은 1443년 세종대왕이 창제하여 1446년에 반포한 문자이다. 처음에는 훈민정음이라고 불렸으며, 자음 17자와 "
    "모음 11자로 "
    "이루어져 있었다."
)
COFFEE = "커피는 에티오피아에서 처음 발견되었다고 전해진다. 15세기에 예멘의 수도사들이 밤 기도를 위해 커피를 마셨다."
QUESTIONS = ("한글은 누가 언제 창제했나요?", "한글은 처음에 무엇이라고 불렸나요?")
QUOTE = "한글은 1443년 세종대왕이 창제하여"
ANSWER = "한글은 1443년에 세종대왕이 창제하였습니다."


def settings(folder: Path, files: dict[str, str] | None = None, **more: Any) -> Synthesis:
    for name, text in ({"hangul.md": f"# 한글\n\n{HANGUL}"} if files is None else files).items():
        (folder / name).write_text(text)
    values: dict[str, Any] = {
        "method": "questions", "language": "ko", "documents": [str(folder)], "questions_per_passage": 2,
        "teacher": {"model": "m", "terms": "any"},
    }  # fmt: skip
    return Synthesis(**{**values, **more})


def asks(*questions: str) -> str:
    return json.dumps({"questions": [{"question": question} for question in questions]}, ensure_ascii=False)


def says(answer: str = ANSWER, quote: str = QUOTE, answerable: bool = True) -> str:
    return json.dumps({"answerable": answerable, "quote": quote, "answer": answer}, ensure_ascii=False)


def finished(method: Questions, draft: Draft, *replies: Reply | str) -> tuple[Draft, list[Request]]:
    (row,), asked = driven(method.finish(draft), replies)
    return row, asked


def test_questions_about_a_passage_are_answered_from_it(tmp_path: Path) -> None:
    method = Questions(settings(tmp_path))
    assert (method.items, method.rows_per_item) == (1, 2)
    drafts, (request,) = driven(method.draft(0), [asks(*QUESTIONS)])
    assert [draft.instruction for draft in drafts] == list(QUESTIONS)
    assert not any(draft.rejected for draft in drafts)
    prompt = request.messages[0][1]
    assert HANGUL in prompt
    assert "(제목: 한글)" in prompt
    assert "질문 2개를 한국어로" in prompt
    row, (second,) = finished(method, drafts[0], says())
    assert (row.instruction, row.input, row.output, row.rejected) == (QUESTIONS[0], "", ANSWER, None)
    assert row.requests == (request.key, second.key)
    assert {name: row.origin[name] for name in ("document", "place", "heading", "quote")} == {
        "document": "hangul.md", "place": "line 3", "heading": "한글", "quote": QUOTE,
    }  # fmt: skip
    assert len(row.origin["passage"]) == 16
    assert QUESTIONS[0] in second.messages[0][1]
    assert "hangul.md" not in second.messages[0][1]


def test_questions_that_need_the_passage_are_asked_for_once_more(tmp_path: Path) -> None:
    method = Questions(settings(tmp_path))
    bad = asks(QUESTIONS[0], "위 글에서 자음은 몇 자인가요?")
    drafts, asked = driven(method.draft(0), [bad, asks(*QUESTIONS)])
    assert [draft.rejected for draft in drafts] == [None, None]
    assert "speaks of a text that its reader does not have: 위 글에서" in asked[1].messages[2][1]
    assert drafts[0].requests == tuple(request.key for request in asked)
    drafts, _ = driven(method.draft(0), [bad, bad])
    assert drafts[0].rejected is None
    assert drafts[1].rejected is not None
    assert drafts[1].rejected[0] == "needs-passage"


@pytest.mark.parametrize(
    ("question", "rule"),
    [
        ("Who was the man that made these letters, and why did he do it?", "wrong-language"),
        ("누가 文字를 만들었나요?", "wrong-script"),
        ("지문의 주제는 무엇인가요?", "needs-passage"),
    ],
)
def test_questions_that_cannot_be_used(tmp_path: Path, question: str, rule: str) -> None:
    drafts, asked = driven(Questions(settings(tmp_path)).draft(0), [asks(question), asks(question)])
    assert drafts[0].rejected is not None
    assert (drafts[0].rejected[0], len(asked)) == (rule, 2)


def test_replies_without_questions(tmp_path: Path) -> None:
    method = Questions(settings(tmp_path))
    drafts, asked = driven(method.draft(0), ["what?", asks(QUESTIONS[0])])
    assert ([draft.rejected for draft in drafts], len(asked)) == ([None], 2)
    drafts, _ = driven(method.draft(0), ["what?", asks()])
    assert drafts[0].rejected is not None
    assert drafts[0].rejected[0] == "unparsable"
    drafts, _ = driven(method.draft(0), [Reply("", failure="too long")])
    assert drafts[0].rejected == ("refused-request", "too long")
    drafts, _ = driven(method.draft(0), [asks(*QUESTIONS, "한글의 자음은 몇 자였나요?")])
    assert len(drafts) == 2


@pytest.mark.parametrize(
    ("replies", "rule", "reason"),
    [
        ([says(answerable=False, answer="", quote="")], "not-answerable", "does not answer it"),
        (
            [says("한글은 1444년에 세종대왕이 창제하였습니다.")],
            "not-supported",
            "numbers that are not in the passage: 1444",
        ),
        ([says(quote="세종대왕이 만든 글자")], "not-supported", "the quotation is not in the passage"),
        ([says("")], "output-empty", "output is empty"),
        ([says("위 글에 따르면 " + ANSWER)] * 2, "needs-passage", "위 글에"),
        (["no JSON", "none"], "unparsable", "JSON"),
        ([Reply('{"answerable": true, "quo', finish="length")], "cut-off", "max_tokens"),
    ],
)
def test_answers_that_are_rejected(tmp_path: Path, replies: list[Reply | str], rule: str, reason: str) -> None:
    method = Questions(settings(tmp_path))
    drafts, _ = driven(method.draft(0), [asks(*QUESTIONS)])
    row, asked = finished(method, drafts[0], *replies)
    assert row.rejected is not None
    assert row.rejected[0] == rule
    assert reason in row.rejected[1]
    assert len(asked) == len(replies)
    assert row.instruction == QUESTIONS[0]


def test_an_answer_that_speaks_of_the_passage_is_asked_for_once_more(tmp_path: Path) -> None:
    method = Questions(settings(tmp_path))
    drafts, _ = driven(method.draft(0), [asks(*QUESTIONS)])
    row, asked = finished(method, drafts[0], says("본문에서 " + ANSWER), says())
    assert (row.output, row.rejected, len(asked)) == (ANSWER, None, 2)


def test_an_answer_that_is_written_again_is_checked_again(tmp_path: Path) -> None:
    method = Questions(settings(tmp_path))
    drafts, _ = driven(method.draft(0), [asks(*QUESTIONS)])
    foreign = says("한글은 1443년에 世宗이 創製하였습니다, 세종대왕이 창제.")
    for output, rejected in ((ANSWER, False), ("한글은 1444년에 세종대왕이 창제하였습니다.", True)):
        again = json.dumps({"instruction": QUESTIONS[0], "input": "", "output": output}, ensure_ascii=False)
        row, asked = finished(method, drafts[0], foreign, again)
        assert [request.purpose for request in asked] == ["answer", "script"]
        assert bool(row.rejected) is rejected
        assert not rejected or row.rejected[0] == "not-supported"  # type: ignore[index]


def test_given_questions_are_answered_from_their_answers(tmp_path: Path) -> None:
    table = tmp_path / "qa.csv"
    table.write_text(f'Q,A\n커피는 어디서 왔나요?,"{COFFEE}"\n12시 땡!,하루가 또 가네요.\n')
    source = {"path": str(table), "columns": {"instruction": "Q", "output": "A"}}
    config = settings(tmp_path, {}, documents=[], sources=[source])
    method = Questions(config)
    assert (method.items, method.rows_per_item) == (2, 1)
    number = next(n for n, item in enumerate(method.list) if isinstance(item, Item) and item.passage == COFFEE)
    (draft,), asked = driven(method.draft(number), [])
    assert (draft.instruction, asked, draft.origin["place"]) == ("커피는 어디서 왔나요?", [], f"{table}:2")
    answer = "커피는 에티오피아에서 처음 발견되었다고 전해집니다."
    row, (request,) = finished(method, draft, says(answer, "커피는 에티오피아에서 처음 발견되었다고"))
    assert (row.output, row.rejected) == (answer, None)
    assert COFFEE in request.messages[0][1]


def test_a_given_question_keeps_its_input(tmp_path: Path) -> None:
    rows = [{"instruction": "누가 창제했나요?", "input": "한글", "output": HANGUL}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(rows[0]))
    method = Questions(settings(tmp_path, {}, documents=[], sources=[{"path": str(path)}]))
    (draft,), _ = driven(method.draft(0), [])
    row, (request,) = finished(method, draft, says())
    assert (row.instruction, row.input, row.rejected) == ("누가 창제했나요?", "한글", None)
    assert "질문: 누가 창제했나요?\n한글" in request.messages[0][1]


@pytest.mark.parametrize(
    ("language", "question", "answer"),
    [
        ("en", "Who created Hangul, and when?", "King Sejong created Hangul in 1443."),
        ("de", "Wer schuf das koreanische Alphabet?", "Sejong der Große schuf es im Jahr 1443."),
    ],
)
def test_rows_in_another_language_than_the_documents(tmp_path: Path, language: str, question: str, answer: str) -> None:
    method = Questions(settings(tmp_path, language=language))
    (draft,), (request,) = driven(method.draft(0), [asks(question)])
    assert f"questions in {'English' if language == 'en' else 'German'}" in request.messages[0][1]
    row, _ = finished(method, draft, says(answer))
    assert (row.output, row.rejected) == (answer, None)


def test_text_mode(tmp_path: Path) -> None:
    method = Questions(settings(tmp_path, teacher={"model": "m", "terms": "any", "json_mode": "text"}))
    drafts, (request,) = driven(method.draft(0), [f"1. 질문: {QUESTIONS[0]}\n2. 질문: {QUESTIONS[1]}"])
    assert [draft.instruction for draft in drafts] == list(QUESTIONS)
    assert request.schema is None
    row, _ = finished(method, drafts[0], f"답변가능: 예\n인용: {QUOTE}\n답변: {ANSWER}")
    assert (row.output, row.rejected) == (ANSWER, None)
    row, _ = finished(method, drafts[0], "답변가능: 아니요\n인용:\n답변:")
    assert row.rejected is not None
    assert row.rejected[0] == "not-answerable"


def keys(method: Questions) -> set[str]:
    return {next(method.draft(number)).key for number in range(method.items or 0)}


def test_a_document_more_keeps_the_requests_about_the_others(tmp_path: Path) -> None:
    before = keys(Questions(settings(tmp_path)))
    after = keys(Questions(settings(tmp_path, {"a.txt": COFFEE})))
    assert len(before) == 1
    assert len(after) == 2
    assert before < after
    (tmp_path / "hangul.md").rename(tmp_path / "renamed.md")
    assert keys(Questions(settings(tmp_path, {}))) == after


def test_the_order_of_items_is_that_of_their_content(tmp_path: Path) -> None:
    texts = {f"{n}.txt": f"{n}번째 문서는 {HANGUL}" for n in range(8)}
    order = [item.passage for item in Questions(settings(tmp_path, texts)).list if isinstance(item, Item)]
    assert order != sorted(order)
    (tmp_path / "3.txt").unlink()
    fewer = [item.passage for item in Questions(settings(tmp_path, {})).list if isinstance(item, Item)]
    assert fewer == [passage for passage in order if passage != texts["3.txt"]]


def test_documents_without_a_passage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no passage to ask about"):
        Questions(settings(tmp_path, {"a.txt": "짧다"}))


def test_a_generation_pays_once_and_for_a_new_document_alone(tmp_path: Path) -> None:
    def answers(request: Request) -> str:
        text = request.messages[0][1]
        about_coffee = "에티오피아" in text
        if request.purpose == "questions":
            return asks("커피는 어디서 처음 발견되었다고 하나요?") if about_coffee else asks(QUESTIONS[0])
        if about_coffee:
            return says(
                "커피는 에티오피아에서 처음 발견되었다고 전해집니다.", "커피는 에티오피아에서 처음 발견되었다고"
            )
        return says()

    documents = tmp_path / "documents"
    documents.mkdir()
    result, asked = generated(settings(documents), tmp_path, answers)
    assert [row.output for row in result.rows] == [ANSWER]
    assert len(asked) == 2
    result, asked = generated(settings(documents, {"coffee.txt": COFFEE}), tmp_path, answers)
    assert len(result.rows) == 2
    assert [request.purpose for request in asked] == ["questions", "answer"]
    assert all("에티오피아" in request.messages[0][1] for request in asked)
