"""Titles that say what a chart shows, rows left out apart from rejected ones, a table in place of a thin sunburst."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.data_report import charts, exhibits, findings, verb_charts
from pipeline.data_report.samples import rejected
from pipeline.pages.dots import DotRow
from pipeline.pages.drawing import Rect
from pipeline.pages.figure import number, table
from pipeline.pages.phrases import phrase
from pipeline.run.files import write_text
from pipeline.run_report.curves import loss_finding, shares_finding
from tests.helpers.report_run import lines

NUMBERS: dict[str, Any] = {
    "read": 100, "kept": 30, "rejected": 70, "left_out": 60, "train": 20, "val": 10, "holdout": 0,
    "rules": [{"rule": "limit", "rejected": 60}, {"rule": "duplicate", "rejected": 10}],
    "flow": [{"name": "read", "kind": "total", "rows": 100}, {"name": "duplicate", "kind": "minus", "rows": 10},
             {"name": "limit", "kind": "minus", "rows": 60}],
}  # fmt: skip


def entry(with_object: int, parsed: int = 100) -> dict[str, Any]:
    verbs = [{"verb": "write", "rows": with_object, "objects": [{"object": "poem", "rows": with_object}]}]
    return {"rows": parsed, "parsed": parsed, "with_object": with_object, "with_verb": with_object, "verbs": verbs}


def test_rows_over_a_limit_have_a_colour_of_their_own() -> None:
    drawing = charts.flow(NUMBERS, 880)
    by_colour = {mark.fill: mark.tip for mark in drawing.marks if isinstance(mark, Rect) and mark.tip}
    assert by_colour["left"] == "left out: 60 rows (60 % of those read)"
    assert by_colour["warn"] == "duplicate: 10 rows (100.0 % of those rejected)", "the magnified ones are rejected"
    assert drawing.title == "30 of 100 rows were kept (30 %), 10 rejected for a fault, 60 left out by limits"
    html = exhibits.rules(NUMBERS["rules"])
    assert re.findall('class="did"><span[^>]*>([^<]*)', html) == ["60 left out", "10 rejected"]


def test_samples_tell_left_out_from_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    row = {"reason": "", "place": "x:1", "source": "s", "row": {"instruction": "Ask"}}
    write_text(path, lines([{**row, "rule": rule} for rule in ("limit", "task-limit", "duplicate")]))
    assert {s.rules[0]: s.split for s in rejected(path)} == {
        "limit": "left-out", "task-limit": "left-out", "duplicate": "rejected",
    }  # fmt: skip


def test_a_sunburst_of_less_than_a_fifth_becomes_a_table_with_a_warning() -> None:
    drawn: list[str] = []

    def figure(draw: Any, *args: Any) -> str:
        drawn.append(str(draw(880.0).title))
        return "drawn"

    html = verb_charts.html(figure, "ko", entry(19))
    assert drawn == []
    assert "<table>" in html
    assert 'class="warnings"' in html
    assert "Only 19 %" in html
    assert verb_charts.html(figure, "en", entry(20)) == "drawn"
    assert drawn == ["English instructions ask most for “write poem”: 20 of 100"]
    assert findings.request("쓰다", "시", "ko") == "시 쓰다"


@pytest.mark.parametrize(
    ("numbers", "title"),
    [
        ({"rules": [{"rule": "limit", "rejected": 9}]}, "No rule found a fault"),
        ({"rules": [{"rule": "a", "fixed": 2}]}, "No rule rejected a row; a fixed most: 2 rows"),
        ({"rules": [{"rule": "a", "rejected": 1}, {"rule": "b", "rejected": 3}]}, "b rejected most: 3 rows"),
    ],
)
def test_titles_of_rules(numbers: dict[str, Any], title: str) -> None:
    assert findings.rules(numbers) == title


@pytest.mark.parametrize(
    ("losses", "title"),
    [
        ([2.0, 1.5, 1.0], "Held-out loss fell from 2.00 to 1.00"),
        ([2.0, 1.0, 1.5], "Held-out loss was lowest at step 1 (1.00) and ended at 1.50"),
        ([1.0, 1.5, 2.0], "Held-out loss did not fall: 1.00 at the start, 2.00 at the end"),
        ([], "Training loss went from 3.00 to 2.00 in 2 steps"),
    ],
)
def test_titles_of_the_loss(losses: list[float], title: str) -> None:
    steps = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    assert loss_finding([*({"step": n, "val_loss": loss} for n, loss in enumerate(losses)), *steps]) == title


def test_titles_of_shares_count_changes_beyond_two_errors() -> None:
    rows = [DotRow("a", [(0.2, 0.01), (0.5, 0.01)]), DotRow("b", [(0.5, 0.2), (0.4, 0.2)]), DotRow("c", [None, None])]
    assert shares_finding(rows, "of-tasks") == "tuned is higher on 1 of 3 tasks, lower on 0"


def test_every_header_of_a_table_has_its_scope() -> None:
    html = table((phrase("word-rule"), number(phrase("word-rows"))), [("a", "1"), ("b", "2")])
    assert html.count("<th ") == html.count("<th scope=") == 4
    assert re.findall('<th scope="(row|col)"', html) == ["col", "col", "row", "row"]
    assert 'data-ko="행">rows</span>' in html
    assert "#" not in html
