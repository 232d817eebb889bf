"""The run report names rows that a teacher made for the run, and links their page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.run.folder import Run
from pipeline.run_report import sections
from tests.helpers.fake_teacher import generate, put_teacher, write_config


def test_generated_rows_are_named_and_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    run = Run.of("made")
    contents: Any = SimpleNamespace(run=run)
    assert sections._generated(contents) == ""
    put_teacher(monkeypatch)
    generate(write_config(tmp_path), run)
    html = sections._generated(contents)
    assert "A teacher model made 20 rows of 20 drafts" in html
    assert 'href="generated/report.html"' in html
