"""What the pipeline asks of a way to adapt a model."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

from pipeline.config.methods import MethodSpec
from pipeline.config.schema import Adapter

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


class Method(abc.ABC):
    """Implements one value of `adapter.method`; `spec` is its entry in the table of methods."""

    def __init__(self, spec: MethodSpec) -> None:
        self.spec = spec

    @property
    def name(self) -> str:
        return self.spec.name

    @abc.abstractmethod
    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        """The model with exactly the wanted parameters trainable, in float32.

        Raises:
            UserError: the base cannot be adapted this way.
        """

    @abc.abstractmethod
    def save(self, model: Any, folder: Path, base: str) -> None:
        """Writes what was trained; `base` names what it was trained on."""

    @abc.abstractmethod
    def load(self, model: Any, folder: Path) -> Any:
        """Puts what was saved onto a base, frozen, in evaluation mode.

        Raises:
            UserError: it is damaged, or does not fit.
        """

    def merge(self, model: Any) -> Any:
        """The stock model that says what base + adapter say; only where `export` is `merged`."""
        raise TypeError(f"nothing of {self.name} can be merged")

    def groups(self, weights: dict[str, Any], adapter: Adapter) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; `ratio` multiplies the run's learning rate."""
        return [{"params": list(weights.values()), "ratio": 1.0}]

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Of the saved tensors, those that are zero as long as nothing was learnt."""
        return tensors
