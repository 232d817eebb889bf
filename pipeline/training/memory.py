"""Memory of training on a card: predicted from shapes (`Footprint`), and measured by probes before the first step.

    peak = weights + trained + tokens x (kept in all blocks + working set of one block) + fixed

Trained parameters, their gradients and AdamW's two moments are float32: 16 bytes per parameter. Per token, in the type
of the arithmetic: what each block keeps (`kernels.block`), and in the backward pass of one block about three rows of g
and u, and four of the hidden size. docs/benchmarks.md compares predictions with measurements.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.kernels.cross_entropy import SLICE
from pipeline.model.loss import loss_sum
from pipeline.model.memory import CPU_TOKENS
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import PaddedBatch
from pipeline.prompt.pack import Pack
from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.training.optimizer_state import Layout

PROBE_TOKENS = 512
PADDED_SHARE = 0.75  # of the free memory: the rest is for the optimiser's first step and for fragmentation
PACKED_SHARE = 0.9  # packs are of similar size, so there is less fragmentation
MAX_TOKENS = 65536
FULL_SPEED = 4096  # tokens with which matrix products run at full speed; recomputation is better than smaller packs


@dataclass(frozen=True)
class Footprint:
    """Bytes on a card.

    weights: frozen. trained: with gradients and optimiser. kept, recomputed: per token in all blocks, without and with
    recomputation. working: per token in the backward pass of one block. fixed: a slice of logits, and a dequantised
    stack of weights.
    """

    weights: float
    trained: float
    kept: float
    recomputed: float
    working: float
    fixed: float

    def peak(self, tokens: int, recompute: bool) -> float:
        """Peak for packs of so many tokens; shared tokens count once."""
        token = (self.recomputed if recompute else self.kept) + self.working
        return self.weights + self.trained + tokens * token + self.fixed


def predict_footprint(shape: Any, weights: float, trained: float, ranks: int, size: int, quantized: bool) -> Footprint:
    """Footprint of a model with LLaMA's blocks.

    Args:
        shape: transformers config. weights: bytes of the frozen weights.
        trained: bytes of the trained ones, with gradients and optimizer.
        ranks: sum of the adapters' ranks in one block. size: bytes of a number in the type of the arithmetic.
        quantized: whether the base is in 4 or 8 bits and dequantised for each product.
    """
    hidden, inner = shape.hidden_size, getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    heads = shape.num_attention_heads
    keys = getattr(shape, "num_key_value_heads", None) or heads
    head_size = getattr(shape, "head_dim", None) or hidden // heads
    queries = heads * head_size
    qkv = queries + 2 * keys * head_size
    small = 4 * heads + 8 + size * ranks  # log-sum-exp, inverse root mean squares of the norms, x A'
    recomputed = size * (2 * hidden + queries) + small
    kept = recomputed + size * (qkv + 2 * inner)
    working = size * (3 * 2 * inner + 4 * hidden)
    fixed = SLICE * shape.vocab_size * size * 2 + (2 * inner * hidden * size if quantized else 0)
    layers = shape.num_hidden_layers
    return Footprint(weights, trained, layers * kept, layers * recomputed, working, fixed)


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
    always = checkpointing in ("block", "offload")
    if not torch.cuda.is_available():
        return max(wanted or CPU_TOKENS, longest), always and fast.can_recompute
    per_token, fixed = {}, 0
    for recompute in (True,) if always and fast.can_recompute else (False, True) if fast.can_recompute else (False,):
        fast.recompute = recompute
        try:
            small, large = (
                _packed_peak(fast, n, checkpointing == "offload") for n in (FULL_SPEED // 4, FULL_SPEED // 2)
            )
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if not recompute and checkpointing == "auto" and fast.can_recompute:
                continue
            fix = "set model.quantize=nf4, train.checkpointing=block, choose a smaller base, or free the card"
            raise UserError(f"not even {FULL_SPEED // 2:,} tokens fit into the card's memory", "train", fix) from None
        per_token[recompute] = max(1, (large - small) // (FULL_SPEED // 4))
        fixed = max(fixed, small - per_token[recompute] * (FULL_SPEED // 4))
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
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
        fix = "set model.quantize=nf4, choose a smaller base, or free the card"
        raise UserError(f"not even {PROBE_TOKENS} tokens fit into the card's memory", "train", fix) from None
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    tokens = max(longest, min(MAX_TOKENS, int(max(0, free - reserve) * PADDED_SHARE / per_token)))
    say(
        f"train: at most {tokens:,} tokens in one pass, at {per_token / 2**20:.2f} MiB a token; "
        f"{free / 2**30:.1f} GiB are free"
    )
    return tokens
