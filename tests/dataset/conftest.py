"""Fixtures of the data stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.data_stage import build, run
from tests.helpers.object_store import Store, running

__all__ = ["build", "run"]


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    """An object store, moto's."""
    with running() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """The object store, empty, as the one that Suri talks to."""
    for name, value in {**server.environment, "SURI_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    server.reset()
    return server
