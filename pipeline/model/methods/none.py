"""In-context learning: nothing is trained; each question is preceded by examples (Brown et al. 2020, GPT-3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.method import SETTINGS, Method
from pipeline.run.files import write_json


class Nothing(Method):
    """`adapter.shots` training rows with answers precede every question in evaluation and chat."""

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        return model.requires_grad_(False)

    def save(self, model: Any, folder: Path, base: str) -> None:
        write_json(folder / SETTINGS, {"suri_method": self.name, "base_model_name_or_path": base})

    def load(self, model: Any, folder: Path) -> Any:
        return model.requires_grad_(False).eval()


NONE = Nothing(METHODS["none"])
