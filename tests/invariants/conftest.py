"""Fixtures of the invariants' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.prompt.tokens import Tokens
from tests.helpers.packs import A, B, random_tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return random_tokens(tmp_path, [A, B], 14)
