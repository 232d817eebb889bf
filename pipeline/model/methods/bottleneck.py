"""Bottleneck adapters: small networks between the layers of a frozen base.

    x ──> attention ──> Bottleneck ──(+)──> norm ──> MLP ──> Bottleneck ──(+)──>       y = x + W_up f(W_down x + b) + c
                        (houlsby)                            (both)

houlsby   after attention and after the MLP, f = GELU (Houlsby et al. 2019, arXiv 1902.00751)
pfeiffer  after the MLP only, f = ReLU (Pfeiffer et al. 2020, 2005.00247)

The input is the output of attention or MLP before it is added to the residual. W_up starts at zero, so at step 0 the
model equals the base. The result cannot be merged: the base has no weights that compute it.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.config.methods import METHODS, MethodSpec
from pipeline.config.schema import Adapter
from pipeline.model.methods.own_form import OwnForm
from pipeline.model.methods.targets import last_blocks
from pipeline.run.errors import UserError

ATTENTION, MLP = ("self_attn", "attention", "attn"), ("mlp",)  # names in LLaMA, GPT-NeoX and GPT-2
NAME = "bottleneck"  # of the submodule that is added to attention or MLP


class Bottleneck(torch.nn.Module):
    """The network of an adapter: x and y (..., hidden), inner vector (..., size).

    Source: Houlsby et al. 2019, figure 2. Computes in the type of its own weights, returns the type of x.
    """

    def __init__(self, hidden: int, size: int, activation: str) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Linear(hidden, size), torch.nn.Linear(size, hidden)
        self.activation = getattr(F, activation)
        torch.nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.activation(self.down(x.to(self.down.weight.dtype)))
        return x + self.up(inner).to(x.dtype)


class BottleneckMethod(OwnForm):
    """places: for each adapter of a block, the names that the module before it has. activation: f, by its name in
    torch.nn.functional.
    """

    def __init__(self, spec: MethodSpec, places: tuple[tuple[str, ...], ...], activation: str) -> None:
        super().__init__(spec)
        self.places, self.activation = places, activation

    def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
        hidden = model.config.hidden_size
        if adapter.bottleneck > hidden:
            what = f"a bottleneck of {adapter.bottleneck} is wider than the model ({hidden})"
            raise UserError(what, "adapter.bottleneck", f"at most {hidden}")
        blocks = self._blocks(model)
        chosen = last_blocks(model, adapter.last_blocks)
        for block in blocks if chosen is None else [blocks[n] for n in chosen]:
            for names in self.places:
                self._insert(block, names, hidden, adapter.bottleneck)
        return {name: p for name, p in model.named_parameters() if f".{NAME}." in name}

    def _blocks(self, model: Any) -> Any:
        """The model's blocks.

        Raises:
            UserError: the places are not found in them.
        """
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        decoder = model.base_model if decoder is None or decoder is model else decoder
        blocks = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
        for names in self.places:
            module = next((getattr(blocks[0], n) for n in names if hasattr(blocks[0], n)), None) if blocks else None
            if module is None or (names == MLP and _arguments(module) != 1):
                what = f"{self.name} cannot be placed in the blocks of {model.config.model_type}"
                fix = "use lora, or a base with blocks like those of LLaMA, GPT-NeoX or GPT-2"
                raise UserError(what, "adapter.method", fix)
        return blocks

    def _insert(self, block: Any, names: tuple[str, ...], hidden: int, size: int) -> None:
        module = next(getattr(block, name) for name in names if hasattr(block, name))
        device = next(iter(module.parameters())).device
        module.add_module(NAME, Bottleneck(hidden, size, self.activation).to(device))
        module.register_forward_hook(_apply_bottleneck)


def _arguments(module: Any) -> int:
    """Number of required arguments of a module's forward. Bloom's MLP also takes the residual and adds it itself."""
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def _apply_bottleneck(module: Any, args: Any, output: Any) -> Any:
    """The module's output through its adapter; attention returns (output, weights)."""
    adapter = getattr(module, NAME)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


HOULSBY = BottleneckMethod(METHODS["houlsby"], (ATTENTION, MLP), activation="gelu")
PFEIFFER = BottleneckMethod(METHODS["pfeiffer"], (MLP,), activation="relu")
