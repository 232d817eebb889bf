"""An export is loaded in one type everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.evaluation.measure import tuned_model
from pipeline.model import exported
from pipeline.model.base import resolve
from pipeline.model.run_base import RunBase
from pipeline.prompt import template as templates
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.serving import chat
from tests.helpers.tiny import make_config


def test_chat_and_measurements_load_an_export_in_one_type(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, base, "export.dtype=bf16", "prompt.template=alpaca")
    run = Run(tmp_path / "run")
    shutil.copytree(base, run.folder("export"))
    template = {"hash": templates.load(config.prompt.template).hash}
    (run.folder("export") / "suri.json").write_text(json.dumps({"holds": "merged", "template": template}))
    (run.folder("export") / "manifest.json").write_text(json.dumps({"key": {}, "result": "x"}))
    loaded: list[torch.dtype] = []

    def load(folder: Path, dtype: torch.dtype, whose: str, stream: Any = None) -> Any:
        loaded.append(dtype)
        raise UserError("enough")

    monkeypatch.setattr(exported, "load_folder", load)
    dtype = exported.export_dtype(config.export, config.model)
    run_base = RunBase.of(config, resolve(config.model))
    for work in (lambda: chat.chat(config, run), lambda: tuned_model(run, run_base, dtype).model):
        with pytest.raises(UserError, match="enough"):
            work()
    assert loaded == [torch.bfloat16] * 2
    (run.folder("export") / "suri.json").write_text(json.dumps({"holds": "adapter", "template": template}))
    monkeypatch.setattr("pipeline.model.load.load_folder", load)  # of the base
    with pytest.raises(UserError, match="enough"):
        exported.exported_model(run.folder("export"), dtype, lambda: run_base)
    assert loaded[2:] == [torch.float32]


@pytest.mark.parametrize("template", ["alpaca", None, {"hash": "of another"}])
def test_a_record_without_the_template_of_the_config_is_refused(base: Path, tmp_path: Path, template: object) -> None:
    config, run = make_config(tmp_path, base), Run(tmp_path / "run")
    shutil.copytree(base, run.folder("export"))
    (run.folder("export") / "suri.json").write_text(json.dumps({"holds": "merged", "template": template}))
    with pytest.raises(UserError, match="was trained with the template"):
        exported.export_encoder(config, run)
