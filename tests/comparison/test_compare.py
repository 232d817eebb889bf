"""Comparing: question sets of many forms, answers that a kill does not lose, a page that runs no stranger's text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import stages
from pipeline.comparison.answer_pairs import AnswerPair, ModelAnswer, alpaca_eval_rows, digest_of, load_pairs, merged
from pipeline.comparison.page import page, swapped
from pipeline.comparison.questions import CompareQuestion, in_turn, read_all
from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.evaluation import measure as measurement
from pipeline.evaluation.answers import answer
from pipeline.model.load import load_folder
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.pages import ParsedPage
from tests.helpers.report_run import NASTY
from tests.helpers.tiny import HEAVY, make_config, run_to

ROOT = Path(__file__).parents[2]
ASKED = [
    {"id": "one", "category": "maths", "instruction": "What is 2 + 2?", "input": ""},
    {"id": "two", "category": "chat", "instruction": "안녕하세요?", "input": "문맥"},
    {"id": "three", "category": "maths", "instruction": "And 3 + 3?", "input": ""},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- question sets


def test_our_own_sets_are_sound() -> None:
    questions, twice = read_all([str(ROOT / f"data/questions_{name}.jsonl") for name in ("ko", "en")])
    assert (len(questions), twice) == (102, 0)
    assert sum(bool(re.search("[가-힣]", q.instruction)) for q in questions if q.set == "questions_ko") == 72
    assert len({q.category for q in questions}) == 12


@pytest.mark.parametrize(
    "text",
    [
        '{"instruction": "Do it", "input": "this", "category": "c", "id": 7}\n',
        '[{"instruction": "Do it", "input": "this", "output": "done", "category": "c", "id": "7"}]',
        "id,category,instruction,input\n7,c,Do it,this\n",
        "id\tcategory\tinstruction\tinput\toutput\n7\tc\tDo it\tthis\tdone\n",
        '{"id": "7", "motivation_app": "c", "instruction": "Do it", "instances": [{"input": "this"}]}\n',
        '{"id": "7", "question": "Do it", "context": "this", "task": "c"}\n',
    ],
)
def test_a_set_may_have_many_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "set").write_text(text)
    (found,), _ = read_all([str(tmp_path / "set")])
    assert (found.id, found.set, found.category) == ("7", "set", "c")
    assert (found.instruction, found.input) == ("Do it", "this")
    assert found.reference == ("done" if "done" in text else "")


def test_parquet_needs_no_answers_either(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"instruction": ["Do it"], "input": [None]}), tmp_path / "p.parquet")
    (found,), _ = read_all([str(tmp_path / "p.parquet")])
    assert (found.id, found.input, found.category) == ("p-1", "", "other")


def test_user_oriented_instructions(shared_data: Path) -> None:
    found, twice = read_all([str(shared_data / "eval" / "user_oriented_instructions.jsonl")])
    assert (len(found), twice) == (252, 0)
    first = found[0]
    assert (first.id, first.category) == ("user_oriented_task_0", "Grammarly")
    assert first.input.startswith("If you have any questions")
    assert first.reference.startswith("If you have any questions about my rate or find")


def test_ids_are_unique_and_a_question_is_asked_once(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", ASKED)
    other = jsonl(
        tmp_path / "b.jsonl", [{**ASKED[0], "instruction": "New"}, {**ASKED[1], "instruction": "안녕하세요? "}]
    )
    found, twice = read_all([one, other])
    assert [q.id for q in found] == ["one", "two", "three", "b/one"]
    assert twice == 1
    with pytest.raises(UserError, match="two questions") as error:
        read_all(
            [jsonl(tmp_path / "c.jsonl", [ASKED[0], {**ASKED[0], "instruction": "x"}, {**ASKED[0], "input": "y"}])]
        )
    assert "c.jsonl:3" in error.value.where


@pytest.mark.parametrize(
    ("text", "said", "where"),
    [
        ('{"instruction": "x"}\n{"instruction": \n', "not valid JSON", ":2"),
        ('{"instruction": "x"}\n{"instruction": "  "}\n', "instruction is empty", ":2"),
        ('{"instruction": 5}\n', "instruction is a number", ":1"),
        ('{"name": "x"}\n', "no field 'instruction'", ":1"),
        ('[{"instruction": "x", "context": "a", "input": "b"}]', "'context' would be lost", "row 1"),
        ("answer,other\n1,2\n", "", ":1"),
        ("", "the file is empty", ""),
        ("[]", "the array is empty", ""),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, said: str, where: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        read_all([str(tmp_path / "q.jsonl")])
    assert said in error.value.what
    assert where in error.value.where


def test_a_missing_set_is_told_under_its_own_key(tmp_path: Path) -> None:
    jsonl(tmp_path / "questions.jsonl", ASKED)
    with pytest.raises(UserError, match="question set") as error:
        read_all([str(tmp_path / "question.jsonl")])
    assert error.value.where == "compare.questions"
    assert "did you mean" in error.value.fix
    with pytest.raises(UserError, match="question set"):
        read_all([])


def test_a_limit_takes_from_each_category() -> None:
    questions = [CompareQuestion(str(i), "s", "abbbc"[i], "x", "", "", "") for i in range(5)]
    assert [q.id for q in in_turn(questions, 3)] == ["0", "1", "4"]
    assert [q.id for q in in_turn(questions, 4)] == ["0", "1", "2", "4"]
    assert in_turn(questions, None) == questions


# --- files


def pair(id: str, base: str, tuned: str, input: str = "", category: str = "c") -> AnswerPair:
    return AnswerPair(
        CompareQuestion(id, "s", category, f"Question {id}", input, "", ""),
        ModelAnswer(base, True),
        ModelAnswer(tuned, False),
    )


def test_alpaca_eval_gets_its_fields() -> None:
    pairs = [pair("1", "b", "t"), pair("2", "b2", "t2", "the input")]
    assert alpaca_eval_rows(pairs, "tuned", "run-tuned") == [
        {"dataset": "s", "instruction": "Question 1", "output": "t", "generator": "run-tuned"},
        {"dataset": "s", "instruction": "Question 2\n\nthe input", "output": "t2", "generator": "run-tuned"},
    ]
    assert merged("x", " \n") == "x"


def test_the_page_shows_hostile_text_and_runs_none_of_it() -> None:
    question = CompareQuestion(NASTY, NASTY, NASTY, NASTY, NASTY, NASTY, "")
    hostile = AnswerPair(question, ModelAnswer(NASTY, False), ModelAnswer(" ", True))
    html = page(NASTY, NASTY, [hostile], [(question, 9)], digest_of([hostile]), 5)
    seen = ParsedPage(html)
    assert seen.tags["script"] == 1
    assert "img" not in seen.tags
    assert seen.handlers == []
    assert seen.text.count("<script>alert(1)</script>") >= 8
    assert "(empty answer)" in seen.text
    assert "cut off after 5 tokens" in seen.text
    assert "1 question was too long" in seen.text
    assert not re.search(r'(?:src|href)="(?!data:,")', html)


def test_left_and_right_are_drawn_by_hash() -> None:
    sides = [swapped("abc", str(i)) for i in range(200)]
    assert sides == [swapped("abc", str(i)) for i in range(200)]
    assert 70 < sum(sides) < 130
    assert sides != [swapped("abd", str(i)) for i in range(200)]


# --- the stage


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Run]:
    """An exported run, the overrides that compare it on three questions, and its folder."""
    folder = tmp_path_factory.mktemp("compare")
    path = jsonl(folder / "asked.jsonl", ASKED)
    more = [f"compare.questions=[{path}]", "compare.max_new_tokens=4", "train.max_steps=2"]
    return folder, more, run_to(make_config(folder, base, *more), "export", folder)


def compared(done: tuple[Path, list[str], Run], base: Path, *more: str) -> Config:
    folder, overrides, run = done
    config = make_config(folder, base, *overrides, *more)
    stages.bring_up_to_date(config, run, "compare")
    return config


def test_both_models_answer_in_the_trained_form(done: tuple[Path, list[str], Run], base: Path) -> None:
    config, run = compared(done, base), done[2]
    pairs = load_pairs(run.folder("compare"))
    assert [p.question.id for p in pairs] == ["one", "two", "three"]
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    examples = [Example.of(r["instruction"], r["input"], "", source="x") for r in ASKED]
    for who, folder in (("base", base), ("tuned", run.folder("export"))):
        expected = answer(load_folder(folder, torch.float32), encoder, examples, 4, "x")
        assert [getattr(p, who).text for p in pairs] == [a.text.rstrip("\ufffd") for a in expected]
        rows = json.loads((run.folder("compare") / "alpaca_eval" / f"{who}.json").read_text())
        assert [row["output"] for row in rows] == [getattr(p, who).text for p in pairs]
        assert rows[1]["instruction"] == "안녕하세요?\n\n문맥"
        assert {row["generator"] for row in rows} == {f"tiny-{who}"}


def test_up_to_date_needs_no_torch(done: tuple[Path, list[str], Run], base: Path) -> None:
    compared(done, base)
    code = (
        "import sys; from pipeline.cli.main import start\n"
        f"start(['compare', {str(done[0] / 'tiny.yaml')!r}, *{done[1]!r}])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    env = {**os.environ, "RUNS": str(done[0])}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert made.stdout.count("up to date") == 5, made.stderr
    assert made.stdout.endswith("[]\n")


def test_a_kill_loses_only_the_batch_under_way(
    done: tuple[Path, list[str], Run], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(done, base)
    whole = load_pairs(done[2].folder("compare"))
    shutil.rmtree(done[2].folder("compare"))
    calls: list[int] = []
    real = measurement.greedy

    def killed(model: Any, prompts: Any, *, done: Any, **more: Any) -> Any:
        calls.append(len(prompts))

        def keep(rows: Any) -> None:
            done(rows)
            if len(calls) == 2 and calls[1] == 3:
                raise KeyboardInterrupt

        return real(model, prompts, done=keep, **{**more, "batch": 1})

    for path in (done[2].root / "measurements").glob("*.jsonl"):
        path.unlink()
    monkeypatch.setattr(measurement, "greedy", killed)
    with pytest.raises(KeyboardInterrupt):
        compared(done, base)
    compared(done, base)
    assert calls == [3, 3, 2]  # all of the base; the tuned model was stopped after its first, and went on
    assert load_pairs(done[2].folder("compare")) == whole


def test_new_questions_alone_are_asked_and_long_ones_left_out(
    done: tuple[Path, list[str], Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(done, base)
    more = [{"id": "four", "instruction": "A new one"}, {"id": "novel", "instruction": "word " * 600}]
    path = jsonl(tmp_path / "more.jsonl", [*ASKED, *more])
    calls: list[int] = []
    real = measurement.greedy
    monkeypatch.setattr(measurement, "greedy", lambda m, p, **k: calls.append(len(p)) or real(m, p, **k))
    compared(done, base, f"compare.questions=[{path}]")
    assert calls == [1, 1]
    assert [p.question.id for p in load_pairs(done[2].folder("compare"))] == ["one", "two", "three", "four"]
    text = ParsedPage((done[2].folder("compare") / "page.html").read_text()).text
    assert re.search(r"1 question was too long for the model and left out.*more: novel \([\d,]+ tokens\)", text)
    with pytest.raises(UserError, match="512 tokens"):
        compared(done, base, "compare.max_new_tokens=512")


def test_numbers_that_are_none_stop_it_by_name(
    done: tuple[Path, list[str], Run], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measurement.exported_model

    def broken(*args: Any) -> Any:
        model = real(*args)
        model.lm_head.weight.data[5, 0] = float("nan")
        return model

    (done[2].root / "measurements" / "tuned.jsonl").unlink(missing_ok=True)
    monkeypatch.setattr(measurement, "exported_model", broken)
    with pytest.raises(UserError, match=r"tuned model.*finite.*'(one|two|three)'") as error:
        compared(done, base, "compare.max_new_tokens=2")
    assert "asked.jsonl:" in error.value.where
