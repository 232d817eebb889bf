"""Memory of training on a card, predicted from shapes before anything is loaded.

    peak = weights + trained + copies + what blocks keep of each token + the larger of head and working set

Trained parameters, their gradients and AdamW's two moments are float32: 16 bytes a parameter. T tokens in a pass, K of
them with a label; H hidden size, I inner size, all in the type of the arithmetic:

    kept by a block           none: x, qkv, o, x2, gate_up   block, stream: x, o, x2   offload: two small ones
    backward pass of a block  dy, gradient of gate_up and of h; n2 and gate_up too where they are recomputed
    head                      logits of a slice of labelled positions; hidden states in float32

At the backward pass of the last block but one everything is there but the last block's part; in the head nothing is
computed in a block. docs/benchmarks.md compares predictions with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.kernels.cross_entropy import SLICE
from pipeline.kernels.lora import MAX_RANKS

WAYS = ("none", "block", "offload", "stream")  # values of `train.checkpointing`, the fastest first
ON_CARD = 2  # blocks of a stream
PACKED_SHARE = 0.9  # of the memory for passes; packs are of similar size, so there is little fragmentation
WORKSPACE = 1 << 26  # bytes that cuBLAS takes
ROOM = 1 << 30  # bytes of main memory for everything else


@dataclass(frozen=True)
class Stack:
    """Adapted linear layers with one input. ranks, outputs: of those with an adapter; layers: how many there are."""

    inputs: int
    outputs: Sequence[int]
    ranks: Sequence[int]
    layers: int

    def copies(self, size: int, has_spare_columns: bool) -> int:
        """Bytes of the adapters' copies on a card (`kernels.lora`). size: of a number."""
        ranks, outputs = sum(self.ranks), sum(self.outputs)
        b = sum(rank * out for rank, out in zip(self.ranks, self.outputs, strict=True))
        is_block_matrix = len(self.ranks) == self.layers > 1 and ranks <= MAX_RANKS
        has_spare = has_spare_columns and self.layers > 1
        scaled = outputs * ranks if is_block_matrix else b
        return size * (2 * ranks * self.inputs + scaled + (outputs * ranks if has_spare else b))


@dataclass(frozen=True)
class Footprint:
    """Bytes on a card.

    blocks: frozen weights of all blocks. rest: of embedding and head, and what penalties keep. trained: with gradients
    and optimizer. copies: of adapters. layers: number of blocks. Of a token, in one block: kept, recomputed: without
    and with recomputation; small: what offload leaves there; working, working_recomputed: in its backward pass.
    hidden, vocabulary: sizes; size: bytes of a number. dequantized: a block's gate and up weights in full precision; 0
    where products read the weights as they are. shards: ranks over which the blocks are spread; 1: not spread.
    """

    blocks: float
    rest: float
    trained: float
    copies: float
    layers: int
    kept: float
    recomputed: float
    small: float
    working: float
    working_recomputed: float
    hidden: int
    vocabulary: int
    size: int
    dequantized: float
    shards: int = 1

    def sharded(self, ranks: int) -> Footprint:
        """The same with frozen blocks that are spread over so many ranks."""
        return replace(self, shards=ranks)

    def peak(self, tokens: int, way: str, labelled: float = 1.0) -> float:
        """Peak for packs of so many tokens; shared tokens count once.

        Args:
            way: one of `WAYS`. labelled: share of the tokens that predict something.
        """
        entries = int(tokens * labelled)
        kept = {"none": self.kept, "offload": self.small}.get(way, self.recomputed)
        most = self.head(entries) + self.layers * kept * tokens
        back = (self.layers - 1) * kept * tokens + self.backward(tokens, way)
        return self.static(way) + WORKSPACE + max(most, back)

    def static(self, way: str) -> float:
        """What does not depend on the pass."""
        here = self.blocks * min(1.0, ON_CARD / self.layers)
        blocks = here if way == "stream" else self.blocks if self.shards == 1 else self.blocks / self.shards + here
        return blocks + self.rest + self.trained + self.copies

    def usable(self, way: str, budget: float) -> float:
        """Bytes of a card of `budget` bytes that training fills; a part of what a pass may take is left free."""
        return self.static(way) + max(0.0, budget - self.static(way)) * PACKED_SHARE

    def head(self, entries: int) -> float:
        """Of the last norm, the logits of a slice, or two while the second is made, and the hidden states' gradient."""
        slices = min(entries, SLICE) * (2 if entries > SLICE else 1)
        return slices * self.vocabulary * self.size + entries * self.hidden * (4 + 4 * self.size)

    def backward(self, tokens: int, way: str) -> float:
        """Working set of one block."""
        if way == "none":
            return self.working * tokens + self.dequantized
        working = self.working_recomputed + (self.recomputed - self.small if way == "offload" else 0)
        # While down's input gradient is computed, its weights are dequantised too; gate_up has no gradient yet.
        gradient = self.dequantized / self.hidden
        return max(working * tokens + self.dequantized, (working - gradient) * tokens + 1.5 * self.dequantized)

    def most_tokens(self, way: str, budget: float, labelled: float = 1.0) -> int:
        """Most tokens of a pass within so many bytes; 0 if the weights alone are more."""
        low, high = 0, 1 << 20
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.peak(middle, way, labelled) <= budget else (low, middle - 1)
        return low

    def main_memory(self, way: str, tokens: int) -> float:
        """Bytes of main memory that a way takes."""
        if way == "stream":
            return self.blocks
        return self.layers * (self.recomputed - self.small) * tokens if way == "offload" else 0.0


def offloaded(shape: Any, size: int) -> int:
    """Bytes of a token in one block that offload moves to main memory: three vectors, and the norms' inverse root mean
    squares.

    Args:
        shape: transformers config. size: bytes of a number.
    """
    heads = getattr(shape, "num_attention_heads", None) or 1
    head_size = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    return size * (2 * int(shape.hidden_size) + heads * int(head_size)) + 8


def predict_footprint(
    shape: Any, weights: tuple[float, float], trained: float, stacks: Sequence[Stack], size: int, quantize: str,
) -> Footprint:  # fmt: skip
    """Footprint of a model with LLaMA's blocks.

    Args:
        shape: transformers config. weights: bytes of the frozen weights, in the blocks and outside.
        trained: bytes of the trained ones, with gradients and optimizer.
        stacks: of one block, those with adapters. size: bytes of a number in the type of the arithmetic.
        quantize: value of `model.quantize`.
    """
    hidden, inner = shape.hidden_size, getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    heads = shape.num_attention_heads
    keys = getattr(shape, "num_key_value_heads", None) or heads
    head_size = getattr(shape, "head_dim", None) or hidden // heads
    queries = heads * head_size
    qkv = queries + 2 * keys * head_size
    ranks = sum(sum(stack.ranks) for stack in stacks)
    small = 4 * heads + size * ranks  # log-sum-exp, x A'
    recomputed = offloaded(shape, size) + small
    is_dequantized, is_fp8 = quantize in ("nf4", "int8"), quantize == "fp8"
    low = (2 * inner + hidden) if is_fp8 else 0  # 8-bit copies
    attention = size * (2 * qkv + queries + 4 * hidden)
    layers = int(shape.num_hidden_layers)
    copies = layers * sum(stack.copies(size, quantize == "none") for stack in stacks)
    return Footprint(
        blocks=weights[0],
        rest=weights[1],
        trained=trained,
        copies=copies,
        layers=layers,
        kept=recomputed + size * (qkv + 2 * inner),
        recomputed=recomputed,
        small=small,
        working=max(size * (3 * inner + 2 * hidden), attention - size * qkv) + low,
        working_recomputed=max(size * (5 * inner + 2 * hidden), attention) + low,
        hidden=hidden,
        vocabulary=shape.vocab_size,
        size=size,
        dequantized=2 * inner * hidden * size if is_dequantized else 0,
    )
