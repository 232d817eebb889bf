"""Tokens of the tiny base, made once for all tests of ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from tests.helpers.tiny import make_config, run_to

# Dropout draws other masks for other numbers of ranks. No answers, no probes of them: they take long.
SETTINGS = ("adapter.dropout=0", "eval.prompts=[]", "eval.rows=1", "train.eval_rows=1")


@pytest.fixture(scope="session")
def prepared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `tiny`, whose data and tokens are ready."""
    folder = tmp_path_factory.mktemp("ranks")
    run_to(make_config(folder, base, *SETTINGS), "tokens", folder)
    return folder


@pytest.fixture
def start(prepared: Path, base: Path, tmp_path: Path) -> Callable[..., tuple[Config, Run]]:
    """A config with these settings, and a run folder of its own with the tokens."""
    import shutil

    def started(*overrides: str, name: str = "run") -> tuple[Config, Run]:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(prepared, folder)
        return make_config(folder, base, *SETTINGS, *overrides), Run(folder / "tiny")

    return started
