"""Attention by its dense formula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.kernels import attention
from pipeline.kernels.layout import Layout
from pipeline.prompt.pack import Pack, Packer
from tests.helpers.packs import random_tokens
from tests.helpers.tensors import assert_close


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pack: Pack, scale: float) -> torch.Tensor:
    """Each segment with its preamble in front: one causal softmax over the whole row."""
    made, repeat = [], q.shape[1] // k.shape[1]
    for n, (start, end) in enumerate(zip(pack.starts[:-1].tolist(), pack.starts[1:].tolist(), strict=True)):
        shared = [
            slice(int(pack.starts[g]), int(pack.starts[g + 1]))
            for g in range(pack.preambles)
            if n >= pack.preambles and pack.groups[g] <= start < pack.groups[g + 1]
        ]
        keys, values = (
            torch.cat([t[part] for part in (*shared, slice(start, end))]).repeat_interleave(repeat, 1) for t in (k, v)
        )
        scores = torch.einsum("qhd,khd->hqk", q[start:end], keys) * scale
        ahead = torch.ones(end - start, len(keys), dtype=torch.bool).triu(len(keys) - (end - start) + 1)
        weights = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        made.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(made)


def a_pack(folder: Path, leading: Sequence[list[int]]) -> Pack:
    return Packer(random_tokens(folder, leading, 14), leading, 1000).pack(range(14))


def heads_of(pack: Pack, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """q, k, v and a gradient: four heads, two for keys and values."""
    return [torch.randn(len(pack.ids), n, 8, dtype=dtype) for n in (4, 2, 2, 4)]


def assert_dense(pack: Pack, layout: Layout) -> None:
    """Attention and its gradients are those of the dense formula."""
    q, k, v, grad = (t.requires_grad_() for t in heads_of(pack))
    found, wanted = attention.attention(q, k, v, layout, 0.3), dense(q, k, v, pack, 0.3)
    assert_close(found, wanted, 1e-12)
    grads = (torch.autograd.grad(y, [q, k, v], grad) for y in (found, wanted))
    for ours, theirs in zip(*grads, strict=True):
        assert_close(ours, theirs, 1e-12)
