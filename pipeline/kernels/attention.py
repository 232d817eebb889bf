"""Attention within the segments of a pack, each row also seeing the preamble that it shares with others.

    s_ij = scale q_i k_j        for j in the preamble of i's row, and for j <= i in the row itself
    l_i  = log2 sum_j exp(s_ij),   p_ij = exp(s_ij) / 2^l_i,   o_i = sum_j p_ij v_j
    D_i  = do_i o_i,   ds_ij = p_ij (do_i v_j - D_i),   dq_i = scale sum_j ds_ij k_j
    dk_j = scale sum_i ds_ij q_i,   dv_j = sum_i p_ij do_i                        (Dao et al. 2022)

    layout.padded is None (CUDA) -----> triton_attention.py and triton_attention_gradients.py, one program a tile of
                                        queries as layout.py draws it
    else (CPU, float32, tests) -------> attend_plain: torch's attention, segments padded to similar lengths

Shapes: q (tokens, heads, size); k and v (tokens, key heads, size).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.kernels.layout import Layout, PaddedSegments


def attend_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padded: PaddedSegments, scale: float
) -> torch.Tensor:
    """o (tokens, heads, size), by torch's attention; on a CPU in float32, which takes a third of bf16's time there."""
    dtype = q.dtype
    if q.device.type == "cpu" and dtype.itemsize == 2:
        q, k, v = q.float(), k.float(), v.float()
    shapes = [bucket.shape for bucket in padded.buckets]
    query_counts = [segments * queries for segments, queries, _ in shapes]
    key_counts = [segments * keys for segments, _, keys in shapes]
    parts = (
        q[padded.queries].split(query_counts), k[padded.keys].split(key_counts), v[padded.keys].split(key_counts)
    )  # fmt: skip
    repeats, outputs = q.shape[1] // k.shape[1], []
    for bucket, *qkv in zip(padded.buckets, *parts, strict=True):
        # (segments, heads, tokens, size)
        q_b, k_b, v_b = (t.unflatten(0, (bucket.shape[0], -1)).transpose(1, 2) for t in qkv)
        if repeats > 1:
            k_b, v_b = k_b.repeat_interleave(repeats, 1), v_b.repeat_interleave(repeats, 1)
        o_b = F.scaled_dot_product_attention(q_b, k_b, v_b, bucket.mask, is_causal=bucket.mask is None, scale=scale)
        outputs.append(o_b.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[padded.positions].to(dtype)


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """o (tokens, heads, size), and what `backward` needs on CUDA: l, (heads, tokens)."""
    if layout.padded is not None:
        return attend_plain(q, k, v, layout.padded, scale), None
    from pipeline.kernels import triton_attention

    return triton_attention.attend(q, k, v, layout, scale)


def backward(
    grad: torch.Tensor, qkv: Sequence[torch.Tensor], o: torch.Tensor, lse: torch.Tensor | None, layout: Layout,
    scale: float, out: Sequence[torch.Tensor],
) -> None:  # fmt: skip
    """Writes the gradients of q, k and v into `out`. grad, o: (tokens, heads, size), contiguous."""
    q, k, v = qkv
    if lse is not None:
        from pipeline.kernels import triton_attention_gradients

        triton_attention_gradients.attend_backward(grad, q, k, v, o, lse, layout, scale, out)
        return
    assert layout.padded is not None
    with torch.enable_grad():  # recomputed by autograd
        leaves = [t.detach().requires_grad_() for t in qkv]
        o = attend_plain(leaves[0], leaves[1], leaves[2], layout.padded, scale)
    for target, gradient in zip(out, torch.autograd.grad(o, leaves, grad), strict=True):
        target.copy_(gradient)


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
    ) -> torch.Tensor:
        o, lse = forward(q, k, v, layout, scale)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.layout, ctx.scale = layout, scale
        return o

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, o, lse = ctx.saved_tensors
        gradients = tuple(torch.empty_like(t) for t in (q, k, v))
        backward(grad.contiguous(), (q, k, v), o, lse, ctx.layout, ctx.scale, gradients)
        return *gradients, None, None


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """o, differentiable, for models that call attention from their own forward.

    Raises:
        ValueError: on CUDA, v has heads of another size than q and k (as in latent attention).
    """
    if layout.padded is not None:
        return attend_plain(q, k, v, layout.padded, scale)
    if v.shape[2] != q.shape[2]:
        raise ValueError(
            f"heads have size {q.shape[2]} in queries and {v.shape[2]} in values; the kernel needs one size"
        )
    o: torch.Tensor = _TritonAttention.apply(q.contiguous(), k.contiguous(), v.contiguous(), layout, scale)
    return o
