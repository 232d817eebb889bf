from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.folder import Run
from pipeline.run.next_command import started
from tests.helpers.fake_teacher import FakeTeacher, put_teacher, reply_of


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
        return put_teacher(monkeypatch, says, model)

    return put
