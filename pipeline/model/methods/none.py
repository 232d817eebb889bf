"""In-context learning: nothing is trained; examples stand in front of each question (Brown et al. 2020, GPT-3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import write_json
from pipeline.model.methods.method import SETTINGS, Key, Method

if TYPE_CHECKING:
    from pipeline.config import Adapter, Config


class Nothing(Method):
    """`adapter.shots` training rows with their answers go before every question in evaluation and in chat."""

    name = "none"
    trains = "nothing; examples stand in the prompt"
    keys = ("shots",)
    export = "nothing"
    no_tokens = "nothing is trained"
    never_packed = "nothing is trained"

    def described(self, adapter: Adapter) -> str:
        return f"nothing trained, {adapter.shots} examples in front of each question"

    def problems(self, config: Config) -> list[tuple[Key, str]]:
        found = super().problems(config)
        if config.train.max_steps:
            found.append((("train", "max_steps"), "adapter.method=none trains nothing: it takes no steps; remove it"))
        for key in ("l2_sp", "ewc"):
            if getattr(config.train, key):
                found.append((("train", key), "adapter.method=none trains nothing that could be held; remove it"))
        return found

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        return model.requires_grad_(False)

    def save(self, model: Any, folder: Path, base: str) -> None:
        write_json(folder / SETTINGS, {"suri_method": self.name, "base_model_name_or_path": base})

    def load(self, model: Any, folder: Path) -> Any:
        return model.requires_grad_(False).eval()


NONE = Nothing()
