"""What the fast path takes of a card's memory, from shapes alone; docs/benchmarks.md has it beside what was measured.

    peak = weights + 16 bytes a trained parameter + tokens x (kept in all blocks + at work in one block) + fixed

Adapters, their gradient and AdamW's two moments are float32. Of the arithmetic's type are, a token: what each block
keeps (see `kernels.block`), and, while one block goes back, about three rows of g and u, and four of the hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.kernels.cross_entropy import SLICE


@dataclass(frozen=True)
class Footprint:
    """weights, trained: bytes. kept, again: bytes a token with all kept, or computed again. work: of a block at work.

    fixed: bytes of the slice of logits, and of a stack of weights that is dequantised, whatever the pack.
    """

    weights: float
    trained: float
    kept: float
    again: float
    work: float
    fixed: float

    def peak(self, tokens: int, recompute: bool) -> float:
        """Bytes at the peak, for packs of so many tokens (shared ones counted once)."""
        token = (self.again if recompute else self.kept) + self.work
        return self.weights + self.trained + tokens * token + self.fixed


def footprint(shape: Any, weights: float, trained: int, ranks: int, size: int, bits: bool) -> Footprint:
    """Of a model with blocks of LLaMA's form.

    Args:
        shape: its transformers config. weights: bytes that the frozen ones take. trained: parameters.
        ranks: sum of the adapters' ranks in one block. size: bytes of a number in the arithmetic's type.
        bits: whether the base is in 4 or 8 bits, made whole for each product.
    """
    hidden, inner = shape.hidden_size, getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    heads = shape.num_attention_heads
    keys = getattr(shape, "num_key_value_heads", None) or heads
    head_size = getattr(shape, "head_dim", None) or hidden // heads
    queries = heads * head_size
    qkv = queries + 2 * keys * head_size
    small = 4 * heads + 8 + size * ranks  # log-sum-exp, the norms' roots, t
    again = size * (2 * hidden + queries) + small
    kept = again + size * (qkv + 2 * inner)
    work = size * (3 * 2 * inner + 4 * hidden)
    fixed = SLICE * shape.vocab_size * size * 2 + (2 * inner * hidden * size if bits else 0)
    layers = shape.num_hidden_layers
    return Footprint(weights, 16.0 * trained, layers * kept, layers * again, work, fixed)
