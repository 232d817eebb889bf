"""One LLaMA block as one autograd function, so that what the backward pass keeps is chosen here, not by autograd.

    x --+-- norm1 -- n1 -- qkv, rotate -- attention -- o -- out --(+)-- x2
        +----------------------------------------------------------+

    x2 -+-- norm2 -- n2 -- gate_up -- act(gate) up -- h -- down --(+)-- y
        +----------------------------------------------------------+

                 kept for the backward pass     size of it            recomputed in the backward pass
    default      x, qkv, o, x2, gate_up         11.4 hidden sizes     n1, n2, h: no matrix product
    recompute    x, o, x2                       3 hidden sizes        n1, n2, h, qkv, gate_up; not attention, out, down

Sizes are per token, with LLaMA's shapes. In the last block, what follows attention is computed only for the positions
that predict something (`kept_positions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.kernels import attention, gated_mlp, rms_norm, rotary
from pipeline.kernels.deterministic import deterministic
from pipeline.kernels.layout import Layout
from pipeline.kernels.lora import StackedLora
from pipeline.kernels.trained_linear import TrainedLinear
from pipeline.kernels.types import DropoutSeed


@dataclass
class Block:
    """The weights of a block: frozen ones and adapters, or all trained (`TrainedLinear`, and `trained_norms`).

    norm1, norm2: the factor that the normalized vector is multiplied with, (hidden,). size: of a head. scale: of the
    attention scores. activation: a value of `gated_mlp.ACTIVATIONS`. recompute: see above. trained_norms: parameters of
    norm1 and norm2, which share their memory; empty where these are frozen.
    """

    norm1: torch.Tensor
    norm2: torch.Tensor
    eps: float
    heads: int
    key_heads: int
    size: int
    scale: float
    activation: int
    qkv: StackedLora | TrainedLinear
    out: StackedLora | TrainedLinear
    gate_up: StackedLora | TrainedLinear
    down: StackedLora | TrainedLinear
    recompute: bool = False
    trained_norms: Sequence[torch.Tensor] = ()
    parameters: Sequence[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.fp8 = self.qkv.frozen.takes_fp8
        linears = (self.qkv, self.out, self.gate_up, self.down)
        self.parameters = [p for linear in linears for p in linear.parameters] + list(self.trained_norms)

    def __call__(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout,
        kept_positions: torch.Tensor | None = None, seed: DropoutSeed | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """x (tokens, hidden), cos and sin (tokens, size) -> y (tokens, hidden), or (kept positions, hidden)."""
        y: torch.Tensor = _BlockFunction.apply(x, cos, sin, self, layout, kept_positions, seed, *self.parameters)
        return y

    def split_heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of q and k together, of q, of k and of v: (tokens, heads, size) each."""
        heads = qkv.view(len(qkv), -1, self.size)
        qk = heads[:, : self.heads + self.key_heads]
        return qk, heads[:, : self.heads], qk[:, self.heads :], heads[:, self.heads + self.key_heads :]


class _BlockFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, block: Block, layout: Layout,
        kept_positions: torch.Tensor | None, seed: DropoutSeed | None, *parameters: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        seeds = [None if seed is None else seed.child(n) for n in range(4)]
        n1, r1, n1_fp8 = rms_norm.forward(x, block.norm1, block.eps, block.qkv.spare_columns, block.fp8)
        qkv, saved_qkv = block.qkv.forward(n1, seed=seeds[0], x_fp8=n1_fp8)
        qk, q, k, v = block.split_heads(qkv)
        rotary.rotate(qk, cos, sin)
        o, lse = attention.forward(q, k, v, layout, block.scale)
        o = o.flatten(1)
        x2, saved_out = block.out.forward(o, x, seeds[1])
        if kept_positions is not None:
            x2 = x2[kept_positions]
        n2, r2, n2_fp8 = rms_norm.forward(x2, block.norm2, block.eps, block.gate_up.spare_columns, block.fp8)
        gate_up, saved_gate_up = block.gate_up.forward(n2, seed=seeds[2], x_fp8=n2_fp8)
        h, h_fp8 = gated_mlp.forward(gate_up, block.activation, block.fp8)
        y, saved_down = block.down.forward(h, x2, seeds[3], h_fp8)

        ctx.block, ctx.layout, ctx.kept_positions, ctx.lse = block, layout, kept_positions, lse
        ctx.saved_projections = saved_qkv, saved_out, saved_gate_up, saved_down
        ctx.save_for_backward(x, cos, sin, x2, r1, r2, o, *(() if block.recompute else (qkv, gate_up)))
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        block: Block = ctx.block
        x, cos, sin, x2, r1, r2, o, *kept = ctx.saved_tensors
        saved_qkv, saved_out, saved_gate_up, saved_down = ctx.saved_projections
        dy = grad.contiguous()

        # y = x2 + down(h)
        if kept:
            qkv, gate_up = kept
        else:
            n2, _, n2_fp8 = rms_norm.forward(x2, block.norm2, block.eps, block.gate_up.spare_columns, block.fp8)
            block.gate_up.frozen.keep_for_backward()
            gate_up = block.gate_up.output(n2, saved_gate_up, x_fp8=n2_fp8)
        dh, p = block.down.backward_input(dy, saved_down)
        d_gate_up, h, d_gate_up_fp8 = gated_mlp.backward(dh, gate_up, block.activation, block.fp8)
        gradients = block.down.backward_parameters(dy, h, p, saved_down)
        del gate_up, dh, h

        # gate_up = gate_up(norm(x2))
        dn2, p = block.gate_up.backward_input(d_gate_up, saved_gate_up, dy_fp8=d_gate_up_fp8)
        d_norm2 = [rms_norm.weight_gradient(dn2, x2, r2)] if block.trained_norms else []
        dx2, n2, dx2_fp8 = rms_norm.backward(dn2, x2, block.norm2, r2, dy, block.fp8)
        gradients = block.gate_up.backward_parameters(d_gate_up, n2, p, saved_gate_up) + gradients
        del d_gate_up, dn2, n2
        if ctx.kept_positions is not None:  # the other positions predict nothing, so their gradient is zero
            with deterministic(False):  # in any order: only padding is named twice, and its gradient is zero
                dx2, dx2_fp8 = torch.zeros_like(x).index_copy_(0, ctx.kept_positions, dx2), None

        # x2 = x + out(o)
        do, p = block.out.backward_input(dx2, saved_out, dy_fp8=dx2_fp8)
        assert do is not None
        gradients = block.out.backward_parameters(dx2, o, p, saved_out) + gradients

        # qkv = rotate(qkv(norm(x))), o = attention(qkv)
        if not kept:
            n1, _, n1_fp8 = rms_norm.forward(x, block.norm1, block.eps, block.qkv.spare_columns, block.fp8)
            if ctx.needs_input_grad[0]:
                block.qkv.frozen.keep_for_backward()
            qkv = block.qkv.output(n1, saved_qkv, x_fp8=n1_fp8)
            rotary.rotate(block.split_heads(qkv)[0], cos, sin)
        dqkv = torch.empty_like(qkv)
        _, q, k, v = block.split_heads(qkv)
        dqk, *into = block.split_heads(dqkv)
        attention.backward(do.view_as(q), (q, k, v), o.view_as(q), ctx.lse, ctx.layout, block.scale, into)
        rotary.rotate(dqk, cos, sin, inverse=True)
        del q, k, v, qkv, do

        needs_dn1 = ctx.needs_input_grad[0] or bool(block.trained_norms)
        dn1, p = block.qkv.backward_input(dqkv, saved_qkv, needs_dn1)
        d_norm1 = [rms_norm.weight_gradient(dn1, x, r1)] if block.trained_norms else []
        if dn1 is not None:
            dx, n1, _ = rms_norm.backward(dn1, x, block.norm1, r1, dx2)
        else:  # the first block: nothing before it is trained
            dx, (n1, *_) = None, rms_norm.forward(x, block.norm1, block.eps)
        gradients = block.qkv.backward_parameters(dqkv, n1, p, saved_qkv) + gradients
        return dx, None, None, None, None, None, None, *gradients, *d_norm1, *d_norm2
