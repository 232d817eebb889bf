"""The packed model: the loss of packs through a stock transformers model, peft's parameters and our kernels.

    batch.ids (1, tokens)
        |
    embedding          the model's own
        |
    blocks             LLaMA's form (LLaMA, Mistral, Qwen2, Gemma 1) with plain LoRA: kernels/block.py, one call a block
        |              the same form but Gemma's, all trained, in bf16 or fp16: kernels/block.py too
        |              plain LoRA elsewhere: the model's own, with kernels/lora.py in place of its LoRA layers
        |              anything else trained: the model's own, under autocast if the dtype is bf16
        |              in all of them attention is kernels/attention.py, which stays within the rows of the pack
    final norm         the model's own
        |
    kept positions     only those that predict something; in LLaMA's form already picked inside the last block
        |
    head and loss      kernels/cross_entropy.py, or the model's own head if it does more than one product
        |
    sum over the entries of weight * -log p(target)

Layers get another forward during a pass and the stock one otherwise, so held-out loss, generation and saving use the
unchanged model. The plain path is `pipeline.model.loss.loss_sum`; both are compared before each run
(`pipeline.training.self_check`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from pipeline.kernels.adapter_copies import AdapterCopies
from pipeline.kernels.card import has_triton
from pipeline.kernels.cross_entropy import HeadCrossEntropy
from pipeline.kernels.types import DropoutSeed
from pipeline.model.block_stream import stream_of
from pipeline.model.causal_lm import causal_lm_of
from pipeline.model.loss import losses
from pipeline.model.packed import context
from pipeline.model.packed.batch import PackedBatch
from pipeline.model.packed.context import PackedContext
from pipeline.model.packed.kernel_layers import KernelLayers
from pipeline.model.packed.leaves import replaced, replaced_weights
from pipeline.model.packed.support import (
    LOGIT_SETTINGS,
    NotPackable,
    can_be_recorded,
    check_attention,
    compute_dtype,
    is_plain_lora,
    trains_llama_blocks,
    unused_mask,
)
from pipeline.model.sharded import has_sharded_weights, through_root
from pipeline.prompt.pack import Pack


class PackedModel:
    """A model with kernels, and the loss of packs through it.

    Args:
        model: a causal LM whose trained parts work on one position at a time, with or without peft.
        longest: tokens of the longest row.
        fp8: convert the frozen weights to 8-bit floats; the model keeps no others.
        dtype: compute dtype of models that go through their own layers; with our kernels it is that of the weights.

    Attributes:
        uses_kernels: whether our LoRA kernels replace the model's layers.
        trains_blocks: whether its blocks are trained themselves, and computed by our kernels.
        blocks: its blocks as functions; empty unless all are of LLaMA's form.
        linears: every stack of linear layers that our kernels compute.
        gradient_scale: None, or in fp16 the factor that the backward pass will bring (`LossScale.factor`), settable.
        stream: what the blocks' frozen weights come through; None where they stay on the card.

    Raises:
        NotPackable: the model's attention is not supported, or fp8 is asked for and not only plain LoRA is trained.
    """

    def __init__(self, model: Any, longest: int, fp8: bool = False, dtype: torch.dtype = torch.float32) -> None:
        self.causal_lm = causal_lm_of(model)
        has_decoder = hasattr(self.causal_lm, "get_decoder")
        self.decoder = self.causal_lm.get_decoder() if has_decoder else self.causal_lm.base_model
        check_attention(self.causal_lm, longest)
        self.stream = stream_of(self.causal_lm)
        self.device = next(model.parameters()).device
        self.uses_kernels = is_plain_lora(self.causal_lm)
        if fp8 and not self.uses_kernels:
            raise NotPackable("what is trained is not plain LoRA, and the kernels for fp8 support nothing else")
        self.dtype = compute_dtype(self.decoder) if self.uses_kernels else dtype
        # In float32 products read the weights themselves, and copies of them in stacks would double their memory.
        low = not self.uses_kernels and dtype != torch.float32
        self.trains_blocks = low and trains_llama_blocks(self.decoder) and not has_sharded_weights(self.causal_lm)
        self.autocast = low and not self.trains_blocks
        has_kernels = self.device.type == "cuda" and has_triton(self.device)
        self.plain_attention = not has_kernels or self.dtype == torch.float32
        self.fp8, self.mask = fp8, unused_mask(self.decoder, self.device)
        self.gradient_scale: torch.Tensor | None = None
        layers = KernelLayers(self.causal_lm, self.decoder, self.dtype, self.stream, fp8, self.trains_blocks)
        if self.uses_kernels or self.trains_blocks:
            layers.add()
        self.blocks, self.linears, self.packed_forwards = layers.blocks, layers.linears, layers.forwards
        checkpointing = bool(getattr(self.causal_lm, "supports_gradient_checkpointing", False))
        self.can_recompute = bool(self.blocks) or checkpointing
        self._recompute = False
        self.head = self.causal_lm.get_output_embeddings()
        self.fused_head = (
            type(self.head) is torch.nn.Linear
            and self.head.bias is None
            and not any(getattr(self.causal_lm.config, name, None) not in (None, 1, 1.0) for name in LOGIT_SETTINGS)
        )
        self.copies = AdapterCopies([copy for linear in self.linears for copy in linear.copies()])
        self.refresh()

    def refresh(self) -> None:
        """Copies the adapters into the compute dtype; call it after every optimizer step."""
        self.copies.refresh()

    def prepare(self, pack: Pack) -> PackedBatch:
        """Moves a pack to the device; another thread may do so ahead of time."""
        return PackedBatch.of(pack, self.device, self.plain_attention)

    def draw_seed(self) -> DropoutSeed | None:
        """Dropout seed of one pass, from the CPU's generator, so that the device is not waited for; None without
        dropout."""
        if not any(linear.has_dropout for linear in self.linears):
            return None
        return DropoutSeed(torch.randint(1 << 40, (1,)).to(self.device, non_blocking=True))

    def loss_sum(self, batch: PackedBatch, seed: DropoutSeed | None = None) -> torch.Tensor:
        """Sum over the entries of weight * -log p(target), a scalar in float32; a constant zero without entries.

        seed: of the dropout; drawn here if not given.
        """
        if not len(batch.targets):
            return torch.zeros((), device=self.device)
        return through_root(self.causal_lm, self._loss_sum, batch, seed)

    def _loss_sum(self, batch: PackedBatch, seed: DropoutSeed | None) -> torch.Tensor:
        embeddings = self.causal_lm.get_input_embeddings()
        noise = batch.noise.added_to(embeddings) if batch.noise else contextlib.nullcontext()
        with noise, self._packed_layers(PackedContext(batch, seed or self.draw_seed(), self.dtype)):
            if not self.fused_head:
                return self._loss_of_own_head(batch)
            hidden = self.decoder(**self._inputs(batch))[0]
        hidden = self._of_entries(hidden, batch).to(self.dtype)
        inputs = hidden, self.head.weight, batch.targets, batch.weights, self.gradient_scale
        loss: torch.Tensor = HeadCrossEntropy.apply(*inputs)
        return loss

    def _loss_of_own_head(self, batch: PackedBatch) -> torch.Tensor:
        hook = self.head.register_forward_pre_hook(lambda _, args: (self._of_entries(args[0], batch),))
        try:
            logits = self.causal_lm(**self._inputs(batch)).logits
        finally:
            hook.remove()
        return (losses(logits, batch.targets) * batch.weights).sum()

    def _inputs(self, batch: PackedBatch) -> dict[str, Any]:
        """Arguments of the decoder."""
        return {
            "input_ids": batch.ids,
            "position_ids": batch.positions,
            "attention_mask": self.mask,
            "use_cache": False,
        }

    def _of_entries(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """(entries, hidden) from (1, tokens, hidden), or from (1, kept, hidden) after our last block."""
        kept = hidden[0] if self.blocks else hidden[0][batch.kept_positions]
        return kept if batch.entries is None else kept[batch.entries]

    @contextlib.contextmanager
    def _packed_layers(self, packed_context: PackedContext) -> Iterator[None]:
        """Context in which the model's layers take packs."""
        config = self.decoder.config
        stock_attention = config._attn_implementation
        config._attn_implementation = context.ATTENTION
        for module, forward in self.packed_forwards:
            module.forward = forward
        try:
            autocast = torch.autocast(self.device.type, self.dtype) if self.autocast else contextlib.nullcontext()
            with context.use(packed_context), autocast:
                yield
        finally:
            for module, _ in self.packed_forwards:
                del module.forward  # uncovers the class's own
            config._attn_implementation = stock_attention

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For torch's checkpoint, called in a block's forward: the contexts of that forward, where nothing is missing,
        and of its recomputation in the backward pass, after this pass' own context has ended."""
        now = context.current_or_none()
        return contextlib.nullcontext(), self._packed_layers(now) if now else contextlib.nullcontext()

    def without_dropout(self) -> AbstractContextManager[None]:
        """Context in which adapters drop nothing."""
        return replaced(self.linears, "has_dropout", [False] * len(self.linears))

    @contextlib.contextmanager
    def gradients_to(self, weights: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> Iterator[None]:
        """Context in which the weights' gradients flow to `leaves`."""
        leaf_of = {id(weight): leaf for weight, leaf in zip(weights, leaves, strict=True)}
        functions = [*self.blocks, *self.linears]
        parameters = [[leaf_of[id(parameter)] for parameter in one.parameters] for one in functions]
        with replaced(functions, "parameters", parameters), replaced_weights(self.causal_lm, leaf_of):
            yield

    @property
    def can_be_recorded(self) -> bool:
        """Whether passes may be recorded as CUDA graphs. Transformers' checkpointing reads the card's random state."""
        if self.plain_attention or self.stream is not None:
            return False
        return bool(self.blocks) or (not self.recompute and can_be_recorded(self.causal_lm, self.uses_kernels))

    @property
    def recompute(self) -> bool:
        """Whether blocks are recomputed in the backward pass: our blocks do it themselves; a model's own blocks need
        transformers' gradient checkpointing, which works in training mode only."""
        return self._recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for block in self.blocks:
            block.recompute = value
        if not self.blocks and value != self._recompute:
            if value:
                settings = {"use_reentrant": False, "context_fn": self._checkpoint_contexts}
                self.causal_lm.gradient_checkpointing_enable(settings)
            else:
                self.causal_lm.gradient_checkpointing_disable()
        self._recompute = value
