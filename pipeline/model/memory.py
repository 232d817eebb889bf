"""Size of forward passes without gradients, from the free memory; a pass that does not fit is halved.

Every measured loss goes through `each_group`: in evaluation, in the export and in evaluations during training. Micro-
batches of training, with what their backward pass keeps, are sized in `pipeline.training.memory`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from pipeline.model.sharded import is_sharded, least_of_ranks
from pipeline.prompt.batch import micro_rows
from pipeline.run.errors import UserError
from pipeline.run.free_memory import free_memory_bytes

T = TypeVar("T")
CPU_TOKENS = 2048  # more are not faster on a CPU
GPU_TOKENS = 16384  # more are not faster on a GPU
LOGITS = 1 << 27  # most logits at once: 2,730 positions of 49,152 words, 880 of 152,000
ASSUMED = 8 << 30  # bytes of free main memory on a system that does not tell
SHARE = 0.75  # of the free memory; the rest is for fragmentation and errors of the estimate


class OutOfMemory(UserError):
    """Not even one row fits into the card's memory with the model."""

    def __init__(self, tokens: int) -> None:
        fix = "set model.quantize=nf4, lower prompt.cutoff, choose a smaller base, or free the card"
        super().__init__(f"a row of {tokens:,} tokens does not fit into the card's memory", "memory", fix)


def free_bytes(device: torch.device) -> int:
    """Memory of a card for tensors: free, or reserved by torch and unused; within the limit of this process."""
    free, whole = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * whole)
    return max(0, min(int(free + unused), allowed - torch.cuda.memory_allocated(device)))


def available_bytes(device: torch.device) -> int:
    """Free memory of the card or of the machine, within the limits of this process."""
    return free_bytes(device) if device.type == "cuda" else free_memory_bytes() or ASSUMED


def limit_card(gib: float) -> None:
    """Has this process use at most so much of its card; 0: no limit."""
    if gib and torch.cuda.is_available():
        whole = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / whole))


def use_expandable_segments() -> None:
    """Has torch extend its segments of the card's memory, so that tensors of different sizes leave fewer gaps.

    Passes that recompute blocks of a 7B model reserved 23 % more than their tensors took, with this 11 % (H200, torch
    2.11). Settings that the user made stay.
    """
    is_set = any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    if torch.cuda.is_available() and not is_set and hasattr(torch._C, "_accelerator_setAllocatorSettings"):
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def tokens_at_once(model: Any, longest: int) -> int:
    """Tokens of a forward pass without gradients, padding included.

    Args:
        longest: tokens of the longest row.
    """
    parameter = next(model.parameters())
    if not parameter.is_cuda:
        return CPU_TOKENS
    size = torch.finfo(parameter.dtype).bits // 8 if parameter.is_floating_point() else 2
    logits = LOGITS * (2 * size + 8)  # two slices as they are, one in float32 with its exponentials
    room = free_bytes(parameter.device) * SHARE - logits
    tokens = max(1, min(GPU_TOKENS, int(room / _bytes_per_token(model.config, size, longest))))
    return least_of_ranks(model, tokens)


def _bytes_per_token(config: Any, size: int, longest: int) -> int:
    """Peak memory of one block per token; blocks run one after another. size: bytes of a number.

    Ten vectors of the hidden size and four of the MLP's, half of them also in float32, as norms and adapters compute;
    where attention is not fused, also its scores, in float32 and in the type of the weights.
    """
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    is_eager = getattr(config, "_attn_implementation", "sdpa") == "eager"
    scores = config.num_attention_heads * longest * (size + 4) if is_eager else 0
    return int((10 * hidden + 4 * inner) * (size + 2) + scores)


def each_group(model: Any, lengths: Sequence[int], work: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
    """Calls `work` on groups of rows of similar length that fit into memory; yields each group and its result.

    When the card's memory does not suffice, the rest continues in groups of half the size; not with a sharded model.

    Args:
        lengths: tokens of each row. work: takes row numbers.

    Raises:
        OutOfMemory: one row alone does not fit.
    """
    groups = micro_rows(lengths, tokens_at_once(model, max(lengths, default=0)))
    while groups:
        group = groups[0]
        try:
            result = work(group)
        except torch.cuda.OutOfMemoryError:
            if is_sharded(model):  # the other ranks wait in this pass, so there is no second try
                raise OutOfMemory(max(lengths[i] for i in group)) from None
            result = None
        if result is not None:
            yield group, result
            groups.pop(0)
            continue
        torch.cuda.empty_cache()  # after the except clause, whose error refers to the tensors of the pass
        width = max(lengths[i] for i in group)
        if len(group) == 1:
            raise OutOfMemory(width)
        rest = [i for rows in groups for i in rows]
        smaller = micro_rows([lengths[i] for i in rest], len(group) * width // 2)
        groups = [[rest[n] for n in rows] for rows in smaller]
