"""Dropout on the inputs of stacked adapters (see lora.py), with masks that are drawn again instead of stored.

    t_i = drop_i(x) A_i',   dx += sum_i drop_i(p_i A_i),   dA_i = p_i' drop_i(x)

The three products of one forward and backward pass take the same seed, hence the same masks. On CUDA they are Triton
kernels (triton_dropout.py), whose masks differ from those that `drop` draws here for CPUs.

Shapes: x, dx (tokens, in); a (ranks, in); t, p (tokens, ranks); `ranks` is the sum of the adapters' ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pipeline.kernels.card import runs_kernels
from pipeline.kernels.types import DropoutGroup, DropoutSeed

MAX_RANKS = 64  # of one kernel; with 128 it needs 150 KB of shared memory, which only data-center cards have


def groups_of(ranks: Sequence[slice], dropouts: Sequence[float]) -> list[DropoutGroup]:
    """One group of all adapters if they are alike, else one each, in pieces of `MAX_RANKS` rows with the same mask."""
    sizes = {rank.stop - rank.start for rank in ranks}
    if len(sizes) == 1 and len(set(dropouts)) == 1 and max(sizes) <= MAX_RANKS:
        return [DropoutGroup(slice(0, ranks[-1].stop), len(ranks), dropouts[0], 0)]
    return [
        DropoutGroup(slice(start, min(start + MAX_RANKS, rank.stop)), 1, dropout, n)
        for n, (rank, dropout) in enumerate(zip(ranks, dropouts, strict=True))
        for start in range(rank.start, rank.stop, MAX_RANKS)
    ]


def project(x: torch.Tensor, a: torch.Tensor, groups: Sequence[DropoutGroup], seed: DropoutSeed) -> torch.Tensor:
    """t_i = drop_i(x) A_i' of all adapters, (tokens, ranks)."""
    t = x.new_empty(len(x), len(a))
    if runs_kernels(x):
        from pipeline.kernels import triton_dropout

        for group in groups:
            triton_dropout.project(t[:, group.rows], x, a[group.rows], group, seed)
        return t
    for rows, dropout, mask_seed in _adapters(groups, seed):
        t[:, rows] = drop(x, dropout, mask_seed) @ a[rows].t()
    return t


def add_input_gradient(
    dx: torch.Tensor, p: torch.Tensor, a: torch.Tensor, groups: Sequence[DropoutGroup], seed: DropoutSeed
) -> None:
    """dx += sum_i drop_i(p_i A_i), in place."""
    if runs_kernels(dx):
        from pipeline.kernels import triton_dropout

        for group in groups:
            triton_dropout.add_input_gradient(dx, p[:, group.rows], a[group.rows], group, seed)
        return
    for rows, dropout, mask_seed in _adapters(groups, seed):
        dx += drop(p[:, rows] @ a[rows], dropout, mask_seed)


def weight_gradient(
    p: torch.Tensor, x: torch.Tensor, groups: Sequence[DropoutGroup], seed: DropoutSeed
) -> torch.Tensor:
    """dA_i = p_i' drop_i(x) of all adapters, (ranks, in); in float32 on CUDA."""
    if runs_kernels(x):
        from pipeline.kernels import triton_dropout

        parts = [triton_dropout.weight_gradient(p[:, group.rows], x, group, seed) for group in groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    return torch.cat([p[:, rows].t() @ drop(x, dropout, s) for rows, dropout, s in _adapters(groups, seed)])


def _adapters(groups: Sequence[DropoutGroup], seed: DropoutSeed) -> Iterator[tuple[slice, float, DropoutSeed]]:
    """Rows of A, dropout and seed of each adapter, or piece of one."""
    for group in groups:
        rank = (group.rows.stop - group.rows.start) // group.count
        for n in range(group.count):
            start = group.rows.start + n * rank
            yield slice(start, start + rank), group.dropout, seed.child(group.first + n)


def drop(x: torch.Tensor, dropout: float, seed: DropoutSeed) -> torch.Tensor:
    """x with a fraction `dropout` of it zero and the rest divided by 1 - dropout; a pure function of the seed."""
    mixed = (int(seed.value) * 0x9E3779B1 + seed.index * 0x85EBCA77) % (1 << 63)  # generators want distant seeds
    generator = torch.Generator(x.device).manual_seed(mixed)
    return torch.empty_like(x).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout).mul_(x)
