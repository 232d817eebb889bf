"""Settings of all tests on a card."""

from __future__ import annotations

import pytest

from pipeline.training.launch_time import LaunchTime


@pytest.fixture(autouse=True)
def as_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are compared bit by bit, and one whose passes are graphs rounds differently: no time must decide. Products
    are summed in a fixed order."""
    monkeypatch.setattr(LaunchTime, "is_bound", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as `start_accelerator` has it
