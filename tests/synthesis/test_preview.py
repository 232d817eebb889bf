"""`synthesis.preview`: prompts, replies and verdicts, paid once, and no rows written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.look import show_replies
from pipeline.run.folder import Run
from pipeline.run.next_command import started
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.stage import journal_of
from tests.helpers.fake_teacher import FakeTeacher, generate, reply_of, write_config

Teach = Callable[..., list[FakeTeacher]]


def test_a_preview_shows_prompts_replies_and_verdicts(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    used = teach(lambda number: "nothing useful" if number == 1 else reply_of(number))
    started("generate", "configs/made.yaml", ("synthesis.preview=2", "synthesis.rows=20"))
    show_replies(write_config(tmp_path, "synthesis.preview=2"), run)
    printed = capsys.readouterr().out
    for text in ("=== prompt 1", "=== prompt 2", "--- row: kept", "REJECTED by unparsable", "nothing useful",
                 "instruction: Describe the harbour number 0"):  # fmt: skip
        assert text in printed
    assert 'make generate CONFIG=configs/made.yaml ARGS="synthesis.rows=20"' in printed
    assert not run.folder("generated").exists()
    assert len(Journal(journal_of(run))) == len(used[0].asked) >= 2


def test_what_was_previewed_is_not_paid_again(tmp_path: Path, run: Run, teach: Teach) -> None:
    used = teach()
    show_replies(write_config(tmp_path, "synthesis.preview=2"), run)
    show_replies(write_config(tmp_path, "synthesis.preview=2"), run)
    assert [len(teacher.asked) for teacher in used] == [2, 0]
    generate(write_config(tmp_path), run)
    assert {request.draw for request in used[2].asked}.isdisjoint({request.draw for request in used[0].asked})


def test_a_preview_keeps_to_the_budget(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    used = teach()
    show_replies(write_config(tmp_path, "synthesis.preview=5", "synthesis.budget=100 tokens"), run)
    assert used[0].asked == []
    assert capsys.readouterr().out.count("no reply: the budget allows no further request") == 5
