"""Memory of training on a card, measured by probes before the first step; `footprint.py` predicts it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.model.loss import loss_sum
from pipeline.model.memory import CPU_TOKENS, free_bytes
from pipeline.model.packed.model import PackedModel
from pipeline.model.sharded import is_sharded, least_of_ranks
from pipeline.prompt.batch import PaddedBatch
from pipeline.prompt.pack import Pack
from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.training.footprint import PACKED_SHARE, ROOM
from pipeline.training.optimizer_state import Layout

PROBE_TOKENS = 512
PADDED_SHARE = 0.75  # of the free memory: the rest is for the optimiser's first step and for fragmentation
MAX_TOKENS = 65536
RECOMPUTE = ("block", "offload", "stream")  # values of `train.checkpointing`
PROBES = (1024, 256)  # tokens of the smaller of two probes; the second one where memory is too small for the first
FULL_SPEED = 4096  # tokens with which matrix products run at full speed; recomputation is better than smaller packs


def bytes_to_reserve(weights: Sequence[torch.Tensor], optimizer: str) -> int:
    """Bytes that training will allocate besides a pass: gradients in float32, and the optimizer's state.

    Args:
        optimizer: value of `train.optimizer`; empty: its state exists already.
    """
    state = Layout.of({str(n): w for n, w in enumerate(weights)}, optimizer).moment_bytes if optimizer else 0
    return sum(w.numel() for w in weights) * 4 + state


def choose_packed(
    fast: PackedModel, wanted: int, checkpointing: str, longest: int, step: int, reserve: int, verbose: bool = True
) -> tuple[int, bool]:
    """Most tokens in a pack, and whether blocks are recomputed.

    Args:
        wanted: `train.micro_tokens`, 0: what fits. longest: tokens of the longest row, the least that is chosen.
        step: tokens of a whole optimiser step; larger packs gain nothing. reserve: see `bytes_to_reserve`.

    Two probes of different sizes give the bytes per token, with and without recomputation, and the bytes of a pass that
    do not depend on its tokens.

    Raises:
        UserError: not even a probe fits.
    """
    always = checkpointing in RECOMPUTE
    if not torch.cuda.is_available():
        return max(wanted or CPU_TOKENS, longest), always and fast.can_recompute
    measured: dict[bool, tuple[int, int]] = {}
    ways = (True,) if always and fast.can_recompute else (False, True) if fast.can_recompute else (False,)
    if is_sharded(fast.causal_lm):  # where no probe may fail, the smaller one comes first
        ways = ways[::-1]
    for recompute in ways:
        if (
            not recompute
            and True in measured
            and checkpointing == "auto"
            and not _is_safe(fast, measured[True], reserve)
        ):
            continue
        fast.recompute = recompute
        can_be_left_out = not recompute and checkpointing == "auto" and fast.can_recompute
        sizes = _measure(fast, checkpointing == "offload", PROBES[:1] if can_be_left_out else PROBES)
        if sizes is not None:
            measured[recompute] = sizes
        elif not can_be_left_out:
            fix = "set train.checkpointing=stream or model.quantize=nf4, choose a smaller base, or free the card"
            raise UserError(f"not even {2 * PROBES[-1]} tokens fit into the card's memory", "train", fix)
    torch.cuda.empty_cache()
    per_token, fixed = (
        {recompute: size for recompute, (size, _) in measured.items()},
        max(f for _, f in measured.values()),
    )
    free = free_bytes(torch.device("cuda", torch.cuda.current_device()))
    room = max(0, free - reserve) * PACKED_SHARE - fixed
    fits = {recompute: int(room / size) for recompute, size in per_token.items()}
    useful = wanted or min(step, MAX_TOKENS)
    recompute = False not in fits or (
        checkpointing == "auto" and True in fits and fits[False] < max(longest, min(useful, FULL_SPEED))
    )
    tokens = max(longest, wanted or min(useful, fits[recompute]))
    if verbose:
        how = "recomputed" if recompute else "kept"
        say(
            f"train: at most {tokens:,} tokens in one pass, activations {how}: about "
            f"{tokens * per_token[recompute] / 2**30:.1f} GiB at {per_token[recompute] / 2**20:.2f} MiB a token; "
            f"{free / 2**30:.1f} GiB are free, {reserve / 2**30:.1f} of them for gradients and optimiser"
        )
    return tokens, recompute


def within_main_memory(tokens: int, longest: int, per_token: int, free: int, verbose: bool = True) -> int:
    """Tokens of a pass whose activations are offloaded: as many as fit into main memory, at least the longest row.

    Args:
        tokens: that fit into the card. per_token: bytes of one in main memory. free: bytes of main memory.
    """
    fits = max(longest, (free - ROOM) // per_token)
    if fits >= tokens:
        return tokens
    if verbose:
        say(f"train: at most {fits:,} tokens in one pass: the activations of {tokens:,} need "
            f"{tokens * per_token / 2**30:.1f} GiB of main memory, and {free / 2**30:.1f} are free")  # fmt: skip
    return fits


def _is_safe(fast: PackedModel, recomputed: tuple[int, int], reserve: int) -> bool:
    """Whether a probe of a sharded model that keeps everything fits on all ranks in any case; of others, always.

    Its bytes are bounded by one with recomputation, in whose backward pass one block is there with all that it keeps.

    Args:
        recomputed: bytes of a token, and bytes of a pass that do not depend on its tokens, by that probe.
    """
    if not is_sharded(fast.causal_lm):
        return True
    most = recomputed[0] * fast.causal_lm.config.num_hidden_layers * 2 * PROBES[0] + recomputed[1]
    room = free_bytes(torch.device("cuda", torch.cuda.current_device())) - reserve
    return least_of_ranks(fast.causal_lm, int(room)) > most


def _measure(fast: PackedModel, offload: bool, sizes: Sequence[int]) -> tuple[int, int] | None:
    """Bytes of a token, and bytes of a pass that do not depend on its tokens, by two probes; None if they do not fit.

    Args:
        sizes: tokens of the smaller probe; the next one is tried where it does not fit.
    """
    for tokens in sizes:
        try:
            small, large = (_packed_peak(fast, n, offload) for n in (tokens, 2 * tokens))
        except torch.cuda.OutOfMemoryError:
            if is_sharded(fast.causal_lm):  # the other ranks wait in this pass
                fix = "set train.checkpointing=block, model.quantize=nf4, or start more cards"
                raise UserError(f"{2 * tokens:,} tokens do not fit into the card's memory", "train", fix) from None
            small = large = 0
        if large:
            per_token = max(1, (large - small) // tokens)
            return per_token, max(0, small - per_token * tokens)
        torch.cuda.empty_cache()  # after the except clause, whose error refers to the tensors of the pass
    return None


def _packed_peak(fast: PackedModel, tokens: int, offload: bool) -> int:
    """Bytes at the peak of a pass over a pack of so many tokens, half of them labelled.

    offload: whether what blocks keep is moved to the computer's memory.
    """
    rows, length = tokens // 128, 128
    where = np.arange(tokens).reshape(rows, length)[:, length // 2 : -1].ravel()
    pack = Pack(
        ids=np.ones(tokens, np.int64), positions=np.tile(np.arange(length), rows), starts=np.arange(rows + 1) * length,
        preambles=0, groups=np.zeros(1, np.int64), where=where, targets=np.ones(len(where), np.int64),
        weights=np.ones(len(where), np.float32), rows=rows, original=tokens,
    )  # fmt: skip
    was_training = fast.causal_lm.training
    fast.causal_lm.train()  # transformers' blocks are recomputed in training mode only
    try:
        with torch.autograd.graph.save_on_cpu(pin_memory=True) if offload else contextlib.nullcontext():
            return _peak(lambda: fast.loss_sum(fast.prepare(pack)), fast.causal_lm)
    finally:
        fast.causal_lm.train(was_training)


def _peak(loss: Callable[[], torch.Tensor], model: Any) -> int:
    """Bytes at the peak of a forward and backward pass, without gradients: they are allocated before, since otherwise
    they would hide the bytes of the tokens."""
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


def choose_padded(model: Any, wanted: int, longest: int, reserve: int) -> int:
    """Most tokens in a padded micro-batch: `wanted`, or what fits, by one small probe on a GPU; fixed on a CPU.

    Args, Raises: as `choose_packed`.
    """
    if wanted:
        return max(wanted, longest)
    if not torch.cuda.is_available():
        return max(CPU_TOKENS, longest)
    torch.cuda.empty_cache()
    ids = np.ones((2, PROBE_TOKENS // 2), np.int64)
    try:
        per_token = max(1, _peak(lambda: loss_sum(model, PaddedBatch(ids, ids)), model) // PROBE_TOKENS)
    except torch.cuda.OutOfMemoryError:
        fix = "set train.checkpointing=stream or model.quantize=nf4, choose a smaller base, or free the card"
        raise UserError(f"not even {PROBE_TOKENS} tokens fit into the card's memory", "train", fix) from None
    torch.cuda.empty_cache()
    free = free_bytes(torch.device("cuda", torch.cuda.current_device()))
    tokens = max(longest, min(MAX_TOKENS, int(max(0, free - reserve) * PADDED_SHARE / per_token)))
    say(
        f"train: at most {tokens:,} tokens in one pass, at {per_token / 2**20:.2f} MiB a token; "
        f"{free / 2**30:.1f} GiB are free"
    )
    return tokens
