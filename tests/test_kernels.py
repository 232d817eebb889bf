"""Kernels: each plain twin against autograd of the formula in float64, and the Triton kernels against their twins."""

from __future__ import annotations

import ast
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.kernels import attention, eight, fp8, gate, lora, loss, norm, rotary
from pipeline.kernels.attention import Layout
from pipeline.kernels.copies import Copies
from pipeline.kernels.frozen import Frozen
from pipeline.kernels.in_order import in_order
from pipeline.kernels.lora import Adapter, Group, Linear, LoraLinear, Seed
from pipeline.prompt.pack import Pack, Packer
from pipeline.training.proof import MASKS, mask_error
from tests.test_pack import A, B, random_tokens, tokens_of
from tests.tiny import SHAPE  # noqa: F401  one thread: tiny tensors are slower on more

CUDA = torch.cuda.is_available()
CPU = torch.device("cpu")
if not CUDA and "triton" not in sys.modules:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported, which torch does at times


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def leaf(x: torch.Tensor) -> torch.Tensor:
    """A copy in float64 that gradients come to."""
    return x.detach().double().requires_grad_()


def close(ours: torch.Tensor | None, theirs: torch.Tensor | None, bound: float = 2e-6) -> None:
    """Alike up to `bound` of their size as a whole."""
    assert ours is not None
    assert theirs is not None
    assert ours.shape == theirs.shape
    apart = (ours.double().cpu() - theirs.double().cpu()).norm() / theirs.double().norm().cpu().clamp(min=1e-30)
    assert apart <= bound, float(apart)


# --- norm, rotary, gate


@pytest.mark.parametrize("room", [0, 8])
@pytest.mark.parametrize("past", [False, True])
def test_norm(room: int, past: bool) -> None:
    x, weight, grad, around = torch.randn(5, 48), torch.randn(48), torch.randn(5, 48), torch.randn(5, 48)
    n, r, small = norm.forward(x, weight, 1e-5, room)
    assert small is None
    wide = leaf(x)
    wanted = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    close(n, wanted)
    assert n.stride() == (48 + room, 1)
    ((wanted * grad).sum() + (wide * around).sum() * past).backward()
    dx, again, small = norm.backward(grad, x, weight, r, around if past else None)
    assert small is None
    close(dx, wide.grad)
    assert torch.equal(again, n)


def angles(tokens: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Angles of half a head, and cos and sin as transformers gives them: twice side by side."""
    angle = torch.randn(tokens, size // 2)
    return angle, torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()


def turned(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Each half of a head is the real and the imaginary part of numbers that are turned by the angle."""
    real, imaginary = x.double().chunk(2, dim=-1)
    found = torch.complex(real, imaginary) * torch.exp(1j * angle.double())[:, None]
    return torch.cat([found.real, found.imag], dim=-1)


def test_rotary() -> None:
    angle, cos, sin = angles(5, 8)
    whole = torch.randn(5, 9, 8)
    x = whole.clone()
    rotary.rotate(x[:, :6], cos, sin)  # a view: q and k of q, k, v
    close(x[:, :6], turned(whole[:, :6], angle))
    assert torch.equal(x[:, 6:], whole[:, 6:])
    rotary.rotate(x[:, :6], cos, sin, back=True)
    close(x, whole)


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_gate(name: str) -> None:
    gu, grad = torch.randn(5, 60) * 3, torch.randn(5, 30)
    wide = leaf(gu)
    g, u = wide.chunk(2, dim=1)
    h = (F.silu(g) if name == "silu" else F.gelu(g, approximate="tanh")) * u
    close(gate.forward(gu, gate.ACTS[name])[0], h)
    h.backward(grad)
    dgu, again, _ = gate.backward(grad.clone(), gu, gate.ACTS[name])
    close(dgu, wide.grad)
    close(again, h)


# --- the head


@pytest.mark.parametrize("rows", [3, 4096])
@pytest.mark.parametrize("trained", [False, True])
def test_head_loss(monkeypatch: pytest.MonkeyPatch, rows: int, trained: bool) -> None:
    """Slices of three positions, of which the last holds one, and all at once; weights, of which one is zero."""
    monkeypatch.setattr(loss, "ROWS", rows)
    h = torch.randn(7, 16).requires_grad_()
    head = torch.randn(50, 16).requires_grad_(trained)
    targets, weights = torch.tensor([3, 3, 0, 49, 7, 3, 1]), torch.tensor([1.0, 2, 1, 0, 5, 1, 1])
    found = loss.HeadLoss.apply(h, head, targets, weights)
    assert found.dtype == torch.float32
    (found / 9).backward()
    wide, wide_head = leaf(h), leaf(head)
    wanted = (F.cross_entropy(wide @ wide_head.t(), targets, reduction="none") * weights).sum()
    (wanted / 9).backward()
    close(found.detach()[None], wanted[None])
    close(h.grad, wide.grad)
    if trained:
        close(head.grad, wide_head.grad)
    else:
        assert head.grad is None


def test_head_loss_of_large_logits() -> None:
    """Neither exp of them nor log of nothing."""
    z = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, 1e4]])
    total = loss.to_gradient(z, torch.tensor([1, 2]), torch.ones(2))
    assert float(total) == 1e4
    assert z.tolist() == [[1, -1, 0], [0, 0, 0]]


# --- linear layers


def layers(biases: Sequence[bool], sizes: Sequence[int] = (6, 4, 5), inputs: int = 10) -> list[torch.nn.Linear]:
    made = [torch.nn.Linear(inputs, n, bias=b, dtype=torch.float64) for n, b in zip(sizes, biases, strict=True)]
    return [layer.requires_grad_(False) for layer in made]


def adapter(rank: int, outputs: int, scale: float, dropout: float = 0.0, inputs: int = 10) -> Adapter:
    a, b = (torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((rank, inputs), (outputs, rank)))
    return Adapter(a, b, scale, dropout)


def stacked(frozen: Sequence[torch.nn.Linear], adapters: Sequence[Adapter | None], roomy: bool = False) -> Linear:
    linear = Linear(Frozen(frozen, torch.float64), [f.out_features for f in frozen], adapters, roomy)
    Copies(linear.copies()).refresh()
    return linear


def textbook(x: torch.Tensor, frozen: Sequence[torch.nn.Linear], adapters: Sequence[Adapter | None]) -> torch.Tensor:
    return torch.cat(
        [
            layer(x) if a is None else layer(x) + a.scale * (x @ a.a.t()) @ a.b.t()
            for layer, a in zip(frozen, adapters, strict=True)
        ],
        dim=-1,
    )


def wanted_of(y: torch.Tensor, x: torch.Tensor, linear: Linear, grad: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of x and of the adapters, by autograd."""
    return list(torch.autograd.grad(y, [x, *linear.parameters], grad))


@pytest.mark.parametrize("biases", [(False, False, False), (True, False, True)])
@pytest.mark.parametrize("ranks", [(2, 2, 2), (3, 1, 2), (3, 0, 1), (0, 0, 2), (0, 0, 0)])
@pytest.mark.parametrize("roomy", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_linear(
    biases: tuple[bool, ...], ranks: tuple[int, ...], roomy: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack of three layers, some without an adapter or a bias; t behind the input, or in a product of its own; as
    on a CPU, and with all B as one as on a GPU."""
    monkeypatch.setattr(lora, "TOGETHER", ("cpu",) if device == "cuda" else ())
    frozen = layers(biases)
    adapters = [adapter(r, f.out_features, 0.5 + r) if r else None for f, r in zip(frozen, ranks, strict=True)]
    x, grad = torch.randn(7, 10, dtype=torch.float64).requires_grad_(), torch.randn(7, 15, dtype=torch.float64)
    y = textbook(x, frozen, adapters)
    linear = stacked(frozen, adapters, roomy)
    assert linear.room == (sum(ranks) if roomy else 0)
    assert len(linear.parts) == (1 if device == "cuda" and all(ranks) else len(linear.adapters))
    close(textbook(x, frozen, adapters), y, 0)  # the layers hold views of the stack now, of the same numbers
    assert all(f.weight.untyped_storage().data_ptr() == frozen[0].weight.untyped_storage().data_ptr() for f in frozen)

    given = x.new_empty(7, 10 + linear.room)[:, :10].copy_(x).detach()
    found, kept = linear.forward(given)
    close(found, y, 1e-12)
    close(linear.again(given, kept), y, 1e-12)
    dx, p = linear.backward_input(grad, kept)
    grads = linear.backward_parameters(grad, given, p, kept)
    for ours, theirs in zip([dx, *grads], wanted_of(y, x, linear, grad), strict=True):
        close(ours, theirs, 1e-12)
    assert linear.backward_input(grad, kept, wanted=False)[0] is None


@pytest.mark.parametrize("bias", [False, True])
def test_linear_onto_the_residual_stream(bias: bool) -> None:
    frozen, adapters = layers([bias], [6]), [adapter(2, 6, 2.0)]
    x, stream = torch.randn(7, 10, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    found, _ = stacked(frozen, adapters).forward(x, stream.clone())
    close(found, textbook(x, frozen, adapters) + stream, 1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_lora_linear(bias: bool) -> None:
    """As models call it: more than two dimensions, and an input that nobody wants the gradient of."""
    frozen, adapters = layers([bias], [6]), [adapter(2, 6, 2.0)]
    x, grad = torch.randn(2, 3, 10, dtype=torch.float64).requires_grad_(), torch.randn(2, 3, 6, dtype=torch.float64)
    linear = stacked(frozen, adapters)
    y = LoraLinear.apply(x, linear, 0, *linear.parameters)
    wanted = textbook(x, frozen, adapters)
    close(y, wanted, 1e-12)
    grads = wanted_of(wanted, x, linear, grad)
    for ours, theirs in zip(wanted_of(y, x, linear, grad), grads, strict=True):
        close(ours, theirs, 1e-12)
    LoraLinear.apply(x.detach(), linear, 0, *linear.parameters).backward(grad)
    for parameter, wanted_grad in zip(linear.parameters, grads[1:], strict=True):
        close(parameter.grad, wanted_grad, 1e-12)


def test_frozen_weights_of_another_type_stay() -> None:
    """In full precision, for arithmetic in a lower one: the layers keep theirs."""
    frozen = layers([True, False, False])
    before = [f.weight.clone() for f in frozen]
    made = Frozen(frozen, torch.bfloat16)
    assert made.weight.dtype == made.bias.dtype == torch.bfloat16
    assert all(torch.equal(f.weight, w) for f, w in zip(frozen, before, strict=True))


def dropping(share: float) -> tuple[Linear, torch.Tensor, torch.Tensor]:
    frozen = layers([False, True, False])
    adapters = [adapter(3, 6, 2.0, share), None, adapter(2, 5, 1.0, share / 2)]
    x, grad = torch.randn(7, 10, dtype=torch.float64), torch.randn(7, 15, dtype=torch.float64)
    return stacked(frozen, adapters), x, grad


def of(seed: int) -> Seed:
    return Seed(torch.tensor([seed]))


def test_dropout_is_unbiased() -> None:
    linear, x, _ = dropping(0.5)
    ys = torch.stack([linear.forward(x, seed=of(seed))[0] for seed in range(2000)])
    linear.drops = False
    wanted = linear.forward(x)[0]
    off = (ys.mean(0) - wanted) / (ys.std(0) / 2000**0.5).clamp(min=1e-12)
    assert off.abs().max() < 4.5  # standard errors, the largest of 77
    assert torch.equal(ys[0, :, 6:10], wanted[:, 6:10])  # no adapter, nothing to drop


def test_dropout_depends_on_its_seed_alone() -> None:
    linear, x, _ = dropping(0.5)
    first = linear.forward(x, seed=of(3))[0]
    assert torch.equal(linear.forward(x, seed=of(3))[0], first)
    assert not torch.equal(linear.forward(x, seed=of(4))[0], first)
    masks = [lora.drop(torch.ones_like(x), 0.25, of(3).at(place)) for place in range(50)]
    assert all(set(mask.unique().tolist()) == {0.0, 1 / 0.75} for mask in masks)
    assert torch.stack(masks).mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_that_are_not_one(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """What a run asks of kernels before it begins: each of the three drawing by itself is found, and a wrong share."""
    frozen = [layer.to(dtype) for layer in layers([False] * 2, (64, 32), 96)]
    adapters = [adapter(4, 64, 2.0, 0.05, 96), adapter(4, 32, 2.0, 0.05, 96)]
    linear = Linear(Frozen(frozen, dtype), [64, 32], adapters)
    assert mask_error(linear) < 0.01
    for name in ("dropped_low_rank", "add_dropped", "dropped_gradient"):
        stock = getattr(lora, name)
        with monkeypatch.context() as broken:
            broken.setattr(lora, name, lambda *args, stock=stock: stock(*args[:-1], args[-1].at(3)))
            assert mask_error(linear) > 0.2
    with monkeypatch.context() as broken:
        broken.setattr(lora, "dropped_gradient", lambda *_: torch.full_like(linear.a, torch.nan))
        assert math.isnan(mask_error(linear))
    shares = [Group(group.rows, group.count, 0.5, group.place) for group in linear.groups]
    stock = lora.dropped_low_rank
    monkeypatch.setattr(lora, "dropped_low_rank", lambda x, a, groups, seed: stock(x, a, shares, seed))
    assert mask_error(linear) > MASKS


@pytest.mark.parametrize("which", range(5))
def test_dropout_goes_back_through_the_same_mask(which: int) -> None:
    """y is linear in x and in each matrix, so a step of any size tells the slope: exact only with the same mask."""
    linear, x, grad = dropping(0.4)
    _, kept = linear.forward(x, seed=of(5))
    dx, p = linear.backward_input(grad, kept)
    slopes = [dx, *linear.backward_parameters(grad, x, p, kept)]
    inputs = [x, *linear.parameters]
    before = linear.forward(x, seed=of(5))[0]
    step = torch.randn_like(inputs[which])
    with torch.no_grad():
        inputs[which] += step
    for copy, parameter, scale in linear.copies():
        copy.copy_(parameter.detach() * scale)
    after = linear.forward(x, seed=of(5))[0]
    slope = slopes[which]
    assert slope is not None
    assert float(((after - before) * grad).sum()) == pytest.approx(float((slope * step).sum()), rel=1e-10)


# --- attention


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
    close(found, wanted, 1e-12)
    grads = (torch.autograd.grad(y, [q, k, v], grad) for y in (found, wanted))
    for ours, theirs in zip(*grads, strict=True):
        close(ours, theirs, 1e-12)


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
    short = int((np.diff(pack.starts) < attention.SHORT).sum())
    assert len(layout.padded.queries) < 2 * len(pack.ids) + attention.SHORT * short
    assert_dense(pack, layout)


def test_values_of_another_size(tmp_path: Path) -> None:
    """As in DeepSeek's latent attention: right on a CPU, refused where a kernel would read past them."""
    pack = a_pack(tmp_path, [A, B])
    q, k, v, _ = heads_of(pack)
    found = attention.attention(q, k, v[..., :5], Layout.of(pack, CPU, plain=True), 0.3)
    close(found, dense(q, k, v, pack, 0.3)[..., :5], 1e-12)
    with pytest.raises(ValueError, match="heads have 8 numbers in queries and 5 in values"):
        attention.attention(q, k, v[..., :5], Layout.of(pack, CPU, plain=False), 0.3)


def test_segments_side_by_side_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of at most two tokens, then of at most four; a side has as many columns as somebody in it needs."""
    from tests.test_pack import ROWS

    monkeypatch.setattr(attention, "SHORT", 2)
    packer = Packer(tokens_of(tmp_path, ROWS, [0] * 5), [A, B], 100)
    padded = attention.Padded.of(packer.pack(range(5)), CPU)
    assert [side.shape for side in padded.sides] == [(4, 2, 6), (3, 4, 7)]
    assert padded.queries.tolist() == [10, 0, 11, 12, 13, 0, 14, 15, 0, 1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 0]
    assert padded.back.tolist() == [8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 0, 2, 3, 4, 6, 7]
    first, second = padded.keys[:24].view(4, 6).tolist(), padded.keys[24:].view(3, 7).tolist()
    assert first == [[0, 1, 2, 0, 10, 0], [3, 4, 5, 6, 11, 12], [3, 4, 5, 6, 13, 0], [0, 0, 0, 0, 14, 15]]
    assert second == [[0, 0, 0, 0, 1, 2, 0], [0, 0, 0, 3, 4, 5, 6], [0, 1, 2, 7, 8, 9, 0]]
    seen = padded.sides[0].seen
    assert seen is not None
    assert seen[:, 0].int().tolist() == [
        [[1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0]], [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]], [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]],
    ]  # fmt: skip
    alone = attention.Padded.of(packer.pack([3]), CPU)
    assert [(side.shape, side.seen) for side in alone.sides] == [((1, 2, 2), None)]


def test_layout_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two tokens, pieces of three queries."""
    from tests.test_pack import ROWS

    monkeypatch.setattr(attention, "TILE", 2)
    monkeypatch.setattr(attention, "PIECE", 3)
    pack = Packer(tokens_of(tmp_path, ROWS, [0] * 5), [A, B], 100).pack(range(5))
    assert pack.starts.tolist() == [0, 3, 7, 10, 11, 13, 14, 16]  # A, B; two rows of A, two of B, one of neither
    layout = Layout.of(pack, CPU, plain=False)
    assert layout.blocks.tolist() == [
        [0, 0, 3, 0, 0], [2, 0, 3, 0, 0], [3, 3, 7, 0, 0], [5, 3, 7, 0, 0], [7, 7, 10, 0, 3], [9, 7, 10, 0, 3],
        [10, 10, 11, 0, 3], [11, 11, 13, 3, 7], [13, 13, 14, 3, 7], [14, 14, 16, 0, 0],
    ]  # fmt: skip
    assert layout.pieces.tolist() == [
        [7, 10, 0, 3, 0], [7, 10, 2, 3, 2], [10, 11, 0, 3, 3], [10, 11, 2, 3, 5], [11, 14, 3, 7, 6], [11, 14, 5, 7, 8],
    ]  # fmt: skip
    assert layout.folds.tolist() == [[0, 3, 2], [1, 3, 2], [2, 3, 2], [6, 4, 1], [7, 4, 1], [8, 4, 1], [9, 4, 1]]
    assert layout.lines == 10
    assert layout.padded is None
    more = Layout.of(pack, CPU, plain=False, room=attention.Room(12, 7, 20))
    assert more.blocks[10:].tolist() == [[0] * 5] * 2
    assert (len(more.pieces), more.lines) == (7, 20)


def by_layout(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, layout: Layout, scale: float
) -> list[torch.Tensor]:
    """What the kernels do, program by program: out and the gradients of q, k and v."""
    group = q.shape[1] // k.shape[1]
    out, dq, p_of, ds_of = torch.zeros_like(q), torch.zeros_like(q), {}, {}
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)

    def to_keys(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.einsum("hqk,qhd->khd", weights, rows).unflatten(1, (-1, group)).sum(2)

    for first, own, end, before, until in layout.blocks.tolist():
        rows = torch.arange(first, min(first + attention.TILE, end))
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
    to_k, to_v = (q.new_full((layout.lines, *k.shape[1:]), torch.nan) for _ in range(2))
    for begin, end, key, until, line in layout.pieces.tolist():
        start = min(key_ for _, _, key_, until_, _ in layout.pieces.tolist() if until_ == until)
        mine = slice(key - start, min(key + attention.TILE, until) - start)
        rows = slice(begin, end)
        there = slice(line, line + mine.stop - mine.start)
        to_v[there] = to_keys(torch.stack([p_of[row][:, mine] for row in range(begin, end)], 1), grad[rows])
        to_k[there] = to_keys(torch.stack([ds_of[row][:, mine] for row in range(begin, end)], 1), q[rows])
    for token, (line, apart, count) in enumerate(layout.folds.tolist()):
        dk[token] += to_k[line : line + apart * count : apart].sum(0)
        dv[token] += to_v[line : line + apart * count : apart].sum(0)
    return [out, dq, dk, dv]


@pytest.mark.parametrize("leading", [[], [A, B]])
@pytest.mark.parametrize(("tile", "piece"), [(2, 3), (64, 512)])
def test_attention_by_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leading: list[list[int]], tile: int, piece: int
) -> None:
    """Blocks, pieces and folds make up the whole."""
    monkeypatch.setattr(attention, "TILE", tile)
    monkeypatch.setattr(attention, "PIECE", piece)
    pack = a_pack(tmp_path, leading)
    q, k, v, grad = heads_of(pack)
    found = by_layout(q, k, v, grad, Layout.of(pack, CPU, plain=False), 0.3)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    wanted = dense(q, k, v, pack, 0.3)
    for ours, theirs in zip(found, (wanted, *torch.autograd.grad(wanted, leaves, grad)), strict=True):
        close(ours, theirs, 1e-12)


@pytest.mark.skipif(not CUDA, reason="kernels need CUDA")
@pytest.mark.parametrize("leading", [[], [A, B]])
def test_attention_on_the_card(tmp_path: Path, leading: list[list[int]]) -> None:
    pack = a_pack(tmp_path, leading)
    q, k, v, grad = (t.to(torch.bfloat16).cuda().requires_grad_() for t in heads_of(pack))
    q64, k64, v64 = (leaf(t.cpu()) for t in (q, k, v))
    found = attention.attention(q, k, v, Layout.of(pack, q.device, plain=False), 0.3)
    wanted = dense(q64, k64, v64, pack, 0.3)
    close(found, wanted, 1e-2)
    ours = torch.autograd.grad(found, [q, k, v], grad)
    theirs = torch.autograd.grad(wanted, [q64, k64, v64], grad.double().cpu())
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, 2e-2)


# --- fp8


def test_fp8_rounding() -> None:
    """Three bits behind the leading one, so 2^-4 of a value; below 2^-6 of the scale, steps of 2^-9."""
    x = torch.randn(50, 64) * torch.logspace(-12, 12, 50, base=2)[:, None]
    x[3, :5] = torch.tensor([1e-9, -1e-9, 0, 1, -1])
    x[4] = 0
    small = eight.quantise(x)
    q, scale = small.values, small.scales
    assert (q.dtype, scale.shape) == (torch.float8_e4m3fn, (50, 1))
    off = (q.double() * scale - x).abs()
    assert (off <= torch.maximum(x.abs().double() / 16, scale.double() * 2**-10) * (1 + 1e-6)).all()
    assert torch.equal(q.float().abs().amax(1), torch.tensor([448.0] * 4 + [0.0] + [448.0] * 45))
    assert torch.equal(eight.quantise(x[7:8]).values.float(), q[7:8].float())  # alone as among others


@pytest.mark.parametrize("bias", [False, True])
def test_fp8_products(bias: bool) -> None:
    """Those of the dequantised numbers; the layers' stock forward multiplies with the same weights."""
    made = [layer.float() for layer in layers([bias, False], [6, 4])]
    x, grad, stream = torch.randn(7, 10), torch.randn(7, 10), torch.randn(7, 10)

    def rounded(t: torch.Tensor) -> torch.Tensor:
        small = eight.quantise(t)
        return small.values.double() * small.scales

    weight = torch.cat([layer.weight for layer in made])
    rows, columns = rounded(weight), rounded(weight.t().contiguous()).t()
    shift = torch.cat([made[0].bias, torch.zeros(4)]).double() if bias else 0
    ours = fp8.Fp8(made, torch.float32)
    close(ours.forward(x), rounded(x) @ rows.t() + shift)
    close(ours.forward(x, stream.clone()), rounded(x) @ rows.t() + shift + stream)
    close(ours.backward(grad), rounded(grad) @ columns)
    close(torch.cat([layer(x) for layer in made], 1), x.double() @ rows.t() + shift)
    assert sum(layer.weight.numel() for layer in made) == 0
    assert ours.extend(3) == 0


# --- sums in a fixed order


def test_gradients_of_an_index_do_not_depend_on_threads() -> None:
    """As attention's keys are gathered on CPUs: many places give to one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    x = torch.randn(40, 64, requires_grad=True)
    where, grad = torch.randint(0, 40, (20_000,)), torch.randn(20_000, 64)
    found = set()
    try:
        with in_order():
            for _ in range(10):
                found.add(torch.autograd.grad(x[where], x, grad)[0].numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
    assert not torch.are_deterministic_algorithms_enabled()


# --- Triton


@pytest.fixture(scope="module")
def gpu() -> Any:
    """The Triton kernels, in Triton's interpreter where there is no card."""
    pytest.importorskip("triton", reason="triton is not installed")
    if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without a card Triton needs TRITON_INTERPRET=1 before anything imports it")
    from pipeline.kernels import gpu

    return gpu


@pytest.fixture(scope="module")
def turns(gpu: Any) -> Any:
    """That of rotary positions."""
    from pipeline.kernels import gpu_rotary

    return gpu_rotary


@pytest.fixture(scope="module")
def attends(gpu: Any) -> Any:
    """Those of attention."""
    from pipeline.kernels import gpu_attention

    return gpu_attention


@pytest.fixture(scope="module")
def low_rank(gpu: Any) -> Any:
    """Those of low-rank updates."""
    from pipeline.kernels import gpu_lora

    return gpu_lora


TYPES = [torch.float32, *([torch.bfloat16] if CUDA else [])]
DEVICE = torch.device("cuda" if CUDA else "cpu")


def alike(kernel: Callable[..., Any], twin: Callable[..., Any], *inputs: Any) -> None:
    """Runs both on copies of the inputs, the twin on the CPU; compares what they return and what they leave behind."""
    moved = [t.to(DEVICE, copy=True) if isinstance(t, torch.Tensor) else t for t in inputs]
    copied = [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
    ours, theirs = kernel(*moved), twin(*copied)
    if ours is None:
        ours, theirs = moved[0], copied[0]  # in place
    bound = 1e-2 if inputs[0].dtype == torch.bfloat16 else 1e-6
    for a, b in zip(*((t,) if isinstance(t, torch.Tensor) else t for t in (ours, theirs)), strict=True):
        if isinstance(b, eight.Eight):
            close(a.scales, b.scales, bound)
            # A number that the kernel takes unrounded and its twin rounded to bf16 may fall on either side of an 8-bit
            # border, 1/16 apart: one in 20 does. Triton's interpreter cuts off where a card rounds to 8 bits.
            close(a.numbers(), b.numbers(), (3e-2 if bound > 1e-6 else 1e-2) if CUDA else 0.13)
        elif b is not None:
            close(a, b, bound)
        else:
            assert a is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("past", [False, True])
def test_triton_norm(gpu: Any, dtype: torch.dtype, past: bool) -> None:
    x, weight, grad, around = (torch.randn(*shape).to(dtype) for shape in ((5, 48), (48,), (5, 48), (5, 48)))
    for room, small in ((0, False), (16, False), (0, True)):
        alike(gpu.norm, norm.forward, x, weight, 1e-5, room, small)
    _, r, _ = norm.forward(x, weight, 1e-5)
    for small in (False, True):
        alike(gpu.norm_backward, norm.backward, grad, x, weight, r, around if past else None, small)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("back", [False, True])
def test_triton_rotary(turns: Any, dtype: torch.dtype, back: bool) -> None:
    _, cos, sin = (t.to(dtype) for t in angles(7, 24))
    x = torch.randn(7, 5, 24).to(dtype)
    alike(turns.rotate, rotary.rotate, x, cos, sin, back)
    view = torch.randn(7, 9, 24, device=DEVICE).to(dtype)
    wanted = view.cpu()
    turns.rotate(view[:, :5], cos.to(DEVICE), sin.to(DEVICE), back)
    rotary.rotate(wanted[:, :5], cos, sin, back)
    close(view, wanted, 1e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("act", [0, 1])
def test_triton_gate(gpu: Any, dtype: torch.dtype, act: int) -> None:
    gu, grad = torch.randn(3, 2 * 2100).to(dtype), torch.randn(3, 2100).to(dtype)  # more than a program takes
    for small in (False, True):
        alike(gpu.gate, gate.forward, gu, act, small)
        alike(gpu.gate_backward, gate.backward, grad, gu, act, small)


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
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(4, 2, 8), (2, 2, 24), (3, 1, 16), (2, 1, 160)])
def test_triton_attention(
    tmp_path: Path, attends: Any, monkeypatch: pytest.MonkeyPatch, leading: list[list[int]], heads: int, key_heads: int,
    size: int,
) -> None:  # fmt: skip
    """Against the dense formula; q, k and v are views of one tensor, and so are their gradients. A layout with room."""
    monkeypatch.setattr(attention, "PIECE", 100)
    kind, bound = (torch.bfloat16, 2e-2) if CUDA else (torch.float32, 2e-6)
    pack = long_pack(tmp_path, leading)
    tokens, ends = len(pack.ids), (heads, heads + key_heads)
    wide = torch.randn(tokens, heads + 2 * key_heads, size, device=DEVICE).to(kind)
    grad = torch.randn(tokens, heads, size, device=DEVICE).to(kind)
    parts = wide.tensor_split(ends, dim=1)
    leaves = [leaf(t.cpu()) for t in parts]
    wanted = dense(*leaves, pack, 0.3)
    grads = torch.autograd.grad(wanted, leaves, grad.double().cpu())
    for room in (None, attention.Room(40, 60, 9000)):
        layout = Layout.of(pack, DEVICE, plain=False, room=room)
        out, lse = attends.attend(*parts, layout, 0.3)
        close(out, wanted, bound)
        made = torch.full_like(wide, 7.0)
        attends.attend_backward(grad, *parts, out, lse, layout, 0.3, made.tensor_split(ends, dim=1))
        for ours, theirs in zip(made.tensor_split(ends, dim=1), grads, strict=True):
            close(ours, theirs, bound)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rank", [3, 16, 40])
def test_triton_low_rank(low_rank: Any, dtype: torch.dtype, rank: int) -> None:
    y, t, b = torch.randn(70, 600).to(dtype), torch.randn(70, 90).to(dtype), torch.randn(300, rank).to(dtype)

    def run(add: Callable[..., None]) -> Callable[..., torch.Tensor]:
        def into(y: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            add(y[:, 200:500], t[:, 7 : 7 + rank], b.t())
            return y

        return into

    alike(run(low_rank.add_low_rank), run(lora.add), y, t, b)
    alike(low_rank.add_low_rank, lora.add, y[:, :300], t[:, :rank], b.t().contiguous())


@pytest.mark.parametrize("dtype", TYPES)
def test_triton_copies(low_rank: Any, dtype: torch.dtype) -> None:
    """Into matrices of their own and into others, of several tiles and of one element; then of other numbers."""
    inside = torch.zeros(400, 50, device=DEVICE, dtype=dtype)
    places = [inside[:, 3:19], inside[10:11, 40:41], torch.empty(30, 300, device=DEVICE, dtype=dtype)]
    parameters = [torch.randn(p.shape, device=DEVICE) for p in places]
    made = Copies(list(zip(places, parameters, (1.0, 0.3, 2.0), strict=True)))
    for _ in range(2):
        made.at_once()
        for place, parameter, scale in zip(places, parameters, made.scales, strict=True):
            assert torch.equal(place, (parameter * scale).to(dtype))
        for parameter in parameters:
            parameter.normal_()
    assert inside[:, :3].eq(0).all()
    assert inside[:, 19:40].eq(0).all()
    made.sources[0] = parameters[0] + 1
    made.at_once()
    assert torch.equal(places[0], made.sources[0].to(dtype))


@pytest.fixture(scope="module")
def holes(gpu: Any) -> Any:
    """Those of dropout."""
    from pipeline.kernels import gpu_dropout

    return gpu_dropout


def dropped(kernels: Any, x: torch.Tensor, share: float, seed: Seed, place: int = 0) -> torch.Tensor:
    """drop(x), as the kernels draw it: its product with the unit matrix, a piece of the rows of that at a time."""
    unit = torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    group = Group(slice(0, 64), 1, share, place)
    parts = []
    for part in unit.split(64):
        parts.append(x.new_empty(len(x), len(part)))
        kernels.low_rank(parts[-1], x, part, group, seed)
    return torch.cat(parts, dim=1)


def test_triton_dropout(holes: Any) -> None:
    """A share of zeros, the rest larger by as much; by seed and place alone."""
    x = torch.randn(512, 400, device=DEVICE)[:, :300]
    seed = Seed(torch.tensor([1 << 39], device=DEVICE))
    first = dropped(holes, x, 0.25, seed.at(0))
    gone = first == 0
    close(first[~gone], (x / 0.75)[~gone], 1e-6)
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.0045)  # four standard errors
    assert float(gone.float().mean(0).std()) == pytest.approx((0.25 * 0.75 / 512) ** 0.5, rel=0.2)
    assert float(gone.float().mean(1).std()) == pytest.approx((0.25 * 0.75 / 300) ** 0.5, rel=0.2)
    assert torch.equal(dropped(holes, x, 0.25, seed.at(0)), first)
    for other in (seed.at(1), Seed(seed.value + 1).at(0)):
        both = gone & (dropped(holes, x, 0.25, other) == 0)
        assert float(both.float().mean()) == pytest.approx(0.25**2, abs=0.0027)
    for shift in (1, 2, 32, 64, 96, 128):  # the halves of a number, the four of a counter, and its neighbours
        both = gone[:, shift:] & gone[:, :-shift]
        assert float(both.float().mean()) == pytest.approx(0.25**2, abs=0.0035)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rank", "count"), [(3, 1), (16, 2), (20, 3)])
def test_triton_products_with_what_is_left(holes: Any, dtype: torch.dtype, rank: int, count: int) -> None:
    """More tokens than a program adds up, more columns than a tile has, inputs with room behind their rows."""
    tokens, size, share = holes.SPLIT + 70, 150, 0.3
    seed, group = Seed(torch.tensor([7], device=DEVICE), 5), Group(slice(0, count * rank), count, share, 1)
    wide = torch.randn(tokens, size + 9).to(DEVICE, dtype)
    x, a = wide[:, :size], torch.randn(count * rank, size).to(DEVICE, dtype)
    p = torch.randn(tokens, count * rank + 8).to(DEVICE, dtype)[:, 8:]
    kept = [dropped(holes, torch.ones_like(x), share, seed, 1 + n).double() for n in range(count)]
    parts = [slice(n * rank, n * rank + rank) for n in range(count)]
    bound = 1e-2 if dtype == torch.bfloat16 else 2e-6

    t = torch.zeros(tokens, count * rank + 5).to(DEVICE, dtype)
    holes.low_rank(t[:, 5:], x, a, group, seed)
    close(t[:, 5:], torch.cat([(x * k) @ a[r].double().t() for k, r in zip(kept, parts, strict=True)], 1), bound)
    assert not t[:, :5].any()

    dx = torch.randn(tokens, size).to(DEVICE, dtype)
    wanted = dx.double() + sum((p[:, r].double() @ a[r].double()) * k for k, r in zip(kept, parts, strict=True))
    holes.add_input(dx, p, a, group, seed)
    close(dx, wanted, bound)

    da = holes.gradient(p, x, group, seed)
    assert da.dtype == torch.float32
    close(da, torch.cat([p[:, r].double().t() @ (x * k) for k, r in zip(kept, parts, strict=True)]), bound)


def test_adapters_that_are_alike_are_dropped_at_once() -> None:
    ranks = [slice(0, 4), slice(4, 8)]
    assert lora.groups_of(ranks, [0.1, 0.1]) == [Group(slice(0, 8), 2, 0.1, 0)]
    assert lora.groups_of(ranks, [0.1, 0.0]) == [Group(slice(0, 4), 1, 0.1, 0), Group(slice(4, 8), 1, 0.0, 1)]
    assert lora.groups_of([slice(0, 66), slice(66, 68)], [0.1, 0.1]) == [
        Group(slice(0, 64), 1, 0.1, 0), Group(slice(64, 66), 1, 0.1, 0), Group(slice(66, 68), 1, 0.1, 1)
    ]  # fmt: skip
    assert lora.groups_of([], []) == []


@pytest.mark.parametrize("words", [50, 5000])
def test_triton_loss(gpu: Any, words: int) -> None:
    z, targets, weights = torch.randn(6, words), torch.randint(0, words, (6,)), torch.rand(6)
    alike(lambda *args: (gpu.to_gradient(*args), args[0]), lambda *args: (loss.to_gradient(*args), args[0]),
          z, targets, weights)  # fmt: skip


def test_the_loss_kernel_reads_no_logit_that_another_warp_may_have_overwritten() -> None:
    """Gradients take the place of logits. What is written in the second loop was read by the same thread in it, or
    before the first loop, whose reductions are barriers; Triton's interpreter has no warps and would not notice."""
    source = ast.parse(Path(attention.__file__).with_name("gpu.py").read_text(encoding="utf-8"))
    (kernel,) = (node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "_loss_kernel")
    loops = [node for node in kernel.body if isinstance(node, ast.For)]
    alone = [node for part in kernel.body if part not in loops for node in ast.walk(part) if isinstance(node, ast.Call)]
    reads = [node for node in alone if ast.unparse(node) == "tl.load(z + target)"]
    assert len(reads) == 1
    assert len(loops) == 2
    assert reads[0].lineno < loops[0].lineno


@pytest.mark.skipif(not CUDA, reason="Triton's interpreter cuts off where a card rounds to 8 bits")
def test_triton_fp8(gpu: Any) -> None:
    x = torch.randn(5, 300) * torch.logspace(-9, 9, 5, base=2)[:, None]
    wanted = eight.quantise(x)
    ours, ours_scales = gpu.quantise(x.to(DEVICE))
    assert torch.equal(ours.float().cpu(), wanted.values.float())
    close(ours_scales, wanted.scales, 1e-7)  # Triton divides to within a last digit


def test_triton_fp8_scales(gpu: Any) -> None:
    """A row longer than a program reads at once, with room behind it."""
    x = torch.randn(3, 9016)
    close(gpu.quantise(x.to(DEVICE)[:, :9000])[1], eight.quantise(x[:, :9000]).scales, 1e-7)
