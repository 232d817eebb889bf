"""Fixtures of the model's tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from tests.helpers.packs import A, B, random_tokens
from tests.helpers.tiny import make_config, run_to


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return random_tokens(tmp_path, [A, B], 14)


@pytest.fixture
def model(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy of the base, to be damaged."""
    return Path(shutil.copytree(base, tmp_path / "base"))


@pytest.fixture(scope="session")
def prepared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Data and tokens, which every method takes."""
    folder = tmp_path_factory.mktemp("prepared")
    return run_to(make_config(folder, base), "tokens", folder)
