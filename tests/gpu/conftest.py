"""Settings of all tests on a card."""

from __future__ import annotations

import pytest

from pipeline.training.launch_time import LaunchTime


@pytest.fixture(autouse=True)
def passes_that_wait_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are compared bit by bit, and one whose passes are graphs rounds differently: no time must decide."""
    monkeypatch.setattr(LaunchTime, "is_bound", True)
