"""Interface of a method."""

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
        """The model with the method's parameters trainable, in float32, and all others frozen.

        Raises:
            UserError: the base cannot be adapted this way.
        """

    @abc.abstractmethod
    def save(self, model: Any, folder: Path, base: str) -> None:
        """Writes the trained parameters; `base` names the base."""

    def give_parts(self, model: Any) -> None:  # noqa: B027  # most methods have nothing to give
        """What `save` on the first rank needs of the others, where trained weights are sharded; else nothing."""

    @abc.abstractmethod
    def load(self, model: Any, folder: Path) -> Any:
        """The base with the saved parameters, frozen, in evaluation mode.

        Raises:
            UserError: they are damaged or do not fit the base.
        """

    def merge(self, model: Any) -> Any:
        """The stock model that computes the same as base + adapter; only where `spec.export` is `merged`."""
        raise TypeError(f"nothing of {self.name} can be merged")

    def groups(self, weights: dict[str, Any], adapter: Adapter) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; `ratio` multiplies the run's learning rate."""
        return [{"params": list(weights.values()), "ratio": 1.0}]

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Tensors that are zero as long as training changed nothing, from the saved ones."""
        return tensors
