from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.run.folder import Run
from pipeline.run.next_command import started
from pipeline.synthesis import preview, stage
from pipeline.synthesis.journal import Journal
from tests.helpers.fake_teacher import FakeTeacher, reply_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run folder of a config of the helper, as if `make generate` had been typed."""
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    started("generate", "configs/made.yaml", ())
    return Run.of("made")


@pytest.fixture
def teach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FakeTeacher]]:
    """Puts a fake teacher in place; returns the list to which each command adds the one that it asked."""

    def put(says: Callable[[int], Any] = reply_of, model: str = "served-model") -> list[FakeTeacher]:
        used: list[FakeTeacher] = []

        def teachers_of(settings: Synthesis, journal: Journal) -> dict[str, FakeTeacher]:
            used.append(FakeTeacher(journal, says, model))
            return {"teacher": used[-1], "judge": used[-1]}

        for module in (stage, preview):
            monkeypatch.setattr(module, "teachers_of", teachers_of)
        return used

    return put
