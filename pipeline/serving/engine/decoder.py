"""Forward passes of one model over rows of a `SlotCache`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from pipeline.model.causal_lm import causal_lm_of
from pipeline.model.packed.support import LOGIT_SETTINGS
from pipeline.run.errors import one_line
from pipeline.serving.engine.fused_norm import fuse_norms
from pipeline.serving.engine.packed_linear import Packer
from pipeline.serving.engine.slot_attention import masks_of, use_slot_attention
from pipeline.serving.engine.slot_cache import Pass, SlotCache

Prefix: TypeAlias = torch.Tensor | list[tuple[torch.Tensor, torch.Tensor]]


class NotServable(Exception):
    """A model that cannot be served; the message says why."""


class Decoder:
    """A causal LM of transformers that reads and writes a `SlotCache`.

    Attributes:
        dtype: of the weights. vocabulary: number of logits.
        prefix: in front of every prompt, or None. Of prompt tuning: embeddings, (virtual tokens, hidden). Of prefix
            tuning: keys and values of each layer, each (heads, virtual tokens, size).
    """

    def __init__(self, model: Any, dtype: torch.dtype, prefix: Prefix | None = None) -> None:
        self.model, self.dtype, self.prefix = model, dtype, prefix
        self.cache = SlotCache()
        self.device = next(model.parameters()).device
        self.vocabulary = int(getattr(model.get_input_embeddings(), "num_embeddings", 0) or model.config.vocab_size)
        use_slot_attention(model)
        scales = any(getattr(model.config, name, None) not in (None, 1.0) for name in LOGIT_SETTINGS)
        self.head = None if scales else model.get_output_embeddings()

    def prompt(self, first: int, chunks: Sequence[Sequence[int]], start: int) -> torch.Tensor:
        """Reads a part of the prompts of consecutive rows; returns the logits after each one's last token, (rows,
        vocabulary).

        Args:
            first: row of the first. chunks: ids, of different lengths. start: column of the first id of all of them.
        """
        width = max(map(len, chunks))
        ids = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks], device=self.device)
        positions = torch.arange(start, start + width, device=self.device).expand(len(chunks), -1)
        self.cache.now = Pass(first, len(chunks), self._columns(start + width), positions, positions[:, 0], start)
        inputs: dict[str, Any] = {"input_ids": ids}
        return self._forward(inputs, positions, torch.tensor([len(chunk) - 1 for chunk in chunks], device=self.device))

    @property
    def virtual(self) -> int:
        """Number of virtual tokens."""
        if self.prefix is None:
            return 0
        return len(self.prefix) if isinstance(self.prefix, torch.Tensor) else self.prefix[0][0].shape[1]

    def virtual_tokens(self, row: int) -> None:
        """Reads the prefix into the first columns of a row."""
        count = self.virtual
        if isinstance(self.prefix, torch.Tensor):
            positions = torch.arange(count, device=self.device)[None]
            self.cache.now = Pass(row, 1, count, positions, positions[:, 0], 0)
            last = torch.tensor([count - 1], device=self.device)
            self._forward({"inputs_embeds": self.prefix[None]}, positions, last)
            return
        for index, pair in enumerate(self.prefix or ()):
            for tensor, new in zip(self.cache.layer(index, pair[0][None]), pair, strict=True):
                tensor[row, :, :count] = new

    def step(self, ids: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """One new token for each of the rows 0 .. n-1; logits (n, vocabulary).

        Args:
            ids: their last tokens, not read so far. lengths: columns that each row has so far.
        """
        tokens = torch.tensor([list(ids), list(lengths)], device=self.device)
        return self.step_on(tokens[0][:, None], tokens[1][:, None], self._columns(max(lengths) + 1))

    def _columns(self, used: int) -> int:
        """How many columns attention reads: on a card a multiple of eight, as its kernels need it."""
        return used if self.device.type == "cpu" else min(self.cache.columns, -(-used // 8) * 8)

    def step_on(self, ids: torch.Tensor, positions: torch.Tensor, columns: int) -> torch.Tensor:
        """`step` on tensors, (rows, 1): what a CUDA graph records."""
        rows = torch.arange(len(ids), device=self.device)
        self.cache.now = Pass(0, len(ids), columns, positions, rows, None)
        return self._forward({"input_ids": ids}, positions, None)

    def _forward(self, inputs: dict[str, Any], positions: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
        """last: index of each row's last token; None: the only one."""
        assert self.cache.now is not None
        options = {
            **inputs, "position_ids": positions, "past_key_values": self.cache, "use_cache": True,
            "attention_mask": masks_of(self.model.config, positions, self.cache.now.columns, self.dtype),
        }  # fmt: skip
        if self.head is None:
            keep: Any = 1 if last is None else last
            logits = self.model(**options, logits_to_keep=keep).logits
            rows = torch.arange(len(logits), device=self.device)
            return logits[:, 0] if last is None else logits[rows, rows]
        hidden = self.model.get_decoder()(**options).last_hidden_state
        if last is not None:
            hidden = hidden[torch.arange(len(hidden), device=self.device), last][:, None]
        logits_: torch.Tensor = self.head(hidden)[:, 0]  # (rows, 1, hidden) as every layer, for adapters on the head
        return logits_


def prefix_of(model: Any) -> Prefix | None:
    """The virtual tokens of a PeftModel; None where it has none."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    prompt = model.get_prompt(batch_size=1)
    if isinstance(prompt, torch.Tensor):
        return prompt[0].to(next(model.get_base_model().parameters()).dtype)
    layers = [(layer.keys, layer.values) for layer in prompt.layers] if hasattr(prompt, "layers") else prompt
    return [(keys[0], values[0]) for keys, values, *_ in layers]


@torch.inference_mode()
def decoder_of(model: Any, packer: Packer | None = None) -> Decoder:
    """A decoder, after comparing its logits with those of the model's plain pass on a few ids.

    Args:
        model: a causal LM, or a PeftModel with one adapter; its layers are replaced by faster ones. packer: of the
            models that share weights.

    Raises:
        NotServable: they differ, or the model cannot read a `SlotCache`.
    """
    ids = [1 + i % 7 for i in range(9)]
    kind = model.config.model_type
    try:
        plain = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -4:].float()
        prefix = prefix_of(model)
        inner = causal_lm_of(model)
        dtype = next((p.dtype for p in inner.parameters() if p.is_floating_point()), torch.float32)
        fuse_norms(inner)
        (packer or Packer()).pack(inner)
        decoder = Decoder(inner, dtype, prefix)
        decoder.cache.grow(2, decoder.virtual + 16)
        for row in range(2 if decoder.virtual else 0):
            decoder.virtual_tokens(row)
        decoder.prompt(1, [ids[:5]], decoder.virtual)
        decoder.prompt(0, [ids[:4]], decoder.virtual)
        first = decoder.prompt(0, [ids[4:6]], decoder.virtual + 4)[0]
        logits = [first]
        for n in range(6, 9):
            lengths = [decoder.virtual + n, decoder.virtual + n - 1]
            logits.append(decoder.step([ids[n], ids[n - 1]], lengths)[0])
        ours = torch.stack(logits).float()
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
        raise NotServable(f"a model of type {kind} cannot be served here: {one_line(error, 200)}") from None
    share = float((ours - plain).norm() / plain.norm().clamp(min=1e-9))
    if not share < (1e-3 if decoder.dtype == torch.float32 else 5e-2):
        raise NotServable(f"a model of type {kind} gives other logits when it is served (by {share:.1%})")
    decoder.cache.free()
    return decoder
