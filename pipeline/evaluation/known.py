"""What tuning kept of what the base could do: the questions of `eval.known` (`known_questions`).

Of the questions that the base answers right, the share that the tuned model answers right is `kept`. The answer to a
request is complete when it ends by itself and does not end in a loop (`probes.repeats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.dataset.example import Example
from pipeline.evaluation.answers import Answer
from pipeline.evaluation.known_questions import KEY, Question
from pipeline.evaluation.measure import MeasuredModel
from pipeline.evaluation.probes import repeats
from pipeline.evaluation.scores import mean, shown

QUESTION_TOKENS, REQUEST_TOKENS = 24, 128  # most new tokens of an answer
NAMES = {"fact": "facts", "sum": "sums", "request": "everyday requests"}


def ask(measured: MeasuredModel, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Answers of a model to the questions, in their order.

    Returns:
        For each question kind, prompt, said, stopped, asked (`right` or `complete`) and passed.
    """
    answers: dict[int, Answer] = {}
    for limit, with_answers in ((QUESTION_TOKENS, True), (REQUEST_TOKENS, False)):
        at = [i for i, question in enumerate(questions) if bool(question.answers) == with_answers]
        examples = [Example.of(questions[i].instruction, "", "", source=KEY) for i in at]
        if examples:
            what = "known questions" if with_answers else "everyday requests"
            answers |= dict(zip(at, measured.answers(examples, limit, what), strict=True))
    return [_marked(question, answers[i]) for i, question in enumerate(questions)]


def _marked(question: Question, answer: Answer) -> dict[str, Any]:
    asked = "right" if question.answers else "complete"
    complete = answer.stopped and not repeats(answer.text)
    passed = question.is_right(answer.text) if question.answers else complete
    text = answer.text.strip()
    shown = {"kind": question.kind, "prompt": question.instruction, "said": text, "stopped": answer.stopped}
    return {**shown, "asked": asked, "passed": passed}


def shares(base: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each kind: kind, asked, n, base and tuned (shares that passed), error (standard error of tuned's).

    Of questions with answers n counts those that the base answers right, and tuned is the share of them that is kept.
    """
    entries = []
    kinds = dict.fromkeys((row["kind"], row["asked"]) for row in tuned)
    for kind, asked in kinds:
        pairs = [
            (float(b["passed"]), float(t["passed"]))
            for b, t in zip(base, tuned, strict=True)
            if (t["kind"], t["asked"]) == (kind, asked) and (b["passed"] or asked == "complete")
        ]
        before, (after, error) = mean([b for b, _ in pairs])[0], mean([t for _, t in pairs])
        of = sum((row["kind"], row["asked"]) == (kind, asked) for row in tuned)
        entry = {"kind": kind, "asked": asked, "n": len(pairs), "of": of}
        entries.append({**entry, "base": before, "tuned": after, "error": error})
    return entries


def rows(base: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(what, base, tuned) for the table of an export."""
    lines = []
    for entry in shares(base, tuned):
        name, n = NAMES.get(entry["kind"], entry["kind"]), entry["n"]
        if entry["asked"] == "right":
            kept = shown(entry["tuned"], entry["error"], ".1%") if n else "none to keep"
            lines.append((f"{name} that the base knows: kept ({n})", f"{n} of {entry['of']}", kept))
        else:
            texts = (f"{entry['base']:.1%}", f"{entry['tuned']:.1%}")
            lines.append((f"{name}: end, no loop ({n})", *texts))
    return lines
