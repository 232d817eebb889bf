"""Attention within the segments of a pack, and of each row's own tokens to the preamble they share.

    own part      (o1, l1): causal attention of every segment to itself; l = log of the sum of exponentials
    shared part   (o2, l2): own tokens of the rows of one preamble, to all of that preamble
    merged        l = logaddexp(l1, l2),  o = o1 exp(l1 - l) + o2 exp(l2 - l)

which is the softmax over both sets of keys. Backward, each part gets the merged o and l: its probabilities exp(s - l)
are then those of the whole, and with D = sum(do * o) so are its gradients, which add up.

On CUDA both parts are variable-length flash attention (Dao 2023, as built into torch). Its backward pass spreads work
over keys, of which a preamble has few, so the rows of a preamble go in pieces of `PIECE` queries, each with a copy of
the keys; gradients of the copies are summed in a fixed order. `attend_plain` is the plain twin, for CPUs and for
tests: segments side by side, with a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.kernels.in_order import in_order
from pipeline.prompt.pack import Pack

PIECE = 512  # queries; 128 to 1,024 take the same time on an H200


@dataclass(frozen=True)
class Layout:
    """Where the segments of a pack lie, on the device.

    starts: int32, (segments + 1,). longest: tokens of the longest segment. front: tokens of all preambles.
    shared: end of the tokens that have a preamble. queries, keys: int32, (pieces + 1,), bounds of the pieces, counted
    from `front`, and of their copies of keys. copies: int64, the token that each copied key is of.
    folds: for each preamble, where it begins, its tokens, its first copied key, its pieces.
    index, prefix: for the plain twin, see `_padded`.
    """

    starts: torch.Tensor
    longest: int
    front: int
    shared: int
    queries: torch.Tensor
    keys: torch.Tensor
    copies: torch.Tensor
    folds: tuple[tuple[int, int, int, int], ...]
    index: torch.Tensor | None = None
    prefix: torch.Tensor | None = None

    @classmethod
    def of(cls, pack: Pack, device: torch.device, plain: bool, longest: int = 0) -> Layout:
        """plain: for `attend_plain` instead of `attend`. longest: of all packs, where one layout stands for many."""
        bounds, copies, folds = [0], [np.zeros(0, np.int64)], []
        front = int(pack.starts[pack.preambles])
        for number in range(pack.preambles):
            begin, end = (int(b) - front for b in pack.groups[number : number + 2])
            start, size = int(pack.starts[number]), int(pack.starts[number + 1] - pack.starts[number])
            cuts = [*range(begin + PIECE, end, PIECE), end]
            folds.append((start, size, sum(map(len, copies)), len(cuts)))
            bounds += cuts
            copies += [np.arange(start, start + size)] * len(cuts)
        index, prefix = _padded(pack) if plain else (None, None)

        def tensor(values: Any, kind: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=kind).to(device, non_blocking=True)

        return cls(
            starts=tensor(pack.starts),
            longest=max(longest, pack.longest),
            front=front,
            shared=int(pack.groups[-1]),
            queries=tensor(bounds),
            keys=tensor(np.cumsum([len(c) for c in copies])),
            copies=tensor(np.concatenate(copies), torch.int64),
            folds=tuple(folds),
            index=tensor(index, torch.int64) if plain else None,
            prefix=tensor(prefix, torch.int64) if plain else None,
        )

    @property
    def widest(self) -> int:
        """Tokens of the longest preamble."""
        return max(size for _, size, _, _ in self.folds)


def _padded(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each segment, (segments, longest), and of its preamble, (segments, longest preamble); -1 = none."""
    sizes = np.diff(pack.starts)
    index = pack.starts[:-1, None] + np.arange(sizes.max())
    index[np.arange(sizes.max()) >= sizes[:, None]] = -1
    count = pack.preambles
    widest = int(sizes[:count].max()) if count else 0
    prefix = np.full((len(sizes), widest), -1, np.int64)
    group = np.searchsorted(pack.groups, pack.starts[:-1], side="right") - 1
    for number in range(count):
        prefix[(group == number) & (np.arange(len(sizes)) >= count), : sizes[number]] = np.arange(
            pack.starts[number], pack.starts[number + 1]
        )
    return index, prefix


def attend_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """The plain twin. q (tokens, heads, size), k and v (tokens, key heads, size) -> (tokens, heads, size)."""
    assert layout.index is not None
    assert layout.prefix is not None
    index, prefix = layout.index, layout.prefix
    there, before = index >= 0, prefix >= 0
    width = index.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=q.device).tril()
    mask = torch.cat([before[:, None].expand(-1, width, -1), causal & there[:, None]], dim=2)
    keys = torch.cat([prefix, index], dim=1).clamp(min=0)
    groups = q.shape[1] // k.shape[1]
    queries, k, v = (t.transpose(1, 2) for t in (q[index.clamp(min=0)], k[keys], v[keys]))
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(queries, k, v, mask[:, None], scale=scale)
    return out.transpose(1, 2)[there]


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """On CUDA, without a graph: out (tokens, heads, size), log-sum-exp (heads, tokens) in float32, flash's state."""
    flash = torch.ops.aten._flash_attention_forward
    out, lse, *state, _ = flash(
        q, k, v, layout.starts, layout.starts, layout.longest, layout.longest, 0.0, True, False, scale=scale
    )
    if layout.folds:
        mine = slice(layout.front, layout.shared)
        out2, lse2, *_ = flash(
            q[mine], k[layout.copies], v[layout.copies], layout.queries, layout.keys, min(PIECE, layout.shared),
            layout.widest, 0.0, False, False, scale=scale,
        )  # fmt: skip
        merge(out[mine], lse[:, mine], out2, lse2)
    return out, lse, state


def merge(out: torch.Tensor, lse: torch.Tensor, out2: torch.Tensor, lse2: torch.Tensor) -> None:
    """Merges the second softmax into the first, in place. out (tokens, heads, size), lse (heads, tokens)."""
    if out.is_cuda:
        from pipeline.kernels import gpu_attention

        gpu_attention.merge(out, lse, out2, lse2)
        return
    both = torch.logaddexp(lse, lse2)
    first, second = (torch.exp(part - both).t()[..., None] for part in (lse, lse2))
    out.copy_((out * first + out2 * second).to(out.dtype))
    lse.copy_(both)


def attend_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    state: Any, layout: Layout, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Gradients of q, k, v for `attend`, and what is still to be added to that of q from `front` to `shared`."""
    dq, dk, dv = _flash_backward(
        grad, q, k, v, out, lse, layout.starts, layout.starts, layout.longest, layout.longest, 0.0, True, *state,
        scale=scale,
    )  # fmt: skip
    if not layout.folds:
        return dq, dk, dv, None
    mine = slice(layout.front, layout.shared)
    dq2, dk2, dv2 = _flash_backward(
        grad[mine], q[mine], k[layout.copies], v[layout.copies], out[mine], lse[:, mine].contiguous(), layout.queries,
        layout.keys, min(PIECE, layout.shared), layout.widest, 0.0, False, *state, scale=scale,
    )  # fmt: skip
    for start, size, first, pieces in layout.folds:
        for whole, copied in ((dk, dk2), (dv, dv2)):
            parts = copied[first : first + pieces * size].view(pieces, size, *copied.shape[1:])
            whole[start : start + size] += parts.sum(0, dtype=torch.float32).to(whole.dtype)
    return dq, dk, dv, dq2


def _flash_backward(*args: Any, **how: Any) -> Any:
    with in_order(strict=True):
        return torch.ops.aten._flash_attention_backward(*args, **how)


class Attention(torch.autograd.Function):
    """`attend` with its gradient, for models whose own forward calls it."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, layout: Layout, scale: float) -> torch.Tensor:
        out, lse, state = attend(q, k, v, layout, scale)
        ctx.save_for_backward(q, k, v, out, lse, *state)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, out, lse, *state = ctx.saved_tensors
        dq, dk, dv, late = attend_backward(grad.contiguous(), q, k, v, out, lse, state, ctx.layout, ctx.scale)
        if late is not None:
            dq[ctx.layout.front : ctx.layout.shared] += late
        return dq, dk, dv, None, None


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """Differentiable. q (tokens, heads, size), k and v (tokens, key heads, size)."""
    if layout.index is None:
        # flash lays its output out as q is, and `merge` wants tokens first
        found: torch.Tensor = Attention.apply(q.contiguous(), k.contiguous(), v.contiguous(), layout, scale)
        return found
    return attend_plain(q, k, v, layout, scale)
