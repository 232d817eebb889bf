"""Forward passes of one model over rows of a `SlotCache`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.model.packed.support import LOGIT_SETTINGS
from pipeline.serving.engine.slot_attention import masks_of, use_slot_attention
from pipeline.serving.engine.slot_cache import Pass, SlotCache


class Decoder:
    """A causal LM of transformers that reads and writes a `SlotCache`.

    Attributes:
        prefix: (virtual tokens, hidden): embeddings in front of every prompt, of prompt tuning; else None.
        vocabulary: number of logits.
    """

    def __init__(self, model: Any, prefix: torch.Tensor | None = None) -> None:
        self.model, self.prefix = model, prefix
        self.cache = SlotCache()
        parameter = next(model.parameters())
        self.device = parameter.device
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), parameter.dtype)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
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
        self.cache.now = Pass(first, len(chunks), start + width, positions, positions[:, 0], start)
        inputs: dict[str, Any] = {"input_ids": ids}
        return self._forward(inputs, positions, torch.tensor([len(chunk) - 1 for chunk in chunks], device=self.device))

    def virtual_tokens(self, row: int) -> None:
        """Reads the prefix into the first columns of a row."""
        assert self.prefix is not None
        count = len(self.prefix)
        positions = torch.arange(count, device=self.device)[None]
        self.cache.now = Pass(row, 1, count, positions, positions[:, 0], 0)
        last = torch.tensor([count - 1], device=self.device)
        self._forward({"inputs_embeds": self.prefix[None]}, positions, last)

    def step(self, ids: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """One new token for each of the rows 0 .. n-1; logits (n, vocabulary).

        Args:
            ids: their last tokens, not read so far. lengths: columns that each row has so far.
        """
        tokens = torch.tensor([list(ids), list(lengths)], device=self.device)
        return self.step_on(tokens[0][:, None], tokens[1][:, None], max(lengths) + 1)

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
        hidden = hidden[:, 0] if last is None else hidden[torch.arange(len(hidden), device=self.device), last]
        logits_: torch.Tensor = self.head(hidden)
        return logits_
