"""The fast path: packs through stock transformers models, with peft's parameters and our kernels.

- Attention stays within the rows of a pack (`ready`).
- A block of LLaMA's form (LLaMA, Mistral, Qwen2, Gemma 1) with plain LoRA becomes one function (`kernels.block`).
- In other models every linear layer with a plain LoRA becomes one (`kernels.lora`).
- Whatever else is trained goes through the model's own layers, under autocast where the arithmetic is bf16.
- The head sees only positions that predict something (`kernels.loss`).

Layers get a forward of their own while a pack goes through, and have the stock one otherwise: held-out loss, answers
and saving never meet any of this. `loss_sum` of `pipeline.model.loss` is the plain twin, and
`pipeline.training.proof.difference` compares the two before a run begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from pipeline.kernels.bits import Bits
from pipeline.kernels.block import Block
from pipeline.kernels.copies import Copies
from pipeline.kernels.fp8 import Fp8
from pipeline.kernels.frozen import Frozen
from pipeline.kernels.gate import ACTS
from pipeline.kernels.lora import Linear, LoraLinear, Seed
from pipeline.kernels.loss import HeadLoss
from pipeline.model.loss import losses
from pipeline.model.packable import (
    HALVES,
    SCALED,
    NotPackable,
    activation,
    adapter_of,
    check_attention,
    dtype_of,
    is_llama,
    is_plain_lora,
)
from pipeline.model.ready import NAME, Passing, Ready, now
from pipeline.prompt.pack import Pack


class Fast:
    """Kernels beside a model, and the loss of packs through them.

    Args:
        model: a causal LM whose trained parts see one position at a time, adapted by peft or not.
        longest: tokens of the longest row.
        fp8: whether the frozen weights are to be turned into 8-bit floats (for good: the model keeps no others).
        dtype: of the arithmetic where the layers are the model's own; with our kernels it is that of the weights.

    Raises:
        NotPackable: the model's attention is of another kind, or fp8 is asked for and something else than plain LoRA
            is trained.
    """

    def __init__(self, model: Any, longest: int, fp8: bool = False, dtype: torch.dtype = torch.float32) -> None:
        self.whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder = self.whole.get_decoder() if hasattr(self.whole, "get_decoder") else self.whole.base_model
        check_attention(self.whole, longest)
        self.numbers = self.whole.num_parameters()  # before weights in fp8 leave their layers
        self.device = next(model.parameters()).device
        self.fused = is_plain_lora(self.whole)  # so that our kernels take the place of its layers
        if fp8 and not self.fused:
            raise NotPackable("what is trained is not plain LoRA, and the kernels for fp8 know nothing else")
        self.dtype = dtype_of(self.decoder) if self.fused else dtype
        self.autocast = not self.fused and dtype != torch.float32
        self.plain = self.device.type != "cuda" or self.dtype == torch.float32
        self.fp8 = fp8
        self.linears: list[Linear] = []
        self.forwards: list[tuple[Any, Any]] = []  # modules, and what they do while a pack goes through
        self.blocks = self._take_blocks() if self.fused else []
        if not self.blocks and self.fused:
            self._take_linears()
        self.can_recompute = bool(self.blocks) or bool(getattr(self.whole, "supports_gradient_checkpointing", False))
        self._again = False
        self.head = self.whole.get_output_embeddings()
        self.fused_head = (
            type(self.head) is torch.nn.Linear
            and self.head.bias is None
            and not any(getattr(self.whole.config, name, None) not in (None, 1, 1.0) for name in SCALED)
        )
        self.copies = Copies([copy for linear in self.linears for copy in linear.copies()])
        self.refresh()

    def refresh(self) -> None:
        """Copies the adapters' values into the arithmetic's type; to be called after every optimiser step."""
        self.copies.refresh()

    def ready(self, pack: Pack) -> Ready:
        """The pack on the device; can be made by another thread, ahead of its step."""
        return Ready.of(pack, self.device, self.plain)

    def seed(self) -> Seed | None:
        """Of the next pass' dropout, from the CPU's generator, so that no device waits; None where nothing drops."""
        drops = any(linear.drops for linear in self.linears)
        return Seed(torch.randint(1 << 40, (1,)).to(self.device, non_blocking=True)) if drops else None

    def loss_sum(self, ready: Ready, seed: Seed | None = None) -> torch.Tensor:
        """Sum over the pack's entries of weight * -log p(target); a scalar in float32, zero where there are none.

        seed: of the dropout; drawn here where none is given.
        """
        if not len(ready.targets):
            return torch.zeros((), device=self.device)
        with self._in_place(Passing(ready, seed or self.seed(), self.dtype)):
            if not self.fused_head:
                return self._own_head(ready)
            hidden = self.decoder(input_ids=ready.ids, position_ids=ready.positions, use_cache=False)[0]
        hidden = self._predicting(hidden, ready).to(self.dtype)
        found: torch.Tensor = HeadLoss.apply(hidden, self.head.weight, ready.targets, ready.weights)
        return found

    def _own_head(self, ready: Ready) -> torch.Tensor:
        hook = self.head.register_forward_pre_hook(lambda _, args: (self._predicting(args[0], ready),))
        try:
            logits = self.whole(input_ids=ready.ids, position_ids=ready.positions, use_cache=False).logits
        finally:
            hook.remove()
        return (losses(logits, ready.targets) * ready.weights).sum()

    def _predicting(self, hidden: torch.Tensor, ready: Ready) -> torch.Tensor:
        """The hidden states of the entries. hidden (1, tokens, size), of the kept positions alone behind our blocks."""
        kept = hidden[0] if self.blocks else hidden[0][ready.kept]
        return kept if ready.entries is None else kept[ready.entries]

    @contextlib.contextmanager
    def _in_place(self, passing: Passing) -> Iterator[None]:
        """While it lasts, the model's layers take packs."""
        config = self.decoder.config
        stock = config._attn_implementation
        now.append(passing)
        config._attn_implementation = NAME
        for module, forward in self.forwards:
            module.forward = forward
        try:
            with torch.autocast(self.device.type, self.dtype) if self.autocast else contextlib.nullcontext():
                yield
        finally:
            for module, _ in self.forwards:
                del module.forward  # the class's own is behind it
            config._attn_implementation = stock
            now.pop()

    def _around(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For torch's checkpoint: what a block of the model's own stands in on its way forward, where all is in place,
        and when it is computed again, long after the pack went through."""
        return contextlib.nullcontext(), self._in_place(now[-1]) if now else contextlib.nullcontext()

    @contextlib.contextmanager
    def without_dropout(self) -> Iterator[None]:
        """While it lasts, adapters drop nothing."""
        drops = [linear.drops for linear in self.linears]
        for linear in self.linears:
            linear.drops = False
        try:
            yield
        finally:
            for linear, value in zip(self.linears, drops, strict=True):
                linear.drops = value

    @contextlib.contextmanager
    def trains(self, weights: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> Iterator[None]:
        """While it lasts, gradients of our blocks' weights go to `leaves`."""
        table = {id(weight): leaf for weight, leaf in zip(weights, leaves, strict=True)}
        held = [block.parameters for block in self.blocks]
        for block in self.blocks:
            block.parameters = [table[id(parameter)] for parameter in block.parameters]
        try:
            yield
        finally:
            for block, parameters in zip(self.blocks, held, strict=True):
                block.parameters = parameters

    @property
    def recompute(self) -> bool:
        """Whether blocks keep less and compute again: ours by themselves, a model's own by transformers' means, in
        training alone."""
        return self._again

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for block in self.blocks:
            block.recompute = value
        if not self.blocks and value != self._again:
            if value:
                self.whole.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": self._around})
            else:
                self.whole.gradient_checkpointing_disable()
        self._again = value

    def _take_blocks(self) -> list[Block]:
        """Blocks of LLaMA's form as functions; none when one of them has another form."""
        layers = getattr(self.decoder, "layers", None) or []
        if not all(is_llama(layer) for layer in layers):
            return []
        blocks = [self._block(layer) for layer in layers]
        for n, (layer, block) in enumerate(zip(layers, blocks, strict=True)):
            self.forwards.append((layer, self._block_forward(block, n, last=n == len(blocks) - 1)))
        return blocks

    def _block(self, layer: Any) -> Block:
        attn, mlp = layer.self_attn, layer.mlp
        made = []
        for names in HALVES:
            modules = [getattr(attn, name, None) or getattr(mlp, name) for name in names]
            made.append(self._linear(modules, roomy=len(names) > 1))
        norms = [self._norm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        config = self.decoder.config
        size = int(attn.head_dim)
        return Block(
            norm1=norms[0][0],
            norm2=norms[1][0],
            eps=norms[0][1],
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            size=size,
            scale=float(getattr(attn, "scaling", size**-0.5)),
            act=ACTS[str(activation(mlp))],
            qkv=made[0],
            out=made[1],
            gate_up=made[2],
            down=made[3],
        )

    def _norm(self, norm: Any) -> tuple[torch.Tensor, float]:
        """What the unit vector is multiplied with, in float32, and epsilon. Gemma keeps its weight around zero."""
        weight = norm.weight.detach().float()
        if "Gemma" in type(norm).__name__:
            weight = weight + 1
        return weight, float(getattr(norm, "variance_epsilon", None) or norm.eps)

    def _linear(self, modules: Sequence[Any], roomy: bool = False) -> Linear:
        bases = [getattr(m, "base_layer", m) for m in modules]
        frozen = (Fp8 if self.fp8 else Frozen if type(bases[0]) is torch.nn.Linear else Bits)(bases, self.dtype)
        linear = Linear(frozen, [b.out_features for b in bases], [adapter_of(m) for m in modules], roomy)
        self.linears.append(linear)
        return linear

    def _block_forward(self, block: Block, number: int, last: bool) -> Any:
        def forward(hidden_states: torch.Tensor, *args: Any, position_embeddings: Any = None, **kwargs: Any) -> Any:
            ready, seed, _ = now[-1]
            cos, sin = (t[0].to(self.dtype) for t in position_embeddings)
            keep = ready.kept if last else None
            own = None if seed is None else seed.at(number)
            return block(hidden_states[0].to(self.dtype), cos, sin, ready.layout, keep, own)[None]

        return forward

    def _take_linears(self) -> None:
        for module in self.whole.modules():
            if adapter_of(module) is not None and isinstance(module.base_layer, torch.nn.Linear):
                self.forwards.append((module, self._linear_forward(self._linear([module]), len(self.linears))))

    def _linear_forward(self, linear: Linear, number: int) -> Any:
        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            seed = now[-1].seed
            return LoraLinear.apply(x, linear, None if seed is None else seed.at(number), *linear.parameters)

        return forward
