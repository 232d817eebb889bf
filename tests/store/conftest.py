"""Stores of the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.store.folder import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "deep" / "adapters")


@pytest.fixture
def store_copy(lora_store: Store, tmp_path: Path) -> Store:
    """Three LoRAs, to be changed."""
    return Store(Path(shutil.copytree(lora_store.root, tmp_path / "copy")))
