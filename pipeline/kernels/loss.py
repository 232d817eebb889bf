"""Cross-entropy of the output head, a slice of positions at a time: all logits never exist together.

    z = h W',  L = sum_i w_i (logsumexp(z_i) - z_i[target_i]),  dz_i = w_i (softmax(z_i) - onehot(target_i)),  dh = dz W

The gradient is made on the way forward, as in Liger Kernel (arXiv 2410.10989): L is the end of the graph, so what comes
back is one number that scales it.
"""

from __future__ import annotations

from typing import Any

import torch

ROWS = 4096  # positions in a slice; at 32,000 words 250 MiB of logits in bf16


class HeadLoss(torch.autograd.Function):
    """h (positions, hidden), head (words, hidden) of h's type, or in float32 where it is trained, targets int64 and
    weights float32 (positions,) -> sum in float32."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=h.device)
        dh = torch.empty_like(h)
        dhead = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        low = head.to(h.dtype)
        for start in range(0, len(h), ROWS):
            part = slice(start, start + ROWS)
            z = h[part] @ low.t()
            total += to_gradient(z, targets[part], weights[part])
            torch.mm(z, low, out=dh[part])
            if dhead is not None:
                dhead += z.t() @ h[part]
        ctx.save_for_backward(dh, *(() if dhead is None else (dhead.to(head.dtype),)))
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        dh, *dhead = ctx.saved_tensors
        return dh * grad.to(dh.dtype), dhead[0] * grad.to(dhead[0].dtype) if dhead else None, None, None


def to_gradient(z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The loss of the logits z (positions, vocabulary), which become its gradient, in place."""
    if z.is_cuda:
        from pipeline.kernels import gpu

        return gpu.to_gradient(z, targets, weights)
    wide = z.float()
    sums = torch.logsumexp(wide, dim=1)
    rows = torch.arange(len(z), device=z.device)
    loss = (weights * (sums - wide[rows, targets])).sum()
    slope = torch.exp(wide - sums[:, None])
    slope[rows, targets] -= 1
    z.copy_(slope.mul_(weights[:, None]))
    return loss
