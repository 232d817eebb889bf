"""An export again, with something changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.release.stage import export
from pipeline.run.errors import UserError
from pipeline.run.folder import Run


def again(config: Config, run: Run) -> None:
    """The export stage alone, on whatever lies in the run folder."""
    with run.lock():
        export(config, run, resolve(config.model), {"again": 1})


def assert_refused(config: Config, run: Run, name: str) -> UserError:
    """The export stops, names the check, and leaves the old export as it was."""
    before = {p: p.read_bytes() for p in run.folder("export").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=re.escape(f"failed its check {name!r}")) as caught:
        again(config, run)
    assert {p: p.read_bytes() for p in run.folder("export").rglob("*") if p.is_file()} == before
    assert not [p.name for p in run.root.iterdir() if p.name.endswith((".tmp", ".old"))]
    assert caught.value.fix
    return caught.value


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([ids])).logits[0].float()


def spoil(run: Run, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = run.folder("adapter") / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
