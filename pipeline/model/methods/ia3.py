"""(IA)3: keys, values and inner activations of the MLP are scaled by trained vectors (Liu et al. 2022, 2205.05638)."""

from __future__ import annotations

from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.targets import ALL, linear_layers, matching_layers
from pipeline.model.methods.through_peft import ThroughPeft
from pipeline.run.errors import UserError


class Ia3(ThroughPeft):
    """y = l * (W x) for keys and values, y = W (l * x) for the MLP's last layer; l starts at one, so W' merges.

    `targets` names other layers; those in attention are scaled at their output, all others at their input.
    """

    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import IA3Config

        targets, inner = self._layers(model, adapter)
        return IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=inner)

    @staticmethod
    def _layers(model: Any, adapter: Adapter) -> tuple[list[str], list[str]]:
        """Names of the layers, and of those among them that are scaled at their input."""
        from peft.utils import constants

        if adapter.targets != ALL:
            # With the parent's name: GPT-2 has a c_proj in attention and one in the MLP.
            names = sorted({".".join(name.split(".")[-2:]) for name in matching_layers(model, adapter.targets)})
            return names, [name for name in names if "att" not in name]
        kind = model.config.model_type
        if kind in constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
            return (
                list(constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind]),
                list(constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind]),
            )
        usual = ["k_proj", "v_proj", "down_proj"]  # the names in models of LLaMA's form
        if {name.split(".")[-1] for name in linear_layers(model)} >= set(usual):
            return usual, usual[2:]
        what = f"where ia3 scales a model of type {kind} is not known"
        raise UserError(what, "adapter.targets", "name its keys, values and the MLP's last layer")

    def updates(self, tensors: dict[str, Any], folder: Any) -> dict[str, Any]:
        return {name: t - 1 for name, t in tensors.items()}


IA3 = Ia3(METHODS["ia3"])
