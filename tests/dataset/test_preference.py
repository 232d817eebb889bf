"""Preference data: the preferred answer is learnt, the other never, and it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import notes_of, to_alpaca
from pipeline.dataset.read.forms import form_name
from pipeline.dataset.read.row import RawRow, check
from pipeline.dataset.read.source import read

HUMAN = "\n\nHuman: q\n\nAssistant: a"


def said(row: Any, **more: Any) -> list[tuple[str, ...]]:
    source = Source(path="f", **more)
    found = [check(raw, source) for raw in to_alpaca(RawRow(row, "f:1"), source)]
    return [(e.instruction, e.input, e.output) if isinstance(e, Example) else (e.rule,) for e in found]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


LEARNT: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "question": {"question": "q", "chosen": "a", "rejected": "b", "id": 3},
    "alpaca": {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    "answer beside a rejected one": {"instruction": "q", "output": "a", "rejected": "b"},
    "stack exchange": {"question": "q", "response_j": "a", "response_k": "b"},
    "messages of the answers": {"prompt": [user("q")], "chosen": [bot("a")], "rejected": [bot("b")]},
    "a text and messages": {"prompt": "q", "chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")]},
    "no prompt": {"chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")], "score_chosen": 8.0},
    "hh-rlhf": {"chosen": HUMAN, "rejected": HUMAN + "b"},
    "hh-rlhf with a prompt": {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": " b"},
    "one message each": {"conversations": [user("q")], "chosen": bot("a"), "rejected": bot("b")},
    "messages and both": {
        "prompt": "q", "messages": [user("q"), bot("a")], "chosen": [user("q"), bot("a")], "rejected": [bot("b")]
    },
    "OpenAI": {"input": {"messages": [user("q")]}, "preferred_output": [bot("a")], "non_preferred_output": [bot("b")]},
    "as JSON text": {"prompt": json.dumps([user("q")]), "chosen": json.dumps([bot("a")]), "rejected": "[]"},
}  # fmt: skip


@pytest.mark.parametrize("case", LEARNT)
def test_the_preferred_answer_is_learnt_and_the_other_never(case: str) -> None:
    row = LEARNT[case]
    found = said(row)
    assert [(q, i, a.strip()) for q, i, a in found] == [("q", "", "a")]
    lost = {"rejected", "non_preferred_output", "response_k"} & set(row)
    assert [note for note in notes_of(row, Source(path="f")) if "never learnt" in note and lost.pop() in note]


def test_a_rejected_answer_alone_is_never_learnt() -> None:
    for row in (
        {"prompt": "q", "rejected": "b"},
        {"rejected": HUMAN},
        {"instruction": "q", "input": "", "rejected": "b"},
    ):
        assert [rule for (rule,) in said(row)] in (["output-missing"], ["instruction-missing"])


@pytest.mark.parametrize("mark", [False, "False", "false"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a"},
        {"prompt": [user("q")], "completion": [bot("a")]},
        {"messages": [user("q"), bot("a")]},
        {"instruction": "q", "input": "", "output": "a"},
    ],
)
def test_an_answer_marked_as_bad_is_refused(row: dict[str, Any], mark: Any) -> None:
    assert said({**row, "label": mark}) == said({**row, "kto_tag": mark}) == [("undesired",)]
    assert said({**row, "label": True}) == said({**row, "label": 0}) == said({**row, "topic": mark}) == [("q", "", "a")]


def test_a_preferred_text_without_a_question_is_refused() -> None:
    assert said({"chosen": "a", "rejected": "b"}) == [("instruction-missing",)]


def test_a_label_that_is_a_class_is_no_mark() -> None:
    assert said({"question": "q", "answer": "no", "label": False}) == [("q", "", "no")]
    assert said({"question": "q", "answer": "a", "label": "false"}, columns={"task": "label"}) == [("q", "", "a")]


@pytest.mark.parametrize(
    "marks", [{"kto_tag": 0}, {"is_preferred": "0"}, {"desirable": -1}, {"chosen": False}, {"rejected": True}]
)
def test_numbers_and_flags_mark_an_answer_where_the_field_says_so(marks: dict[str, Any]) -> None:
    row = {"prompt": "q", "completion": "a"}
    assert said({**row, **marks}) == [("undesired",)]
    assert said({**row, **{name: name != "rejected" for name in marks}}) == [("q", "", "a")]


def test_yes_beside_a_false_label_is_a_bad_answer() -> None:
    assert said({"prompt": "q", "completion": "Yes", "label": False}) == [("undesired",)]
    assert said({"prompt": "q", "completion": "no", "kto_tag": False}) == [("undesired",)]  # that is no class


def test_numbers_under_label_are_told() -> None:
    (note,) = notes_of({"prompt": "q", "completion": "a", "label": 0}, Source(path="x"))
    assert "label" in note


def test_conversational_prompt_and_completion() -> None:
    row = {"prompt": [{"role": "system", "content": "s"}, user("q1"), bot("a1"), user("q2")], "completion": [bot("a2")]}
    assert said(row) == [("s\n\nq2", "User: q1\nAssistant: a1", "a2")]  # what the prompt holds is no answer to learn
    talk = "\n\nHuman: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant: a2"
    assert said({"chosen": talk, "rejected": talk})[1] == ("q2", "User: q1\nAssistant: a1", "a2")


def test_text_beside_ids_is_read() -> None:
    row = {"inputs": [3, 4], "inputs_pretokenized": "q", "targets": [5], "targets_pretokenized": "a"}
    assert said(row) == [("q", "", "a")]
    assert said({"problem": "q", "solution": "a", "answer": "4"}) == [("q", "", "a")]


def test_reasoning_that_is_not_learnt_is_named() -> None:
    row = {"Question": "q", "Complex_CoT": "thoughts", "Response": "a"}
    assert said(row) == [("q", "", "a")]
    (note,) = notes_of(row, Source(path="f"))
    assert "'Complex_CoT'" in note
    assert not notes_of({**row, "Complex_CoT": None}, Source(path="f"))
    assert not notes_of(row, Source(path="f", columns={"output": "Complex_CoT"}))


REPLIES = [
    {"message_id": "3", "parent_id": "1", "role": "assistant", "text": "worse", "rank": 1, "message_tree_id": "1"},
    {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "a", "rank": 0, "message_tree_id": "1"},
    {"message_id": "4", "parent_id": "2", "role": "prompter", "text": "q2", "rank": None, "message_tree_id": "1"},
]
ROOT = {"message_id": "1", "parent_id": None, "role": "prompter", "text": "q", "rank": None, "message_tree_id": "1"}


def test_trees_of_openassistant(tmp_path: Path) -> None:
    tree = {"message_tree_id": "1", "prompt": {**ROOT, "replies": [{**r, "replies": []} for r in REPLIES[:2]]}}
    assert said(tree) == [("q", "", "a")]
    assert form_name(tree) == "tree"
    path = tmp_path / "flat.jsonl"
    other = {**ROOT, "message_id": "9", "message_tree_id": "9", "text": "alone"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROOT, *REPLIES, other)))
    source = Source(path=str(path))
    raws = list(read(source, 0))
    assert [raw.place for raw in raws] == [f"{path}:1", f"{path}:5"]
    assert [said(raw.value) for raw in raws] == [[("q", "", "a")], [("no-answer",)]]
