"""Methods that are not in peft: they train parameters of the base, or of modules added to it.

adapter_config.json        {"suri_method": ..., "adapter": {...}, "base_model_name_or_path": ...}
adapter_model.safetensors  the trained tensors, by their names in the model

from pipeline.model.adapter import load
model = load(AutoModelForCausalLM.from_pretrained("BASE"), Path("PATH"))
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.config.schema import Adapter
from pipeline.model.methods import start
from pipeline.model.methods.method import SETTINGS, WEIGHTS, Method
from pipeline.model.methods.through_peft import NO_FIT
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import read_json, write_json


class OwnForm(Method):
    """A subclass selects the parameters, and adds modules where the method needs them."""

    @abc.abstractmethod
    def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
        """The parameters to train, by their names in the model.

        Raises:
            UserError: the base has no such parameters.
        """

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        model.requires_grad_(False)
        torch.manual_seed(seed)
        weights = self.pick(model, adapter)
        for parameter in weights.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        model.initial_hashes = start.hashes(weights)
        return model

    def save(self, model: Any, folder: Path, base: str) -> None:
        weights = {n: p.detach().float().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        used = {key: getattr(model.adapted_with, key) for key in self.spec.keys}
        write_json(folder / SETTINGS, {"suri_method": self.name, "adapter": used, "base_model_name_or_path": base})
        start.write(folder, model.initial_hashes)

    def load(self, model: Any, folder: Path) -> Any:
        saved = read_json(folder / SETTINGS) or {}
        try:
            adapter = Adapter.model_validate({"method": self.name, **saved.get("adapter", {})})
            tensors = load_file(folder / WEIGHTS)
        except Exception as error:  # safetensors, pydantic and the file system each raise their own kinds
            raise UserError(f"the adapter is damaged: {one_line(error)}", str(folder), NO_FIT) from None
        weights = self.pick(model, adapter)
        wrong = sorted(set(tensors) ^ set(weights))
        wrong += [n for n, p in weights.items() if n in tensors and p.shape != tensors[n].shape]
        if wrong:
            what = f"the adapter does not fit this base: {len(wrong)} tensors do not match, such as {wrong[0]}"
            raise UserError(what, str(folder), NO_FIT)
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(tensors[name])
        return model.requires_grad_(False).eval()

    def merge(self, model: Any) -> Any:
        return model

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        return start.changes(tensors, folder)
