"""Cross-entropy of the output head, computed in slices of positions so that the full logits never exist.

    z = h W',  L = sum_i w_i (logsumexp(z_i) - z_i[target_i]),  dz_i = w_i (softmax(z_i) - onehot(target_i)),  dh = dz W

The gradient is computed in the forward pass, as in Liger Kernel (arXiv 2410.10989): L is the end of the graph, so the
backward pass only scales it by one number. In fp16 that would be too late for most of dz, which fp16 rounds to zero: dz
is multiplied with the factor that the backward pass will bring (`loss_scale.py`) before it is rounded, and dh divided
by it.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.kernels.card import runs_kernels

SLICE = 4096  # positions; with a vocabulary of 32,000 its logits are 250 MiB in bf16


class HeadCrossEntropy(torch.autograd.Function):
    """Sum over positions of weight * -log p(target), a scalar in float32.

    h (positions, hidden); head (vocabulary, hidden), in h's dtype, or in float32 if it is trained; targets int64 and
    weights float32, (positions,). scale: None, or what dz is multiplied with while it is in h's dtype, a scalar in
    float32 on the device; loss and gradients do not depend on it but for rounding.
    """

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        total = torch.zeros((), dtype=torch.float32, device=h.device)
        dh = torch.empty_like(h)
        dhead = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        low = head.to(h.dtype)
        for start in range(0, len(h), SLICE):
            part = slice(start, start + SLICE)
            z = h[part] @ low.t()
            total += loss_and_gradient(z, targets[part], weights[part], scale)
            torch.mm(z, low, out=dh[part])  # z holds its gradient now
            if dhead is not None:
                dhead += z.t() @ h[part]
        ctx.scale = None if scale is None else scale.clone()  # its tensor may hold another step's by then
        ctx.save_for_backward(dh, *(() if dhead is None else (dhead.to(head.dtype),)))
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        dh, *dhead = ctx.saved_tensors
        grad = grad if ctx.scale is None else grad / ctx.scale  # 1, exactly, in training
        return dh * grad.to(dh.dtype), dhead[0] * grad.to(dhead[0].dtype) if dhead else None, None, None, None


def loss_and_gradient(
    z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """The loss of the logits z (positions, vocabulary), which are overwritten by their gradient times `scale`."""
    if runs_kernels(z):
        from pipeline.kernels import triton_rowwise

        return triton_rowwise.loss_and_gradient(z, targets, weights, scale)
    wide = z.float()
    log_sums = torch.logsumexp(wide, dim=1)
    rows = torch.arange(len(z), device=z.device)
    loss = (weights * (log_sums - wide[rows, targets])).sum()
    slope = torch.exp(wide - log_sums[:, None])
    slope[rows, targets] -= 1
    z.copy_(slope.mul_((weights if scale is None else weights * scale)[:, None]))
    return loss
