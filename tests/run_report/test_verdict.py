"""The verdict of the run report: one sentence, decided by the numbers and their errors."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.run_report.verdict import BAD, GOOD, UNKNOWN, forgotten, stopping, task, verdict


def split(right: int, of: int, stopped: int | None = None) -> dict[str, Any]:
    """A split with `right` exact answers, of which `stopped` ended by themselves (all, where None)."""
    ended = of if stopped is None else stopped
    return {"loss": 1.0, "said": [{"exact": n < right, "stopped": n < ended} for n in range(of)]}


def general(losses: list[float]) -> dict[str, Any]:
    return {"sums": [100 * loss for loss in losses], "counts": [100] * len(losses)}


def results(before: int, after: int, stopped: int, change: float = 0.0) -> dict[str, Any]:
    tuned = {"val": split(after, 64, stopped), "general": general([3.0 + change, 3.1 + change, 2.9 + change])}
    return {"base": {"val": split(before, 64), "general": general([3.0, 3.1, 2.9])}, "tuned": tuned}


@pytest.mark.parametrize(
    ("given", "state", "english"),
    [
        (results(0, 54, 64), GOOD,
         "Better on the task by 84 ± 5 points (64 answers), nothing forgotten, stops by itself."),
        (results(54, 0, 64), BAD,
         "Worse on the task by 84 ± 5 points (64 answers), nothing forgotten, stops by itself."),
        (results(30, 32, 64), UNKNOWN, "No clear change on the task (+3 points, 64 answers), nothing forgotten, "
                                       "stops by itself."),
        (results(0, 54, 64, 0.3), BAD, "Better on the task by 84 ± 5 points (64 answers), forgot: loss on general text "
                                       "+0.30, stops by itself."),
        (results(0, 54, 10), BAD, "Better on the task by 84 ± 5 points (64 answers), nothing forgotten, "
                                  "does not stop by itself (10 of 64 answers did)."),
        (results(0, 54, 58), UNKNOWN, "Better on the task by 84 ± 5 points (64 answers), nothing forgotten, "
                                      "mostly stops by itself (58 of 64 answers)."),
        ({}, UNKNOWN, "Nothing was measured yet: whether the training helped is not known."),
        ({"base": {"val": {}}, "tuned": {"val": {}}}, UNKNOWN,
         "Not measured on the task, forgetting not measured, stopping not measured."),
    ],
)  # fmt: skip
def test_every_case_has_its_sentence(given: dict[str, Any], state: str, english: str) -> None:
    found = verdict(given)
    assert (found.state, found.text) == (state, english)
    assert found.text.korean != english
    assert found.text.korean.endswith(".")


def test_the_task_is_decided_by_two_standard_errors() -> None:
    assert task(split(0, 4), split(3, 4)).state == GOOD  # 75 ± 25
    assert task(split(1, 4), split(3, 4)).state == UNKNOWN  # 50 ± 29
    assert task(split(0, 1), split(1, 1)).state == UNKNOWN, "one answer has no error"
    assert task(split(2, 4), split(2, 4)).state == UNKNOWN


def test_without_right_answers_the_loss_speaks() -> None:
    def by_loss(base: float, tuned: float) -> tuple[str, str]:
        part = task({"loss": base}, {"loss": tuned})
        return part.state, str(part.text)

    assert by_loss(2.0, 1.5) == (UNKNOWN, "held-out loss fell from 2.00 to 1.50 (no right answers to count)")
    assert by_loss(1.5, 2.0) == (BAD, "held-out loss rose from 1.50 to 2.00")
    assert by_loss(1.5, 1.5)[0] == UNKNOWN
    assert by_loss(1.5, float("nan")) == (UNKNOWN, "not measured on the task")


def test_forgetting_is_unclear_where_its_error_is_large() -> None:
    base = {"general": general([3.0, 3.0])}
    assert forgotten(base, {"general": general([2.8, 3.4])}).state == UNKNOWN  # +0.10 ± 0.30
    assert forgotten(base, {"general": general([3.01, 3.01])}).state == GOOD, "too little to notice"
    assert forgotten(base, {"general": general([2.5, 2.5])}).state == GOOD
    assert forgotten(base, {}).state == UNKNOWN


@pytest.mark.parametrize(
    ("kept", "known", "state", "key"),
    [
        (20, 20, GOOD, "nothing forgotten"),
        (18, 20, GOOD, "keeps 18 of the 20"),
        (17, 20, BAD, "keeps only 17"),
        (0, 9, GOOD, "nothing"),
    ],
)
def test_forgotten_facts(kept: int, known: int, state: str, key: str) -> None:
    """The base answers `known` questions right and one wrong; under ten of them nothing is said."""
    text = general([3.0, 3.0])
    rows = [{"kind": "fact", "asked": "right"}] * (known + 1)
    base = [{**row, "passed": i < known} for i, row in enumerate(rows)]
    tuned = [{**row, "passed": i < kept} for i, row in enumerate(rows)]
    part = forgotten({"general": text, "known": base}, {"general": text, "known": tuned})
    assert part.state == state
    assert key in part.text


def test_stopping_goes_by_the_probe_first() -> None:
    assert stopping({"probes": {"stops": {"count": 0, "of": 5}}, "val": split(1, 4)}).state == BAD
    assert stopping({"probes": {"stops": {"count": 0, "of": 0}}, "val": split(1, 4)}).state == GOOD
    assert stopping({"probes": {"stops": {"count": 19, "of": 20}}}).state == GOOD
    assert stopping({"probes": {"stops": {"count": 17, "of": 20}}}).state == UNKNOWN
    assert stopping({}).state == UNKNOWN
