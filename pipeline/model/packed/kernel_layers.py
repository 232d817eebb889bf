"""The layers of a model that our kernels compute: whole blocks of LLaMA's form, or single LoRA layers.

    a block of LLaMA's form      kernels/block.py, with its linear layers in four stacks (q k v; o; gate up; down)
    any other LoRA layer         kernels/lora.py, a stack of one

A stack is a `StackedLora` over frozen weights (in the base's type, fp8, nf4 or int8), or a `TrainedLinear` where the
blocks themselves are trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.kernels.block import Block
from pipeline.kernels.fp8_weights import Fp8Weights
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.gated_mlp import ACTIVATIONS
from pipeline.kernels.lora import LoraFunction, StackedLora
from pipeline.kernels.quantized_weights import QuantizedWeights
from pipeline.kernels.trained_linear import TrainedLinear
from pipeline.model.block_stream import BlockStream
from pipeline.model.packed import context
from pipeline.model.packed.support import LINEARS, activation_name, adapter_of, is_llama_block, norm_of


@dataclass
class KernelLayers:
    """What our kernels compute of one model; `add` collects it.

    Attributes:
        causal_lm, decoder: the model without peft's wrapper, and its decoder.
        dtype: of the arithmetic.
        stream: what the blocks' frozen weights come through; None where they stay on the card.
        fp8: whether the frozen weights are converted to 8-bit floats.
        trains_blocks: whether the blocks themselves are trained, without adapters.
        blocks: the decoder's blocks as functions; empty unless all are of LLaMA's form.
        linears: every stack of linear layers.
        forwards: modules, and their forward during a pass of a pack.
    """

    causal_lm: Any
    decoder: Any
    dtype: torch.dtype
    stream: BlockStream | None
    fp8: bool
    trains_blocks: bool
    blocks: list[Block] = field(default_factory=list)
    linears: list[StackedLora | TrainedLinear] = field(default_factory=list)
    forwards: list[tuple[Any, Callable[..., Any]]] = field(default_factory=list)

    def add(self) -> None:
        """Adds the blocks if all of them are of LLaMA's form, else the LoRA layers where only these are trained."""
        layers = getattr(self.decoder, "layers", None) or []
        if layers and all(is_llama_block(layer) for layer in layers):
            self._add_blocks(layers)
        elif not self.trains_blocks:
            self._add_lora_layers()

    def _add_blocks(self, layers: Sequence[Any]) -> None:
        for n, layer in enumerate(layers):
            with contextlib.nullcontext() if self.stream is None else self.stream.rebuilding(n):
                self.blocks.append(self._block(layer))
        for n, (layer, block) in enumerate(zip(layers, self.blocks, strict=True)):
            self.forwards.append((layer, self._block_forward(block, n, is_last=n == len(layers) - 1)))

    def _block(self, layer: Any) -> Block:
        attn, mlp = layer.self_attn, layer.mlp
        qkv, out, gate_up, down = (
            self._linear([getattr(attn, name, None) or getattr(mlp, name) for name in names], len(names) > 1)
            for names in LINEARS
        )
        norms = layer.input_layernorm, layer.post_attention_layernorm
        (norm1, eps), (norm2, _) = map(norm_of, norms)
        config, size = self.decoder.config, int(attn.head_dim)
        return Block(
            norm1=norm1,
            norm2=norm2,
            eps=eps,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            size=size,
            scale=float(getattr(attn, "scaling", size**-0.5)),
            activation=ACTIVATIONS[str(activation_name(mlp))],
            qkv=qkv,
            out=out,
            gate_up=gate_up,
            down=down,
            trained_norms=[norm.weight for norm in norms] if self.trains_blocks else (),
        )

    def _linear(self, modules: Sequence[Any], spare_input_columns: bool = False) -> StackedLora | TrainedLinear:
        if self.trains_blocks:
            self.linears.append(TrainedLinear(modules, self.dtype))
            return self.linears[-1]
        bases = [getattr(m, "base_layer", m) for m in modules]
        frozen = FrozenWeights if type(bases[0]) is torch.nn.Linear else QuantizedWeights
        weights = (Fp8Weights if self.fp8 else frozen)(bases, self.dtype)
        # Spare columns behind W hold copies of adapters, which cannot leave the card with W.
        has_spare = spare_input_columns and self.stream is None
        linear = StackedLora(weights, [adapter_of(m) for m in modules], has_spare)
        self.linears.append(linear)
        return linear

    def _block_forward(self, block: Block, number: int, is_last: bool) -> Callable[..., torch.Tensor]:
        def forward(hidden_states: torch.Tensor, *args: Any, position_embeddings: Any = None, **kwargs: Any) -> Any:
            now = context.current()
            cos, sin = (t[0].to(self.dtype) for t in position_embeddings)
            kept_positions = now.batch.kept_positions if is_last else None
            seed = None if now.seed is None else now.seed.child(number)
            return block(hidden_states[0].to(self.dtype), cos, sin, now.batch.layout, kept_positions, seed)[None]

        return forward

    def _add_lora_layers(self) -> None:
        added: set[int] = set()
        for n, block in enumerate(self.stream.blocks if self.stream else ()):
            assert self.stream is not None
            with self.stream.rebuilding(n):  # biases are read now
                self._add_lora_layers_of(block.layer, added)
        self._add_lora_layers_of(self.causal_lm, added)

    def _add_lora_layers_of(self, part: Any, added: set[int]) -> None:
        """Adds the LoRA layers of a part of the model that are not yet added. added: their ids, extended here."""
        for module in part.modules():
            is_lora = adapter_of(module) is not None and isinstance(module.base_layer, torch.nn.Linear)
            if is_lora and id(module) not in added:
                added.add(id(module))
                linear = self._linear([module])
                self.forwards.append((module, _lora_forward(linear, len(self.linears))))


def _lora_forward(linear: Any, number: int) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seed = context.current().seed
        return LoraFunction.apply(x, linear, None if seed is None else seed.child(number), *linear.parameters)

    return forward
