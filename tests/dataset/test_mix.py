"""Limits, weights and rehearsal: who stays is decided by content alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline.config.schema import Data
from pipeline.dataset.example import Example
from pipeline.dataset.select.mix import Candidate, limited, mix
from pipeline.run.errors import UserError


def rows(*counts: int, task: str = "") -> list[Candidate]:
    """So many rows of each source."""
    found: list[Candidate] = []
    for source, count in enumerate(counts):
        for i in range(count):
            id = int(Example.of(f"{source} {task} {i}", "", "y", source="s").id, 16)
            found.append(Candidate(len(found), id, source, task))
    return found


def taken(candidates: list[Candidate], **data: Any) -> tuple[list[int], Any]:
    config = Data(**data)
    found = mix(candidates, config)
    left = Counter(c.source for c in candidates if c.at not in found.left_out)
    assert [s["taken"] for s in found.shares] == [left[n] for n in range(len(config.sources))]
    return [left[n] for n in range(len(config.sources))], found


def test_without_settings_all_stay() -> None:
    assert taken(rows(5, 7), sources=[{"path": "a"}, {"path": "b"}])[0] == [5, 7]


def test_weights_use_up_the_scarcest() -> None:
    sources = [{"path": "a", "weight": 3}, {"path": "b", "weight": 1}, {"path": "c"}]
    counts, found = taken(rows(300, 300, 10), sources=sources)
    assert counts == [300, 100, 10]
    assert {reason[0] for reason in found.left_out.values()} == {"weight"}
    assert taken(rows(30, 300, 10), sources=sources)[0] == [30, 10, 10]


def test_a_weighted_source_without_rows_stops_the_run() -> None:
    sources = [{"path": "a", "weight": 3}, {"path": "b", "weight": 1}]
    with pytest.raises(UserError, match="no training row left: b"):
        taken(rows(300, 0), sources=sources)
    assert taken(rows(300, 100), sources=[{"path": "a", "weight": 1}, {"path": "b", "weight": 1000}])[0] == [1, 100]


def test_repeats_count_in_the_weights() -> None:
    sources = [{"path": "a", "weight": 1, "repeat": 3}, {"path": "b", "weight": 1}]
    counts, found = taken(rows(100, 900), sources=sources)
    assert counts == [100, 300]
    assert [s["share"] for s in found.shares] == [0.5, 0.5]


def test_limits_of_sources_and_tasks() -> None:
    sources = [{"path": "a", "limit": 4}, {"path": "b"}]
    data = Data(sources=sources)
    over = limited(rows(10, 3), data.sources, 1)
    assert len(over) == 6
    assert all(at < 10 for at in over)
    again = limited(rows(10, 3), data.sources, 1)
    assert over == again
    assert limited(rows(10, 3), data.sources, 2).keys() != over.keys()
    many = [*rows(8, task="add"), *[c._replace(at=c.at + 8) for c in rows(5)]]
    counts, found = taken(many, sources=[{"path": "a"}], task_limit=3)
    assert counts == [8]  # three of the task, five without one
    assert {reason[0] for reason in found.left_out.values()} == {"task-limit"}


def test_rehearsal_has_its_share() -> None:
    sources = [{"path": "a"}, {"path": "b", "rehearsal": True}, {"path": "c", "rehearsal": True}]
    counts, found = taken(rows(900, 300, 100), sources=sources, rehearsal=0.1)
    assert counts[0] == 900
    assert counts[1] + counts[2] == 100
    assert counts[1] == 75
    assert found.shares[1]["share"] + found.shares[2]["share"] == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"900 rows.* 400"):
        taken(rows(900, 300, 100), sources=sources, rehearsal=0.5)


def test_who_stays_depends_on_content_and_not_on_order() -> None:
    sources = [{"path": "a", "weight": 1}, {"path": "b", "weight": 9}]
    forward = rows(100, 90)
    backward = [c._replace(at=len(forward) - 1 - c.at) for c in reversed(forward)]
    stay = [{c.id for c in cs if c.at not in mix(cs, Data(sources=sources)).left_out} for cs in (forward, backward)]
    assert stay[0] == stay[1]
