"""Attention within a pack against the dense formula, plain and by Triton."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.kernels import attention, card
from pipeline.kernels import layout as layouts
from pipeline.kernels.layout import Layout, LayoutSize
from pipeline.prompt.pack import Pack, Packer
from tests.helpers.attention import a_pack, assert_dense, dense, heads_of
from tests.helpers.packs import A, B, tokens_of
from tests.helpers.tensors import CPU, CUDA, DEVICE, assert_close, leaf

SHAPES = ((4, 2, 8), (2, 2, 24), (3, 1, 16), (2, 1, 160))  # heads, key heads, size of a head


@pytest.mark.parametrize("leading", [[], [A, B]])
def test_attention(tmp_path: Path, leading: list[list[int]]) -> None:
    pack = a_pack(tmp_path, leading)
    assert_dense(pack, Layout.of(pack, CPU, plain=True))


@pytest.mark.parametrize("leading", [[], [A * 3, B]], ids=["apart", "shared"])
def test_attention_of_rows_of_all_lengths(tmp_path: Path, leading: list[list[int]]) -> None:
    """Against the dense formula. What is computed stays below twice the rows' own, however long one of them is."""
    rng, rows = np.random.default_rng(0), []
    for n, count in enumerate([300, *range(17, 80, 3), 1, 2, 16]):
        rows.append([*(leading[n % 2] if leading else []), *rng.integers(30, 50, count).tolist()])
    pack = Packer(tokens_of(tmp_path, rows, [1] * len(rows)), leading, 10_000).pack(range(len(rows)))
    layout = Layout.of(pack, CPU, plain=True)
    assert layout.padded is not None
    short = int((np.diff(pack.starts) < layouts.MIN_BUCKET).sum())
    assert len(layout.padded.queries) < 2 * len(pack.ids) + layouts.MIN_BUCKET * short
    assert_dense(pack, layout)


def test_long_rows_with_a_preamble_need_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two preambles and of none in one bucket; their queries are their whole rows, and gradients the same."""
    rng, leading = np.random.default_rng(0), [A * 3, B]
    rows = [[*(leading[n % 3] if n % 3 < 2 else []), *rng.integers(30, 50, 33 + n).tolist()] for n in range(9)]
    pack = Packer(tokens_of(tmp_path, rows, [1] * len(rows)), leading, 10_000).pack(range(len(rows)))
    assert pack.preambles == 2
    for long, masks in ((33, 0), (100, 1)):
        monkeypatch.setattr(layouts, "LONG", long)
        layout = Layout.of(pack, CPU, plain=True)
        assert layout.padded is not None
        assert sum(bucket.mask is not None for bucket in layout.padded.buckets) == masks
        assert_dense(pack, layout)


def test_heads_of_different_sizes(tmp_path: Path) -> None:
    """As in DeepSeek's latent attention: right on a CPU, refused where a kernel would read past them."""
    pack = a_pack(tmp_path, [A, B])
    q, k, v, _ = heads_of(pack)
    found = attention.attention(q, k, v[..., :5], Layout.of(pack, CPU, plain=True), 0.3)
    assert_close(found, dense(q, k, v, pack, 0.3)[..., :5], 1e-12)
    with pytest.raises(ValueError, match=r"8 .* 5"):
        attention.attention(q, k, v[..., :5], Layout.of(pack, CPU, plain=False), 0.3)


@pytest.mark.skipif(not CUDA, reason="kernels need CUDA")
@pytest.mark.parametrize("leading", [[], [A, B]])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_attention_on_cuda(tmp_path: Path, leading: list[list[int]], kind: torch.dtype) -> None:
    pack = a_pack(tmp_path, leading)
    q, k, v, grad = (t.to(kind).cuda().requires_grad_() for t in heads_of(pack))
    q64, k64, v64 = (leaf(t.cpu()) for t in (q, k, v))
    found = attention.attention(q, k, v, Layout.of(pack, q.device, plain=False), 0.3)
    wanted = dense(q64, k64, v64, pack, 0.3)
    assert_close(found, wanted, 1e-2)
    ours = torch.autograd.grad(found, [q, k, v], grad)
    theirs = torch.autograd.grad(wanted, [q64, k64, v64], grad.double().cpu())
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 2e-2)


def long_pack(folder: Path, leading: Sequence[list[int]]) -> Pack:
    """Rows and a preamble of several blocks."""
    rng, rows = np.random.default_rng(0), []
    for n in range(8):
        opening = leading[n % 2] if leading else []
        rows.append([*opening, *rng.integers(0, 50, 1 + 25 * n).tolist()])
    pack = Packer(tokens_of(folder, rows, [0] * 8), leading, 10_000).pack(range(8))
    assert pack.preambles == len(leading)
    return pack


@pytest.mark.parametrize("leading", [[], [A * 30, B]], ids=["apart", "shared"])
@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "kind"),
    [
        *((*shape, torch.bfloat16 if CUDA else torch.float32) for shape in SHAPES),
        (3, 1, 16, torch.float16),
        (2, 1, 160, torch.float16),
    ],
)
@pytest.mark.parametrize(
    ("capability", "long"),
    [((9, 0), 512), ((9, 0), 1), ((7, 5), 1)],
    ids=["short tiles", "long tiles", "no matrix units"],
)
def test_triton_attention(
    tmp_path: Path, triton_attention: Any, triton_attention_gradients: Any, monkeypatch: pytest.MonkeyPatch,
    leading: list[list[int]], heads: int, key_heads: int, size: int, kind: torch.dtype,
    capability: tuple[int, int], long: int,
) -> None:  # fmt: skip
    """Against the dense formula; q, k and v are views of one tensor, and so are their gradients. A layout with room.
    Tiles of new cards, for rows that count as short and as long there, and of cards before Ampere."""
    monkeypatch.setattr(layouts, "QUERY_CHUNK", 100)
    monkeypatch.setattr(layouts, "LONG_SEGMENT", long)
    monkeypatch.setattr(card, "capability", lambda _: capability)
    bound = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}[kind]
    pack = long_pack(tmp_path, leading)
    tokens, ends = len(pack.ids), (heads, heads + key_heads)
    wide = torch.randn(tokens, heads + 2 * key_heads, size, device=DEVICE).to(kind)
    grad = torch.randn(tokens, heads, size, device=DEVICE).to(kind)
    parts = wide.tensor_split(ends, dim=1)
    leaves = [leaf(t.cpu()) for t in parts]
    wanted = dense(*leaves, pack, 0.3)
    grads = torch.autograd.grad(wanted, leaves, grad.double().cpu())
    for room in (None, LayoutSize(40, 60, 9000)):
        layout = Layout.of(pack, DEVICE, plain=False, size=room)
        assert (layout.long_tiles is not None) == (long == 1 and room is None)
        out, lse = triton_attention.attend(*parts, layout, 0.3)
        assert_close(out, wanted, bound)
        made = torch.full_like(wide, 7.0)
        triton_attention_gradients.attend_backward(grad, *parts, out, lse, layout, 0.3, made.tensor_split(ends, dim=1))
        for ours, theirs in zip(made.tensor_split(ends, dim=1), grads, strict=True):
            assert_close(ours, theirs, bound)
