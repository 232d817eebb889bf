"""Low-rank updates of frozen linear layers that share one input (q, k, v; gate, up; or one layer by itself).

    y_i = x W_i' + b_i + t_i B_i',    t_i = drop(x) (s_i A_i)'                                 (Hu et al. 2021)
    p_i = dy_i (s_i B_i),  dx = sum_i dy_i W_i + drop(p_i A_i),  dA_i = p_i' drop(x),  dB_i = dy_i' t_i

The scales s stand in copies of A and B, made once an optimiser step, so nothing is multiplied by them here. Where the
input has room behind each row, t goes there and B stands behind W, so that one product makes all of y: [x t] [W B]'. W
has no gradient. The A's lie in one matrix, so the products with them are one product, or one kernel where something is
dropped. On a GPU so do the B's, each in columns of its own: products that narrow wait for memory, zeros cost nothing.
Dropout keeps no mask: it is drawn again from its seed, which lies on the device, where a CUDA graph finds another one
each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.kernels.eight import Eight
from pipeline.kernels.frozen import Frozen

WIDEST = 128  # ranks that our kernels take at once; wider sums are worth a library's product
TOGETHER = ("cuda",)  # where all B of an input are one matrix; a CPU would wait for the products with zeros
DRAWN = 64  # and those of dropout: with 128 they want 150 KB of a multiprocessor, which only large cards have


@dataclass(frozen=True)
class Adapter:
    """One layer's update: `a` (r, in), `b` (out, r), trained; y gains scale * x a' b'. dropout: share, on its input."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float
    dropout: float = 0.0


@dataclass(frozen=True)
class Seed:
    """What a draw depends on. value: int64, (1,), on the device, the same for a whole pass; place: which draw of it."""

    value: torch.Tensor
    place: int = 0

    def at(self, n: int) -> Seed:
        """The n-th place below this one; seven at most, but for the first level."""
        return Seed(self.value, self.place * 8 + n + 1)


@dataclass(frozen=True)
class Group:
    """Adapters of one input, of equal rank, whose dropout is drawn at once: `rows` of A, `count` of them, the n-th
    drawing at `seed.at(place + n)`. share: that is dropped."""

    rows: slice
    count: int
    share: float
    place: int


@dataclass
class Kept:
    """What the backward pass of `Linear` needs beside its input: t, (tokens, sum of ranks), and the dropout's seed."""

    t: torch.Tensor
    seed: Seed | None


class Linear:
    """Frozen layers with one input and their adapters (None where a layer has none).

    Args:
        sizes: outputs of each layer, in the order in which `frozen` stacks them.
        roomy: whether inputs can have room behind each row; outputs are then added to nothing.

    Attributes:
        room: columns that must be free behind each row of the input.
        parts: columns of y, those of t, and the B between them, scaled: one adapter's, or all of them in one.
    """

    def __init__(
        self, frozen: Frozen, sizes: Sequence[int], adapters: Sequence[Adapter | None], roomy: bool = False
    ) -> None:
        self.frozen = frozen
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        self.spans = [slice(e - s, e) for e, s, a in zip(ends, sizes, adapters, strict=True) if a is not None]
        self.adapters = [a for a in adapters if a is not None]
        self.parameters = [p for a in self.adapters for p in (a.a, a.b)]
        ranks = [a.a.shape[0] for a in self.adapters]
        self.ranks = [slice(sum(ranks[:n]), sum(ranks[: n + 1])) for n in range(len(ranks))]
        self.drops = any(a.dropout for a in self.adapters)
        self.groups = groups_of(self.ranks, [a.dropout for a in self.adapters])
        like = {"dtype": frozen.dtype, "device": frozen.device}
        self.a, self.scaled_a = (torch.empty(sum(ranks), frozen.inputs, **like) for _ in range(2))
        all_of_y = len(self.adapters) == len(sizes) > 1
        if all_of_y and sum(ranks) <= WIDEST and frozen.device.type in TOGETHER:
            b = torch.zeros(ends[-1], sum(ranks), **like)
            self.scaled_b = [b[span, rank] for span, rank in zip(self.spans, self.ranks, strict=True)]
            self.parts = [(slice(0, ends[-1]), slice(0, sum(ranks)), b)]
        else:
            self.scaled_b = [torch.empty(a.b.shape, **like) for a in self.adapters]
            self.parts = list(zip(self.spans, self.ranks, self.scaled_b, strict=True))
        self.room = frozen.extend(sum(ranks)) if roomy and ranks else 0
        self.b = [self._behind(span, rank) for span, rank in zip(self.spans, self.ranks, strict=True)]

    def _behind(self, span: slice, rank: slice) -> torch.Tensor:
        """Where a copy of B lies: behind W, where there is room."""
        if not self.room:
            return self.scaled_a.new_empty(span.stop - span.start, rank.stop - rank.start)
        return self.frozen.wide[span, self.frozen.inputs + rank.start : self.frozen.inputs + rank.stop]

    def copies(self) -> list[tuple[torch.Tensor, torch.nn.Parameter, float]]:
        """Where the adapters' values must be put after each optimiser step, in the arithmetic's type, times what."""
        made = []
        for adapter, rank, b, scaled_b in zip(self.adapters, self.ranks, self.b, self.scaled_b, strict=True):
            made += [(self.a[rank], adapter.a, 1.0), (self.scaled_a[rank], adapter.a, adapter.scale)]
            made += [(b, adapter.b, 1.0), (scaled_b, adapter.b, adapter.scale)]
        return made

    def forward(
        self, x: torch.Tensor, onto: torch.Tensor | None = None, seed: Seed | None = None, small: Eight | None = None
    ) -> tuple[torch.Tensor, Kept]:
        """y (tokens, out), with `onto` (the residual stream) added to it.

        seed: of the dropout, where there is one. small: x in 8 bits, if it is at hand.
        """
        kept = self._low_rank(x, seed)
        return self.again(x, kept, onto, small), kept

    def again(
        self, x: torch.Tensor, kept: Kept, onto: torch.Tensor | None = None, small: Eight | None = None
    ) -> torch.Tensor:
        """y, when t is known."""
        if self.room:
            x.as_strided((len(x), self.frozen.wide.shape[1]), x.stride())[:, self.frozen.inputs :] = kept.t
            return self.frozen.forward_wide(x)
        y = self.frozen.forward(x, onto, small)
        for b, span, rank in zip(self.b, self.spans, self.ranks, strict=True):
            add(y[:, span], kept.t[:, rank], b.t())
        return y

    def _low_rank(self, x: torch.Tensor, seed: Seed | None) -> Kept:
        if not self.adapters:
            return Kept(x.new_empty(x.shape[0], 0), None)
        if not self.drops or seed is None:
            return Kept(x @ self.scaled_a.t(), None)
        return Kept(dropped_low_rank(x, self.scaled_a, self.groups, seed), seed)

    def backward_input(
        self, grad: torch.Tensor, kept: Kept, wanted: bool = True, small: Eight | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """dx (None where nobody wants it), and p (tokens, sum of ranks)."""
        p = torch.empty_like(kept.t)
        for span, rank, b in self.parts:
            torch.mm(grad[:, span], b, out=p[:, rank])
        if not wanted:
            return None, p
        dx = self.frozen.backward(grad, small)
        if self.adapters and kept.seed is None:
            add(dx, p, self.a)
        elif self.adapters and kept.seed is not None:
            add_dropped(dx, p, self.a, self.groups, kept.seed)
        return dx, p

    def backward_parameters(
        self, grad: torch.Tensor, x: torch.Tensor, p: torch.Tensor, kept: Kept
    ) -> list[torch.Tensor]:
        """Gradients of `parameters`, in their order and type."""
        if not self.adapters:
            return []
        kind = self.parameters[0].dtype
        da = over_tokens(p, x, kind) if kept.seed is None else dropped_gradient(p, x, self.groups, kept.seed).to(kind)
        db = [over_tokens(grad[:, span], kept.t[:, rank], kind) for span, rank, _ in self.parts]
        if len(db) < len(self.adapters):
            db = [db[0][span, rank].contiguous() for span, rank in zip(self.spans, self.ranks, strict=True)]
        return [one for rank, b in zip(self.ranks, db, strict=True) for one in (da[rank], b)]


def over_tokens(left: torch.Tensor, right: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """left' right in `kind`, (n, m); left (tokens, n) and right (tokens, m), any row strides."""
    if left.is_cuda and left.dtype != kind == torch.float32:
        return torch.mm(left.t(), right, out_dtype=kind)  # sums are in float32 anyway
    return (left.t() @ right).to(kind)


def add(y: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> None:
    """y += t b, in place. y (tokens, out) and t (tokens, rank), any row strides; b (rank, out), any strides."""
    if y.is_cuda and y.dtype != torch.float32 and len(b) <= WIDEST:
        from pipeline.kernels import gpu_lora

        gpu_lora.add_low_rank(y, t, b)
        return
    y.addmm_(t, b)


# --- dropout


def groups_of(ranks: Sequence[slice], shares: Sequence[float]) -> list[Group]:
    """All adapters at once where they are alike; else each by itself, in pieces of `DRAWN` rows with the same draw."""
    sizes = {rank.stop - rank.start for rank in ranks}
    if len(sizes) == 1 and len(set(shares)) == 1 and max(sizes) <= DRAWN:
        return [Group(slice(0, ranks[-1].stop), len(ranks), shares[0], 0)]
    return [
        Group(slice(start, min(start + DRAWN, rank.stop)), 1, share, n)
        for n, (rank, share) in enumerate(zip(ranks, shares, strict=True))
        for start in range(rank.start, rank.stop, DRAWN)
    ]


def _each(groups: Sequence[Group], seed: Seed) -> Iterator[tuple[slice, float, Seed]]:
    """Rows of A, share and seed of each adapter (or piece of one)."""
    for group in groups:
        rank = (group.rows.stop - group.rows.start) // group.count
        for n in range(group.count):
            start = group.rows.start + n * rank
            yield slice(start, start + rank), group.share, seed.at(group.place + n)


def dropped_low_rank(x: torch.Tensor, a: torch.Tensor, groups: Sequence[Group], seed: Seed) -> torch.Tensor:
    """t_i = drop_i(x) A_i' side by side, (tokens, all ranks). a (all ranks, in)."""
    t = x.new_empty(len(x), len(a))
    if x.is_cuda:
        from pipeline.kernels import gpu_dropout

        for group in groups:
            gpu_dropout.low_rank(t[:, group.rows], x, a[group.rows], group, seed)
        return t
    for rows, share, own in _each(groups, seed):
        t[:, rows] = drop(x, share, own) @ a[rows].t()
    return t


def add_dropped(dx: torch.Tensor, p: torch.Tensor, a: torch.Tensor, groups: Sequence[Group], seed: Seed) -> None:
    """dx += sum_i drop_i(p_i A_i), in place. dx (tokens, in), p (tokens, all ranks)."""
    if dx.is_cuda:
        from pipeline.kernels import gpu_dropout

        for group in groups:
            gpu_dropout.add_input(dx, p[:, group.rows], a[group.rows], group, seed)
        return
    for rows, share, own in _each(groups, seed):
        dx += drop(p[:, rows] @ a[rows], share, own)


def dropped_gradient(p: torch.Tensor, x: torch.Tensor, groups: Sequence[Group], seed: Seed) -> torch.Tensor:
    """dA_i = p_i' drop_i(x) one below the other, (all ranks, in); in float32 on CUDA."""
    if x.is_cuda:
        from pipeline.kernels import gpu_dropout

        parts = [gpu_dropout.gradient(p[:, group.rows], x, group, seed) for group in groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    return torch.cat([p[:, rows].t() @ drop(x, share, own) for rows, share, own in _each(groups, seed)])


def drop(x: torch.Tensor, share: float, seed: Seed) -> torch.Tensor:
    """x (tokens, size) with a `share` of it zero and the rest divided by 1 - share; the same for the same seed. The
    kernels for CUDA draw other numbers, and write none of them."""
    # Neighbouring places must not give neighbouring seeds of one generator.
    mixed = (int(seed.value) * 0x9E3779B1 + seed.place * 0x85EBCA77) % (1 << 63)
    generator = torch.Generator().manual_seed(mixed)
    return torch.empty_like(x).bernoulli_(1 - share, generator=generator).div_(1 - share).mul_(x)


class LoraLinear(torch.autograd.Function):
    """`Linear` for models whose own forward calls it; `parameters` come last, so that they get their gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, linear: Linear, seed: Seed | None, *parameters: torch.Tensor
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y, kept = linear.forward(flat, seed=seed)
        ctx.save_for_backward(flat, kept.t)
        ctx.linear, ctx.seed, ctx.shape = linear, kept.seed, x.shape
        # Not as a view: a model may work on it in place, as OLMo's clipping does.
        return torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, t = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        kept = Kept(t, ctx.seed)
        dx, p = ctx.linear.backward_input(flat, kept, ctx.needs_input_grad[0])
        grads = ctx.linear.backward_parameters(flat, x, p, kept)
        return None if dx is None else dx.view(ctx.shape), None, None, *grads
