"""One LLaMA block as one autograd function: what is kept for the backward pass is chosen here, not by autograd.

    n1 = norm(x),   qkv = lora(n1),  rotate q and k,  o = attention,  x2 = x + lora(o)
    n2 = norm(x2),  gu = lora(n2),   h = act(g) u,    y = x2 + lora(h)

Kept for each token, in vectors of the hidden size (LLaMA's shapes): none 11.4 (x, qkv, o, x2, gu); block 3 (x, o, x2):
qkv and gu are computed again, attention and both products onto the residual stream are not. Norms and h are always
computed again, they cost no product. The last block needs its second half only where something is predicted (`keep`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.kernels import attention, gate, norm, rotary
from pipeline.kernels.attention import Layout
from pipeline.kernels.lora import Linear, Seed


@dataclass
class Block:
    """The frozen parts of a block and its adapters.

    norm1, norm2: weights of the norms, as what the unit vector is multiplied with. size: of a head. scale: of the
    attention's scores. act: see `gate.ACTS`. recompute: keep less, compute again.
    """

    norm1: torch.Tensor
    norm2: torch.Tensor
    eps: float
    heads: int
    key_heads: int
    size: int
    scale: float
    act: int
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    recompute: bool = False
    parameters: Sequence[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.linears = (self.qkv, self.out, self.gate_up, self.down)
        self.eight = self.qkv.frozen.eight
        self.parameters = [p for linear in self.linears for p in linear.parameters]

    def __call__(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout, keep: torch.Tensor | None = None,
        seed: Seed | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """x (tokens, hidden), cos and sin (tokens, size) -> (tokens, hidden), or (kept, hidden) with `keep`."""
        made: torch.Tensor = _Block.apply(x, cos, sin, self, layout, keep, seed, *self.parameters)
        return made

    def heads_of(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of q and k together, of q, of k and of v: (tokens, heads, size) each."""
        heads = qkv.view(len(qkv), -1, self.size)
        both = heads[:, : self.heads + self.key_heads]
        return both, heads[:, : self.heads], both[:, self.heads :], heads[:, self.heads + self.key_heads :]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, block: Block, layout: Layout,
        keep: torch.Tensor | None, seed: Seed | None, *parameters: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        seeds = [None if seed is None else seed.at(n) for n in range(4)]
        n1, r1, small = norm.forward(x, block.norm1, block.eps, block.qkv.room, block.eight)
        qkv, kept1 = block.qkv.forward(n1, seed=seeds[0], small=small)
        both, q, k, v = block.heads_of(qkv)
        rotary.rotate(both, cos, sin)
        o, lse = _attend(q, k, v, layout, block.scale)
        x2, kept2 = block.out.forward(o, x, seeds[1])
        if keep is not None:
            x2 = x2[keep]
        n2, r2, small = norm.forward(x2, block.norm2, block.eps, block.gate_up.room, block.eight)
        gu, kept3 = block.gate_up.forward(n2, seed=seeds[2], small=small)
        h, small = gate.forward(gu, block.act, block.eight)
        y, kept4 = block.down.forward(h, x2, seeds[3], small)

        ctx.block, ctx.layout, ctx.keep, ctx.lse = block, layout, keep, lse
        ctx.kept = [kept1, kept2, kept3, kept4]
        ctx.save_for_backward(x, cos, sin, x2, r1, r2, o, *(() if block.recompute else (qkv, gu)))
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        block: Block = ctx.block
        x, cos, sin, x2, r1, r2, o, *rest = ctx.saved_tensors
        kept1, kept2, kept3, kept4 = ctx.kept
        grad = grad.contiguous()
        if rest:
            qkv, gu = rest
        else:
            n2, _, small = norm.forward(x2, block.norm2, block.eps, block.gate_up.room, block.eight)
            block.gate_up.frozen.hold()
            gu = block.gate_up.again(n2, kept3, small=small)
        dh, p = block.down.backward_input(grad, kept4)
        dgu, h, small = gate.backward(dh, gu, block.act, block.eight)
        grads = block.down.backward_parameters(grad, h, p, kept4)
        del gu, dh, h
        dn2, p = block.gate_up.backward_input(dgu, kept3, small=small)
        dx2, n2, small = norm.backward(dn2, x2, block.norm2, r2, grad, block.eight)
        grads = block.gate_up.backward_parameters(dgu, n2, p, kept3) + grads
        del dgu, dn2, n2
        if ctx.keep is not None:  # elsewhere nothing is predicted, so no gradient comes from there
            dx2, small = torch.zeros_like(x).index_copy_(0, ctx.keep, dx2), None

        do, p = block.out.backward_input(dx2, kept2, small=small)
        grads = block.out.backward_parameters(dx2, o, p, kept2) + grads
        if not rest:
            n1, _, small = norm.forward(x, block.norm1, block.eps, block.qkv.room, block.eight)
            if ctx.needs_input_grad[0]:
                block.qkv.frozen.hold()
            qkv = block.qkv.again(n1, kept1, small=small)
            rotary.rotate(block.heads_of(qkv)[0], cos, sin)
        dqkv = torch.empty_like(qkv)
        both, *made = block.heads_of(dqkv)
        _attend_backward(do, block.heads_of(qkv)[1:], o, ctx.lse, ctx.layout, block.scale, made)
        rotary.rotate(both, cos, sin, back=True)
        del qkv, do
        wanted = ctx.needs_input_grad[0]
        dn1, p = block.qkv.backward_input(dqkv, kept1, wanted)
        if dn1 is not None:
            dx, n1, _ = norm.backward(dn1, x, block.norm1, r1, dx2)
        else:  # the first block: nothing below it is trained
            dx, (n1, *_) = None, norm.forward(x, block.norm1, block.eps)
        grads = block.qkv.backward_parameters(dqkv, n1, p, kept1) + grads
        return dx, None, None, None, None, None, None, *grads


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """o (tokens, heads * size), and what the backward pass on CUDA needs."""
    if layout.padded is not None:
        return attention.attend_plain(q, k, v, layout.padded, scale).flatten(1), None
    from pipeline.kernels import gpu_attention

    out, lse = gpu_attention.attend(q, k, v, layout, scale)
    return out.flatten(1), lse


def _attend_backward(
    grad: torch.Tensor, qkv: Sequence[torch.Tensor], out: torch.Tensor, lse: torch.Tensor | None, layout: Layout,
    scale: float, made: Sequence[torch.Tensor],
) -> None:  # fmt: skip
    """Writes the gradients of q, k and v into `made`. The plain twin goes through autograd, forward once more."""
    q, k, v = qkv
    if lse is not None:
        from pipeline.kernels import gpu_attention

        gpu_attention.attend_backward(grad.view_as(q), q, k, v, out.view_as(q), lse, layout, scale, made)
        return
    assert layout.padded is not None
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in qkv]
        again = attention.attend_plain(leaves[0], leaves[1], leaves[2], layout.padded, scale)
    for into, found in zip(made, torch.autograd.grad(again, leaves, grad.view_as(again)), strict=True):
        into.copy_(found)
