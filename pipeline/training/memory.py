"""How many tokens may go through the model at once, and what blocks keep for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.model.loss import loss_sum
from pipeline.model.memory import CPU_TOKENS
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import PaddedBatch
from pipeline.prompt.pack import Pack
from pipeline.run.errors import UserError
from pipeline.run.progress import say

PROBE_TOKENS = 512
SHARE = 0.75  # of the free memory for padded rows: room for the optimiser's first step and for fragmentation
PACKED_SHARE = 0.9  # packs are alike, so less of it is lost
MOST = 65536
FULL = 4096  # tokens with which matrix products run at full speed: below, keeping less is better than smaller packs


def to_come(weights: Sequence[torch.Tensor], moments: bool) -> int:
    """Bytes that training will take beside a pass: gradients in float32, and AdamW's two moments where they are not
    there yet."""
    return sum(w.numel() for w in weights) * (12 if moments else 4)


def choose_packed(
    fast: PackedModel, wanted: int, checkpointing: str, longest: int, step: int, reserve: int, told: bool = True
) -> tuple[int, bool]:
    """Most tokens in a pack, and whether blocks are computed again.

    Args:
        wanted: `train.micro_tokens`. step: tokens of a whole optimiser step, beyond which nothing is gained.
        reserve: bytes of the free memory that are needed for something else, see `to_come`.
        told: whether to say what was chosen.

    Two probes of different size give what a token takes, kept whole and not, and what a pass takes beside its tokens.
    """
    always = checkpointing in ("block", "offload")
    if not torch.cuda.is_available():
        return max(wanted or CPU_TOKENS, longest), always and fast.can_recompute
    costs, fixed = {}, 0
    for recompute in (True,) if always and fast.can_recompute else (False, True) if fast.can_recompute else (False,):
        fast.recompute = recompute
        try:
            small, large = (_peak(fast, n, checkpointing == "offload") for n in (FULL // 4, FULL // 2))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if not recompute and checkpointing == "auto" and fast.can_recompute:
                continue
            fix = "set model.quantize=nf4, train.checkpointing=block, choose a smaller base, or free the card"
            what = f"not even {FULL // 2:,} tokens fit into the card beside the model"
            raise UserError(what, "train", fix) from None
        costs[recompute] = max(1, (large - small) // (FULL // 4))
        fixed = max(fixed, small - costs[recompute] * (FULL // 4))
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    room = max(0, free - reserve) * PACKED_SHARE - fixed
    fits = {recompute: int(room / cost) for recompute, cost in costs.items()}
    want = wanted or min(step, MOST)
    recompute = False not in fits or (
        checkpointing == "auto" and True in fits and fits[False] < max(longest, min(want, FULL))
    )
    tokens = max(longest, wanted or min(want, fits[recompute]))
    how = "blocks computed again" if recompute else "all kept"
    if told:
        say(
            f"train: {free / 2**30:.1f} GiB free, {reserve / 2**30:.1f} of them for gradients and optimiser; "
            "a token takes "
            + ", ".join(f"{cost / 2**20:.2f} MiB {'computed again' if r else 'kept'}" for r, cost in costs.items())
            + f" -> at most {tokens:,} tokens at once, {how}, about {tokens * costs[recompute] / 2**30:.1f} GiB"
        )
    return tokens, recompute


def _peak(fast: PackedModel, tokens: int, offload: bool) -> int:
    """Bytes that a pack of so many tokens takes at its peak, half of them labelled.

    offload: whether what blocks keep goes to the computer's memory, as it will in training.
    """
    rows, length = tokens // 128, 128
    where = np.arange(tokens).reshape(rows, length)[:, length // 2 : -1].ravel()
    pack = Pack(
        ids=np.ones(tokens, np.int64), positions=np.tile(np.arange(length), rows), starts=np.arange(rows + 1) * length,
        preambles=0, groups=np.zeros(1, np.int64), where=where, targets=np.ones(len(where), np.int64),
        weights=np.ones(len(where), np.float32), rows=rows, original=tokens,
    )  # fmt: skip
    was_training = fast.causal_lm.training
    fast.causal_lm.train()  # transformers' blocks are computed again in training alone
    try:
        with torch.autograd.graph.save_on_cpu(pin_memory=True) if offload else contextlib.nullcontext():
            return _taken(lambda: fast.loss_sum(fast.prepare(pack)), fast.causal_lm)
    finally:
        fast.causal_lm.train(was_training)


def _taken(loss: Callable[[], torch.Tensor], model: Any) -> int:
    """Bytes that a pass takes at its peak, there and back, beside gradients, which lie there from the start: a pass
    otherwise ends with more of them than it began with, and would hide what its tokens take."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss().backward()
        return torch.cuda.max_memory_allocated() - before
    finally:
        for parameter in trained:
            parameter.grad = None


def choose_micro_tokens(model: Any, wanted: int, longest: int, reserve: int) -> int:
    """`train.micro_tokens`, or what fits: measured with one small probe on a GPU, fixed on a CPU. reserve: as above."""
    if wanted:
        return max(wanted, longest)
    if not torch.cuda.is_available():
        return max(CPU_TOKENS, longest)
    torch.cuda.empty_cache()
    ids = np.ones((2, PROBE_TOKENS // 2), np.int64)
    try:
        per_token = max(1, _taken(lambda: loss_sum(model, PaddedBatch(ids, ids)), model) // PROBE_TOKENS)
    except torch.cuda.OutOfMemoryError:
        what = f"not even {PROBE_TOKENS} tokens fit into the card beside the model"
        raise UserError(what, "train", "set model.quantize=nf4, choose a smaller base, or free the card") from None
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    chosen = max(longest, min(MOST, int(max(0, free - reserve) * SHARE / per_token)))
    say(f"train: {free / 2**30:.1f} GiB free, {per_token / 2**20:.2f} MiB a token -> at most {chosen:,} tokens at once")
    return chosen
