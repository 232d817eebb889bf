"""The export that these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from tests.helpers.tiny import make_config, run_to


@pytest.fixture(scope="session")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    folder = tmp_path_factory.mktemp("exported")
    config = make_config(folder, base)
    return config, run_to(config, "export", folder)
