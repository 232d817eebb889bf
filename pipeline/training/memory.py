"""How many tokens may go through the model at once, and what blocks keep for the backward pass."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.model.fast import Fast
from pipeline.model.loss import loss_sum
from pipeline.progress import say
from pipeline.prompt.batch import Batch
from pipeline.prompt.pack import Pack

CPU_TOKENS = 2048  # beyond this a CPU gains nothing
PROBE_TOKENS = 512
SHARE = 0.75  # of the free memory for padded rows: room for the optimiser's first step and for fragmentation
PACKED_SHARE = 0.9  # packs are alike, so less of it is lost
MOST = 65536
FULL = 4096  # tokens with which matrix products run at full speed: below, keeping less is better than smaller packs


def choose_packed(
    fast: Fast, wanted: int, checkpointing: str, longest: int, step: int, told: bool = True
) -> tuple[int, bool]:
    """Most tokens in a pack, and whether blocks are computed again.

    Args:
        wanted: `train.micro_tokens`. step: tokens of a whole optimiser step, beyond which nothing is gained.
        told: whether to say what was chosen.

    Two probes of different size give what a token takes, kept whole and not.
    """
    always = checkpointing in ("block", "offload")
    if not torch.cuda.is_available():
        return max(wanted or CPU_TOKENS, longest), always and bool(fast.blocks)
    costs = {}
    for recompute in (True,) if always and fast.blocks else (False, True) if fast.blocks else (False,):
        fast.recompute = recompute
        small, large = (_peak(fast, n, checkpointing == "offload") for n in (FULL // 4, FULL // 2))
        costs[recompute] = max(1, (large - small) // (FULL // 4))
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    fits = {recompute: int(free * PACKED_SHARE / cost) for recompute, cost in costs.items()}
    want = wanted or min(step, MOST)
    recompute = False not in fits or (checkpointing == "auto" and True in fits and fits[False] < min(want, FULL))
    tokens = max(longest, wanted or min(want, fits[recompute]))
    how = "blocks computed again" if recompute else "all kept"
    if told:
        say(
            f"train: {free / 2**30:.1f} GiB free; a token takes "
            + ", ".join(f"{cost / 2**20:.2f} MiB {'computed again' if r else 'kept'}" for r, cost in costs.items())
            + f" -> at most {tokens:,} tokens at once, {how}, about {tokens * costs[recompute] / 2**30:.1f} GiB"
        )
    return tokens, recompute


def _peak(fast: Fast, tokens: int, offload: bool) -> int:
    """Bytes that a pack of so many tokens takes at its peak, half of them labelled.

    offload: whether what blocks keep goes to the computer's memory, as it will in training.

    Raises:
        UserError: not even that fits.
    """
    rows, length = tokens // 128, 128
    where = np.arange(tokens).reshape(rows, length)[:, length // 2 : -1].ravel()
    pack = Pack(
        ids=np.ones(tokens, np.int64), positions=np.tile(np.arange(length), rows), starts=np.arange(rows + 1) * length,
        preambles=0, groups=np.zeros(1, np.int64), where=where, targets=np.ones(len(where), np.int64),
        weights=np.ones(len(where), np.float32), rows=rows, original=tokens,
    )  # fmt: skip
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        with torch.autograd.graph.save_on_cpu(pin_memory=True) if offload else contextlib.nullcontext():
            loss = fast.loss_sum(fast.ready(pack))
        loss.backward()
    except torch.cuda.OutOfMemoryError:
        fix = "set model.quantize=nf4, train.checkpointing=block, choose a smaller base, or free the card"
        raise UserError(f"not even {tokens} tokens fit into the card beside the model", "train", fix) from None
    finally:
        for parameter in fast.whole.parameters():
            parameter.grad = None
    return torch.cuda.max_memory_allocated() - before


def choose_micro_tokens(model: Any, wanted: int, longest: int) -> int:
    """`train.micro_tokens`, or what fits: measured with one small probe on a GPU, fixed on a CPU."""
    if wanted:
        return max(wanted, longest)
    if not torch.cuda.is_available():
        return max(CPU_TOKENS, longest)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ids = np.ones((2, PROBE_TOKENS // 2), np.int64)
    loss_sum(model, Batch(ids, ids)).backward()
    per_token = max(1, (torch.cuda.max_memory_allocated() - before) // PROBE_TOKENS)
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    chosen = max(longest, min(MOST, int(free * SHARE / per_token)))
    say(f"train: {free / 2**30:.1f} GiB free, {per_token / 2**20:.2f} MiB a token -> at most {chosen:,} tokens at once")
    return chosen
