"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.gathered_save import gathered, save_gathered
from pipeline.model.load import load_folder
from pipeline.model.methods.method import Method
from pipeline.model.sharded import has_sharded_weights


class Full(Method):
    """W is trained. The whole model is saved, in float32."""

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path, base: str) -> None:
        if has_sharded_weights(model):
            save_gathered(model, folder)
        else:
            model.save_pretrained(folder, safe_serialization=True)

    def give_parts(self, model: Any) -> None:
        if has_sharded_weights(model):
            for _ in gathered(model):
                pass

    def load(self, model: Any, folder: Path) -> Any:
        return load_folder(folder, next(model.parameters()).dtype).requires_grad_(False)

    def merge(self, model: Any) -> Any:
        return model


FULL = Full(METHODS["full"])
