"""Fixtures of the invariants' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.prompt.tokens import Tokens
from tests.helpers.packs import A, B, random_tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return random_tokens(tmp_path, [A, B], 14)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of general text."""
    path = tmp_path_factory.mktemp("text") / "general.txt"
    path.write_text("The river rose in the night.\nNobody had told them.\nWe went home late, and on foot.\n" * 2)
    return path
