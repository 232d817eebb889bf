"""Benchmarks: every published form gives its questions, and what cannot be read is said with file, line and cure."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Benchmark
from pipeline.dataset.read.benchmark import BenchmarkQuestion, name_of, read, read_all
from pipeline.run.errors import UserError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


def asked(path: Path | str, field: str = "") -> list[tuple[str, tuple[str, ...]]]:
    return [(question.text, question.choices) for question in read(Benchmark(path=str(path), field=field))]


ROWS: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({"query": "Question: Why?", "choices": ["a", "b"], "gold": 1}, "Why?", ("b", "a")),
    ({"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}, "Why?", ("b", "a")),
    ({"question": "Why?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}, "Why?", ("b", "a")),
    ({"question": "Why?", "choices": ["a", "b", "c"], "answer": 2}, "Why?", ("c", "a", "b")),
    ({"question": "Why?", "options": ["a", "b"], "answer": "B"}, "Why?", ("b", "a")),
    ({"ctx_a": "A man", "ctx": "A man. he", "endings": ["a", "b"], "label": "1"}, "A man. he", ("b", "a")),
    ({"paragraph": "긴 글", "question": "맞는가?", "label": 1}, "맞는가?", ()),
    ({"premise": "비", "question": "x", "alternative_1": "가", "alternative_2": "나", "label": 1}, "비", ("나", "가")),
    ({"word": "양분", "context_1": "[양분]이", "context_2": "[양분]된", "label": 0}, "[양분]이\n[양분]된", ()),
    ({"context": "비", "ending_1": "가", "ending_2": "나", "ending_3": "다", "label": 2}, "비", ("다", "가", "나")),
    ({"sentence": "정말 마음에 듬", "label": 1}, "정말 마음에 듬", ()),
    ({"question": "Q?", "best_answer": "a", "correct_answers": ["b"], "incorrect_answers": ["c"]}, "Q?", tuple("abc")),
    ({"instruction": "Rewrite.", "input": "A text.", "output": "x"}, "Rewrite.\nA text.", ()),
    ({"prompt": "Why?", "completion": "x"}, "Why?", ()),
    ({"text": "Why?"}, "Why?", ()),
]  # fmt: skip


@pytest.mark.parametrize(("row", "text", "choices"), ROWS)
def test_rows_of_known_forms(write: Write, row: dict[str, Any], text: str, choices: tuple[str, ...]) -> None:
    line = json.dumps(row, ensure_ascii=False)
    assert asked(write("a.jsonl", line)) == [(text, choices)]
    assert asked(write("b.json", f"[{line},\n{line}]")) == [(text, choices)] * 2


def test_each_instance_is_a_question(write: Write) -> None:
    row = {"instruction": "Shorten.", "instances": [{"input": "One."}, {"input": "Two.", "output": "x"}]}
    bare = {"instruction": "Tell a joke.", "instances": [{"input": "", "output": "x"}]}
    path = write("a.jsonl", f"{json.dumps(row)}\n\n{json.dumps(bare)}\n")
    questions = read(Benchmark(path=str(path)))
    assert [question.text for question in questions] == ["Shorten.\nOne.", "Shorten.\nTwo.", "Tell a joke."]
    assert [question.place for question in questions] == [f"{path}:1", f"{path}:1", f"{path}:3"]


def test_sheets(write: Write) -> None:
    header = 'question,choice0,choice1,choice2,choice3,answer\n"Why, ""so""?\nNow",a,b,c,d,2\nWho?,a,b,c,d,0\n'
    expected = [('Why, "so"?\nNow', ("c", "a", "b", "d")), ("Who?", ("a", "b", "c", "d"))]
    path = write("mmlu.csv", header)
    assert asked(path) == expected
    assert [question.place for question in read(Benchmark(path=str(path)))] == [f"{path}:2", f"{path}:4"]
    bare = header.split("\n", 1)[1].replace(",2\n", ",C\n").replace(",0\n", ",A\n")
    assert asked(write("hendrycks.csv", bare)) == expected
    assert asked(write("no_suffix", bare)) == expected
    truthful = "Type,Question,Best Answer,Correct Answers,Incorrect Answers\nX,Why?,So,So; Thus,Never; No\n"
    assert asked(write("t.csv", truthful)) == [("Why?", ("So", "Thus", "Never", "No"))]
    assert asked(write("t.tsv", "question\tlabel\n맞는가?\t1\n")) == [("맞는가?", ())]


def test_lists_that_people_bring(write: Write) -> None:
    expected: list[tuple[str, tuple[str, ...]]] = [("Why, and how?", ()), ("Who?", ())]
    assert asked(write("a.txt", "Why, and how?\r\n\n  Who?\n")) == expected
    assert asked(write("a.json", '["Why, and how?", "Who?"]')) == expected
    assert asked(write("b.jsonl", '"Why, and how?"\n"Who?"\n')) == expected
    assert asked(write("c.txt", '"Why" is short\nWho?')) == [('"Why" is short', ()), ("Who?", ())]
    assert asked(write("d.json", '{\n"data": [{"text": "Who?"}], "n": 1}')) == expected[1:]
    assert asked(write("e.jsonl", '{"frage": "Who?", "text": "x"}'), "frage") == expected[1:]
    assert asked(write("f.csv", "frage,b\nWho?,x\n"), "frage") == expected[1:]
    packed = write("g.jsonl.gz", "")
    packed.write_bytes(gzip.compress(b'\xef\xbb\xbf{"text": "Who?"}\n'))
    assert asked(packed) == expected[1:]


def test_a_glob_is_one_benchmark_in_the_order_of_its_files(write: Write) -> None:
    for name in ("b_test.csv", "a_test.csv", "a_val.csv"):
        write(f"mmlu/{name}", f"question,answer\n{name[0]}?,1\n")
    path = str(write("x.txt", "Who?").parent / "mmlu" / "*_test.csv")
    questions = read_all([Benchmark(path=path), Benchmark(path=path, name="again")])
    assert [(q.benchmark, q.text) for q in questions] == [
        ("mmlu", "a?"),
        ("mmlu", "b?"),
        ("again", "a?"),
        ("again", "b?"),
    ]
    assert name_of(Benchmark(path="x/arc_easy.jsonl.gz")) == "arc_easy"


@pytest.mark.parametrize(
    ("name", "text", "what", "where", "fix"),
    [
        ("a.jsonl", '{"text": "a?"}\n{"text": \n', "not valid JSON", ":2", "delete that row"),
        ("a.json", '[{"text": "a?"},\n oops]', "not valid JSON", ":2:2, row 2", "fix that place"),
        ("a.jsonl", '{"text": "a?"}\n{"frage": "b?", "id": 1}\n', "fields: 'frage', 'id'", ":2", "field: NAME"),
        ("a.csv", "frage,antwort\na?,b\n", "fields: 'frage', 'antwort'", ":2", "field: NAME"),
        ("a.jsonl", '{"text": "a?"}\n{"text": " "}\n', "the question is empty", ":2", "delete that row"),
        ("a.json", "[1]", "a text or an object, this is '1'", ":1 (row 1)", "delete that row"),
        ("a.json", '{"a": [1], "b": [2],\n"c": 3}', "one JSON object", "a.json", "save the list alone"),
        ("a.txt", " \n", "the file is empty", "a.txt", "it needs questions"),
        ("a.json", "[]", "the array is empty", "a.json", "it needs rows"),
        ("a.csv", "question,answer\n", "holds no questions", "a.csv", "fetch it again"),
    ],
)
def test_errors_say_what_where_and_how_to_fix(
    write: Write, name: str, text: str, what: str, where: str, fix: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(Benchmark(path=str(write(name, text))))
    assert what in caught.value.what
    assert name in caught.value.where
    assert caught.value.where.endswith(where)
    assert fix in caught.value.fix


def test_files_that_cannot_be_read(write: Write) -> None:
    path = write("arc_easy.jsonl", '{"text": "a?"}')
    with pytest.raises(UserError, match="no such") as caught:
        read(Benchmark(path=str(path.parent / "arc_esay.jsonl")))
    assert caught.value.fix == f"did you mean {path}?"
    with pytest.raises(UserError, match="folder"):
        read(Benchmark(path=str(path.parent)))
    with pytest.raises(UserError, match=r"'frage'.*'text'"):
        read(Benchmark(path=str(path), field="frage"))
    with pytest.raises(UserError, match="arc_easy"):
        read_all([Benchmark(path=str(path)), Benchmark(path="not/there/arc_easy.csv")])
    path.write_bytes(b"a?\nb\xff?\n")
    with pytest.raises(UserError, match="not UTF-8") as caught:
        read(Benchmark(path=str(path)))
    assert caught.value.where == f"{path}:2"
    path.write_bytes(gzip.compress(b"a?\n" * 1000)[:-12])
    with pytest.raises(UserError, match="gzip"):
        read(Benchmark(path=str(path)))


def test_real_files(shared_data: Path) -> None:
    counts = {"arc_easy.jsonl": 2376, "hellaswag_1000.jsonl": 1000, "mmlu/*_test.csv": 14_042, "TruthfulQA.csv": 817}
    for name, count in counts.items():
        questions = read(Benchmark(path=str(shared_data / "eval" / name)))
        assert len(questions) == count
        assert all(isinstance(q, BenchmarkQuestion) and q.text and len(q.choices) >= 2 for q in questions)
