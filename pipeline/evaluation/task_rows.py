"""Benchmark questions in files, converted to the columns of their hub data sets.

lm-evaluation-harness then uses its own task definitions for them: same prompt, choices and metric as with the hub.
Every row is checked before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.dataset.read.benchmark import rows
from pipeline.run.errors import UserError

LETTERS = "ABCDEFGHIJ"

KOBEST = {
    "boolq": ("paragraph", "question"),
    "copa": ("premise", "question", "alternative_1", "alternative_2"),
    "hellaswag": ("context", "ending_1", "ending_2", "ending_3", "ending_4"),
    "sentineg": ("sentence",),
    "wic": ("word", "context_1", "context_2"),
}


class TaskRow:
    """One row of a file. place: file and line, for errors."""

    def __init__(self, value: Any, place: str) -> None:
        self.value, self.place = value, place
        if not isinstance(value, dict):
            raise self.wrong(f"expected an object with fields, found {type(value).__name__}")

    def wrong(self, what: str) -> UserError:
        return UserError(what, self.place, "fix that row, or fetch the file again")

    def has(self, name: str) -> bool:
        return self.value.get(name) is not None

    def text(self, name: str, empty: bool = False) -> str:
        value = self.value.get(name)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.wrong(f"field {name!r}: expected text, found {_short(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of 2 to 10 texts."""
        value = self.value.get(name)
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.wrong(f"field {name!r}: expected a list of texts, found {_short(value)}")
        if not 2 <= len(value) <= len(LETTERS):
            raise self.wrong(f"field {name!r}: {len(value)} choices, expected 2 to {len(LETTERS)}")
        return value

    def index(self, name: str, count: int) -> int:
        """Which of `count` choices is right: a number from 0, or a letter from A."""
        value = self.value.get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        elif isinstance(value, str) and len(value.strip()) == 1:
            value = LETTERS.find(value.strip())
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            raise self.wrong(f"field {name!r}: expected a number from 0 to {count - 1}, found {_short(value)}")
        return value


def read(task: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a file in the columns of the task's hub data set.

    Raises:
        UserError: the file cannot be read or is empty, or a row lacks a field (its place is named).
    """
    shape = shape_of(task)
    checked = [shape(TaskRow(value, place)) for place, value in rows(path)]
    if not checked:
        raise UserError("the file holds no questions", str(path), "fetch it again")
    return checked


def shape_of(task: str) -> Callable[[TaskRow], dict[str, Any]]:
    """The function that converts a row of the task's file."""
    if task.startswith("kobest_"):
        return lambda row: _kobest(row, KOBEST[task.removeprefix("kobest_")])
    return SHAPES["mmlu" if task.startswith("mmlu_") else task]


def _arc(row: TaskRow) -> dict[str, Any]:
    """`question`, `choices: {text, label}`, `answerKey`; also from `query`, `choices`, `gold`."""
    if isinstance(row.value.get("choices"), dict):
        inner = TaskRow(row.value["choices"], row.place)
        texts, labels = inner.texts("text"), inner.texts("label")
        if len(labels) != len(texts) or row.text("answerKey") not in labels:
            raise row.wrong(f"field 'answerKey': {row.value['answerKey']!r} is none of the labels {labels}")
        return {
            "question": row.text("question"),
            "choices": {"text": texts, "label": labels},
            "answerKey": row.value["answerKey"],
        }
    texts = row.texts("choices")
    return {
        "question": row.text("query").removeprefix("Question: "),
        "choices": {"text": texts, "label": list(LETTERS[: len(texts)])},
        "answerKey": LETTERS[row.index("gold", len(texts))],
    }


def _hellaswag(row: TaskRow) -> dict[str, Any]:
    endings = row.texts("endings")
    context = {name: row.text(name, empty=True) for name in ("ctx_a", "ctx_b", "activity_label")}
    return {**context, "endings": endings, "label": str(row.index("label", len(endings)))}


def _mmlu(row: TaskRow) -> dict[str, Any]:
    names = [f"choice{i}" for i in range(4)]
    choices = row.texts("choices") if row.has("choices") else [row.text(name) for name in names]
    if len(choices) != 4:
        raise row.wrong(f"{len(choices)} choices, expected 4")
    return {"question": row.text("question"), "choices": choices, "answer": row.index("answer", 4)}


def _truthfulqa(row: TaskRow) -> dict[str, Any]:
    """`question`, `mc1_targets`, `mc2_targets`; also from the columns of TruthfulQA.csv, parted at semicolons.

    mc1: the best answer against the incorrect ones. mc2: all correct against all incorrect ones. That is how the
    benchmark's own code (sylinrl/TruthfulQA, `models.py`) scores the CSV.
    """
    if row.has("mc1_targets"):
        columns: dict[str, Any] = {"question": row.text("question")}
        for name in ("mc1_targets", "mc2_targets"):
            inner = TaskRow(row.value.get(name), row.place)
            labels = inner.value.get("labels")
            choices = inner.value.get("choices")
            if not isinstance(choices, list) or not isinstance(labels, list) or len(labels) != len(choices):
                raise row.wrong(f"field {name!r}: expected as many labels as choices")
            columns[name] = {"choices": choices, "labels": labels}
        return columns
    best = row.text("Best Answer").strip()
    right, wrong = (_parted(row.text(f"{kind} Answers")) for kind in ("Correct", "Incorrect"))
    return {
        "question": row.text("Question").strip(),
        "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
        "mc2_targets": {"choices": right + wrong, "labels": [1] * len(right) + [0] * len(wrong)},
    }


def _lambada(row: TaskRow) -> dict[str, Any]:
    """`text`, whose last word is the answer; also from `context` and `continuation`."""
    if row.has("text"):
        text = row.text("text")
    else:
        word = row.text("continuation").strip()
        if " " in word:
            raise row.wrong(f"field 'continuation': expected one word, found {_short(word)}")
        text = f"{row.text('context')} {word}"
    if " " not in text:
        raise row.wrong("a passage needs a last word, with words before it")
    return {"text": text}


def _kobest(row: TaskRow, names: tuple[str, ...]) -> dict[str, Any]:
    columns = {name: row.text(name) for name in names}
    if "premise" in names and columns["question"].strip() not in ("원인", "결과"):
        raise row.wrong(f"field 'question': expected 원인 or 결과, found {_short(columns['question'])}")
    return {**columns, "label": row.index("label", 4 if "ending_1" in names else 2)}


def _parted(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


SHAPES: dict[str, Callable[[TaskRow], dict[str, Any]]] = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
    "truthfulqa_mc1": _truthfulqa,
    "truthfulqa_mc2": _truthfulqa,
    "lambada_openai": _lambada,
}
