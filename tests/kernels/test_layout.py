"""Tiles and buckets of a pack, by hand; the tiles together are the whole attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.kernels import layout as layouts
from pipeline.kernels.layout import Layout, LayoutSize, PaddedSegments
from pipeline.prompt.pack import Packer
from tests.helpers.attention import a_pack, dense, heads_of
from tests.helpers.packs import ROWS, A, B, tokens_of
from tests.helpers.tensors import CPU, assert_close


def test_padded_segments_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two buckets: segments of at most two tokens, then of at most four; each padded to its own longest."""
    monkeypatch.setattr(layouts, "MIN_BUCKET", 2)
    packer = Packer(tokens_of(tmp_path, ROWS, [0] * 5), [A, B], 100)
    padded = PaddedSegments.of(packer.pack(range(5)), CPU)
    assert [bucket.shape for bucket in padded.buckets] == [(4, 2, 6), (3, 4, 7)]
    assert padded.queries.tolist() == [10, 0, 11, 12, 13, 0, 14, 15, 0, 1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 0]
    assert padded.positions.tolist() == [8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 0, 2, 3, 4, 6, 7]
    first, second = padded.keys[:24].view(4, 6).tolist(), padded.keys[24:].view(3, 7).tolist()
    assert first == [[0, 1, 2, 0, 10, 0], [3, 4, 5, 6, 11, 12], [3, 4, 5, 6, 13, 0], [0, 0, 0, 0, 14, 15]]
    assert second == [[0, 0, 0, 0, 1, 2, 0], [0, 0, 0, 3, 4, 5, 6], [0, 1, 2, 7, 8, 9, 0]]
    mask = padded.buckets[0].mask
    assert mask is not None
    assert mask[:, 0].int().tolist() == [
        [[1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0]], [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]], [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]],
    ]  # fmt: skip
    alone = PaddedSegments.of(packer.pack([3]), CPU)
    assert [(bucket.shape, bucket.mask) for bucket in alone.buckets] == [((1, 2, 2), None)]


def test_layout_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of two tokens, chunks of three queries."""
    monkeypatch.setattr(layouts, "TILE", 2)
    monkeypatch.setattr(layouts, "QUERY_CHUNK", 3)
    pack = Packer(tokens_of(tmp_path, ROWS, [0] * 5), [A, B], 100).pack(range(5))
    assert pack.starts.tolist() == [0, 3, 7, 10, 11, 13, 14, 16]  # A, B; two rows of A, two of B, one of neither
    layout = Layout.of(pack, CPU, plain=False)
    assert layout.query_tiles.tolist() == [
        [0, 0, 3, 0, 0], [2, 0, 3, 0, 0], [3, 3, 7, 0, 0], [5, 3, 7, 0, 0], [7, 7, 10, 0, 3], [9, 7, 10, 0, 3],
        [10, 10, 11, 0, 3], [11, 11, 13, 3, 7], [13, 13, 14, 3, 7], [14, 14, 16, 0, 0],
    ]  # fmt: skip
    assert layout.preamble_tiles.tolist() == [
        [7, 10, 0, 3, 0], [7, 10, 2, 3, 2], [10, 11, 0, 3, 3], [10, 11, 2, 3, 5], [11, 14, 3, 7, 6], [11, 14, 5, 7, 8],
    ]  # fmt: skip
    assert layout.reductions.tolist() == [[0, 3, 2], [1, 3, 2], [2, 3, 2], [6, 4, 1], [7, 4, 1], [8, 4, 1], [9, 4, 1]]
    assert layout.partial_sums == 10
    assert layout.padded is None
    assert layout.long_tiles is None
    more = Layout.of(pack, CPU, plain=False, size=LayoutSize(12, 7, 20))
    assert more.query_tiles[10:].tolist() == [[0] * 5] * 2
    assert (len(more.preamble_tiles), more.partial_sums) == (7, 20)


def test_rows_are_long_by_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 tokens in 7 segments, two preambles among them; never where shapes must stay the same."""
    monkeypatch.setattr(layouts, "LONG_TILE", 4)
    pack = Packer(tokens_of(tmp_path, ROWS, [0] * 5), [A, B], 100).pack(range(5))
    for mean, is_long in ((2, True), (3, False)):
        monkeypatch.setattr(layouts, "LONG_SEGMENT", mean)
        tiles = Layout.of(pack, CPU, plain=False).long_tiles
        assert (tiles is not None) == is_long
        assert tiles is None or tiles[:3].tolist() == [[0, 0, 3, 0, 0], [3, 3, 7, 0, 0], [7, 7, 10, 0, 3]]
        assert Layout.of(pack, CPU, plain=False, size=LayoutSize(12, 7, 20)).long_tiles is None


def by_layout(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, layout: Layout, scale: float
) -> list[torch.Tensor]:
    """What the Triton kernels do, program by program: out and the gradients of q, k and v."""
    group = q.shape[1] // k.shape[1]
    out, dq, p_of, ds_of = torch.zeros_like(q), torch.zeros_like(q), {}, {}
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)

    def to_keys(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.einsum("hqk,qhd->khd", weights, rows).unflatten(1, (-1, group)).sum(2)

    for first, own, end, before, until in layout.query_tiles.tolist():
        rows = torch.arange(first, min(first + layouts.TILE, end))
        keys = torch.cat([torch.arange(before, until), torch.arange(own, end)])
        ks, vs = (t[keys].repeat_interleave(group, 1) for t in (k, v))
        ahead = (keys[None] > rows[:, None]) & (keys >= own)[None]
        p = (torch.einsum("qhd,khd->hqk", q[rows], ks) * scale).masked_fill(ahead, -torch.inf).softmax(-1)
        out[rows] = torch.einsum("hqk,khd->qhd", p, vs)
        d = (grad[rows] * out[rows]).sum(-1).t()[..., None]
        ds = p * (torch.einsum("qhd,khd->hqk", grad[rows], vs) - d) * scale
        dq[rows] = torch.einsum("hqk,khd->qhd", ds, ks)
        shared = until - before
        dv[own:end] += to_keys(p[:, :, shared:], grad[rows])
        dk[own:end] += to_keys(ds[:, :, shared:], q[rows])
        for n, row in enumerate(rows.tolist()):
            p_of[row], ds_of[row] = p[:, n, :shared], ds[:, n, :shared]
    to_k, to_v = (q.new_full((layout.partial_sums, *k.shape[1:]), torch.nan) for _ in range(2))
    for begin, end, key, until, line in layout.preamble_tiles.tolist():
        start = min(key_ for _, _, key_, until_, _ in layout.preamble_tiles.tolist() if until_ == until)
        mine = slice(key - start, min(key + layouts.TILE, until) - start)
        rows = slice(begin, end)
        there = slice(line, line + mine.stop - mine.start)
        to_v[there] = to_keys(torch.stack([p_of[row][:, mine] for row in range(begin, end)], 1), grad[rows])
        to_k[there] = to_keys(torch.stack([ds_of[row][:, mine] for row in range(begin, end)], 1), q[rows])
    for token, (line, apart, count) in enumerate(layout.reductions.tolist()):
        dk[token] += to_k[line : line + apart * count : apart].sum(0)
        dv[token] += to_v[line : line + apart * count : apart].sum(0)
    return [out, dq, dk, dv]


@pytest.mark.parametrize("leading", [[], [A, B]])
@pytest.mark.parametrize(("tile", "chunk"), [(2, 3), (64, 512)])
def test_attention_by_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leading: list[list[int]], tile: int, chunk: int
) -> None:
    """Query tiles, preamble tiles and reductions together give the whole attention."""
    monkeypatch.setattr(layouts, "TILE", tile)
    monkeypatch.setattr(layouts, "QUERY_CHUNK", chunk)
    pack = a_pack(tmp_path, leading)
    q, k, v, grad = heads_of(pack)
    found = by_layout(q, k, v, grad, Layout.of(pack, CPU, plain=False), 0.3)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    wanted = dense(q, k, v, pack, 0.3)
    for ours, theirs in zip(found, (wanted, *torch.autograd.grad(wanted, leaves, grad)), strict=True):
        assert_close(ours, theirs, 1e-12)
