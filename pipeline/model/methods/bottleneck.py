"""Bottleneck adapters: small networks between the layers of a frozen base.

    y = x + W_up f(W_down x + b_down) + b_up

houlsby   behind attention and behind the MLP, f = GELU (Houlsby et al. 2019, arXiv 1902.00751)
pfeiffer  behind the MLP alone, f = ReLU (Pfeiffer et al. 2020, 2005.00247)

x is what attention or the MLP gives, before it is added to the residual stream. W_up starts at zero, so at step 0 the
model is the base (Houlsby et al. start near the identity; here it is the identity itself, as with LoRA's B). No weights
of the base's form compute this, so nothing can be merged.
"""

from __future__ import annotations

import inspect
from typing import Any

from pipeline.config.methods import METHODS, MethodSpec
from pipeline.config.schema import Adapter
from pipeline.model.methods.own_form import OwnForm
from pipeline.model.methods.targets import last_blocks
from pipeline.run.errors import UserError

ATTENTION, MLP = ("self_attn", "attention", "attn"), ("mlp",)  # LLaMA's, GPT-NeoX', GPT-2's names
INSIDE = "bottleneck"


class BottleneckAdapter(OwnForm):
    """places: names of what stands in front of an adapter, one tuple a place. activation: f, of torch.nn.functional."""

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
        return {name: p for name, p in model.named_parameters() if f".{INSIDE}." in name}

    def _blocks(self, model: Any) -> Any:
        """The model's blocks.

        Raises:
            UserError: they are not built as expected.
        """
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        decoder = model.base_model if decoder is None or decoder is model else decoder
        blocks = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
        for names in self.places:
            module = next((getattr(blocks[0], n) for n in names if hasattr(blocks[0], n)), None) if blocks else None
            if module is None or (names == MLP and _arguments(module) != 1):
                what = f"{self.name} does not know where to stand in the blocks of {model.config.model_type}"
                fix = "use lora, or a base with blocks like those of LLaMA, GPT-NeoX or GPT-2"
                raise UserError(what, "adapter.method", fix)
        return blocks

    def _insert(self, block: Any, names: tuple[str, ...], hidden: int, size: int) -> None:
        from pipeline.model.bottleneck import Bottleneck

        module = next(getattr(block, name) for name in names if hasattr(block, name))
        place = next(iter(module.parameters())).device
        made = Bottleneck(hidden, size, self.activation).to(place)
        module.add_module(INSIDE, made)
        module.register_forward_hook(_behind)


def _arguments(module: Any) -> int:
    """Those that a module's forward must be given. Bloom's MLP takes the residual too, and adds it inside."""
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def _behind(module: Any, args: Any, output: Any) -> Any:
    """What a module gives, sent through the adapter in it; attention gives its weights beside."""
    adapter = getattr(module, INSIDE)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


HOULSBY = BottleneckAdapter(METHODS["houlsby"], (ATTENTION, MLP), activation="gelu")
PFEIFFER = BottleneckAdapter(METHODS["pfeiffer"], (MLP,), activation="relu")
