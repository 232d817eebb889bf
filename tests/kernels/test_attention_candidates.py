"""The variants of attention that `bench_long` times compute attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.attention import dense
from tests.helpers.packs import A, B
from tests.helpers.tensors import CUDA, DEVICE, assert_close, leaf
from tests.kernels.test_attention import long_pack


@pytest.mark.parametrize("leading", [[], [A * 30, B]], ids=["apart", "shared"])
@pytest.mark.parametrize("sizes", [(64, 64), (64, 32), (64, 16, True)], ids=str)
def test_variants(tmp_path: Path, triton_attention: Any, leading: list[list[int]], sizes: tuple[Any, ...]) -> None:
    """Against the dense formula; own tokens only for keys, since preambles' gradients need another kernel."""
    from scripts.benchmarks import attention_candidates as variants

    kind, bound = (torch.bfloat16, 2e-2) if CUDA else (torch.float32, 2e-6)
    pack = long_pack(tmp_path, leading)
    q, k, v = torch.randn(len(pack.ids), 8, 24, device=DEVICE).to(kind).split((4, 2, 2), 1)
    q, grad = q.contiguous(), torch.randn(len(pack.ids), 4, 24, device=DEVICE).to(kind)
    leaves = [leaf(t.cpu()) for t in (q, k, v)]
    wanted = dense(*leaves, pack, 0.3)
    dq, dk, dv = torch.autograd.grad(wanted, leaves, grad.double().cpu())
    large, small, longest_first = (*sizes, False)[:3]
    tiles = variants.Tiles(large, small, 4, 1, longest_first)
    table = tiles.table(pack, DEVICE)
    out, lse = variants.forward(q, k, v, table, tiles, 0.3)
    assert_close(out, wanted, bound)
    found, delta = variants.query_gradient(grad, q, k, v, out, lse, table, tiles, 0.3)
    assert_close(found, dq, bound)
    tiles = variants.Tiles(small, large, 4, 1, longest_first)
    table = tiles.table(pack, DEVICE, of_keys=True)
    first = int(pack.starts[pack.preambles])
    for ours, theirs in zip(
        variants.key_gradients(grad, q, k, v, lse, delta, table, tiles, 0.3), (dk, dv), strict=True
    ):
        assert_close(ours[first:], theirs[first:], bound)
