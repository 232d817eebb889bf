"""Padded packs give what packs give, and CUDA graphs of them what passes without a graph give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Adapter, Train
from pipeline.kernels import attention
from pipeline.kernels.attention import TILE, pieces_of
from pipeline.model import graph
from pipeline.model.fast import Fast
from pipeline.model.graph import FIRST, STEP, Form, Forms, Graphs, padded
from pipeline.model.ready import Ready
from pipeline.prompt.pack import Pack, Packer
from pipeline.training.order import step_rows
from pipeline.training.path import _first_packs
from tests.test_fast import LONGEST, adapted, assert_same, packed, taken
from tests.test_pack import A, B, random_tokens, tokens_of

CUDA = torch.cuda.is_available()
CPU = torch.device("cpu")


@pytest.fixture(params=[[], [A, B]], ids=["apart", "shared"])
def packs(tmp_path: Path, request: pytest.FixtureRequest) -> list[Pack]:
    tokens = random_tokens(tmp_path, [A, B], 120)
    return list(Packer(tokens, request.param, 150).packs(range(len(tokens))))


def test_forms_are_few_and_little_larger(packs: list[Pack]) -> None:
    forms = [Forms.of(packs).for_(pack) for pack in packs]
    assert len(set(forms)) < len(packs)
    for form, pack in zip(forms, packs, strict=True):
        assert len(pack.ids) < form.tokens <= max(len(pack.ids) + 3 * TILE, len(pack.ids) * STEP**3)
        assert all(need <= size for need, size in zip(Form.of(pack), form, strict=True))


def a_pack(folder: Path, rows: int, length: int, learnt: int) -> Pack:
    """Rows of `length` tokens, of which the last `learnt` are."""
    folder.mkdir()
    tokens = tokens_of(folder, [[7] * length] * rows, [length - learnt] * rows)
    return Packer(tokens, [], 1 << 40).pack(range(rows))


def test_what_forms_are_padded_to(tmp_path: Path) -> None:
    """Tokens alone say which form it is, in steps of 64, then of 8 %; of all else it has the most that a pack had."""
    short, long = a_pack(tmp_path / "a", 3, 133, 100), a_pack(tmp_path / "b", 1, 399, 99)
    assert (Form.of(short), Form.of(long)) == ((400, 301, 301, 10), (400, 100, 100, 8))
    forms = Forms.of([long, short])
    assert forms == Forms(301 / 400, 301 / 400, 10 / 400)
    assert forms.for_(short) == forms.for_(long) == (448, 338, 338, 12)
    sizes = sorted({forms.for_(a_pack(tmp_path / str(n), 1, n, 0)).tokens for n in range(800, 1500, 50)})
    assert sizes == [832, 899, 971, 1049, 1133, 1224, 1322, 1428, 1543]
    assert Forms.of([long] * FIRST + [short]) == Forms.of([long])


def test_forms_come_from_the_first_steps(tmp_path: Path) -> None:
    """One pack of each, then the first two steps' where steps are cut."""
    tokens = random_tokens(tmp_path, [A, B], 40)
    packer, settings = Packer(tokens, [A, B], 1000), Train(batch_size=4)
    steps = [step_rows(n, 40, 4, settings.seed) for n in range(FIRST)]
    assert [pack.ids.tolist() for pack in _first_packs(packer, settings)] == [
        packer.pack(packer.bins(rows)[0]).ids.tolist() for rows in steps
    ]
    packer.capacity = 1
    assert [pack.rows for pack in _first_packs(packer, settings)] == [1] * FIRST


def test_packs_unlike_the_first_ones_have_no_more_tokens(tmp_path: Path) -> None:
    """A hundred rows beside one, all learnt beside next to nothing: rather more of that than many times the tokens."""
    first, other = a_pack(tmp_path / "a", 1, 1000, 2), a_pack(tmp_path / "b", 100, 10, 9)
    form = Forms.of([first]).for_(other)
    assert form == (1049, 4 << 8, 4 << 8, 18 << 8)
    assert all(need <= size for need, size in zip(Form.of(other), form, strict=True))


def test_what_is_added_is_apart_from_the_rows(packs: list[Pack]) -> None:
    forms = Forms.of(packs)
    for pack in packs:
        form = forms.for_(pack)
        more = padded(pack, form)
        count, entries, rows = len(pack.ids), len(pack.where), len(pack.starts)
        assert (more.starts[:rows] == pack.starts).all()
        assert len(more.starts) == rows + 1
        assert more.starts[-1] == len(more.ids) == len(more.positions) == form.tokens
        assert (more.ids[:count] == pack.ids).all()
        assert (more.where[:entries] == pack.where).all()
        assert (more.where[entries:] >= count).all()
        assert not more.weights[entries:].any()
        assert more.learnt == pack.learnt
        assert (more.positions[:count] == pack.positions).all()
        assert not more.positions[count:].any()
        room = form.room(pack)
        one = Ready.of(more, CPU, False, room, form.kept)
        assert (one.ids.shape[1], len(one.targets), len(one.kept), len(one.layout.blocks)) == form
        assert (len(one.layout.blocks), len(one.layout.pieces), one.layout.lines) == room


def test_a_form_has_room_for_all_preambles_of_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of five tokens: some of both preambles, one or none, whatever the first pack had. No preamble, no room."""
    monkeypatch.setattr(attention, "PIECE", 5)
    leading = [A * 30, B]
    packer, kinds = Packer(random_tokens(tmp_path, leading, 120), leading, 100_000), set()
    shared = [[n for n in range(120) if packer.preamble[n] in some] for some in ((-1,), (0,), (1,), (0, 1), (-1, 0, 1))]
    for rows in shared:
        for first in shared:
            pack = packer.pack(rows[:30])
            room = Forms.of([packer.pack(first)]).for_(pack).room(pack)
            pieces, _, lines = pieces_of(pack)
            assert len(pieces) <= room.pieces
            assert lines <= room.lines
            assert bool(room.lines) == bool(pack.preambles)
            kinds.add(pack.preambles)
    assert kinds == {0, 1, 2}


def test_padded_packs_give_the_same_gradients(packs: list[Pack]) -> None:
    model = adapted()
    fast = Fast(model, LONGEST)

    def passed(some: Sequence[Pack]) -> Any:
        total = 0.0
        for pack in some:
            value = fast.loss_sum(fast.ready(pack))
            value.backward()
            total += float(value.detach())
        return total, taken(model)

    assert len(packs) > 3
    assert_same(passed([padded(pack, Forms.of(packs).for_(pack)) for pack in packs]), passed(packs))


def test_gradients_that_flow_to_other_leaves(packs: list[Pack]) -> None:
    model = adapted()
    fast = Fast(model, LONGEST)
    weights = [p for p in model.parameters() if p.requires_grad]
    one = fast.ready(packs[0])
    loss, grads = Graphs(fast, weights, packs)._pass(one, None)
    assert all(weight.grad is None for weight in weights)
    wanted = fast.loss_sum(one)
    wanted.backward()
    assert torch.equal(loss, wanted.detach())
    assert all(torch.equal(a, w.grad) for a, w in zip(grads, weights, strict=True))


def on_card(quantize: str = "none", **adapter: Any) -> tuple[Any, Fast]:
    model = adapted(adapter=Adapter(r=4, **adapter), hidden_size=64, intermediate_size=128, head_dim=16)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    model.cuda()
    return model, Fast(model, LONGEST, fp8=quantize == "fp8")


@pytest.mark.skipif(not CUDA, reason="graphs need CUDA")
@pytest.mark.parametrize("quantize", ["none", "fp8"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_graph_gives_what_its_passes_give(packs: list[Pack], quantize: str, dropout: float, recompute: bool) -> None:
    model, fast = on_card(quantize, dropout=dropout)
    fast.recompute = recompute
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = Graphs(fast, weights, packs)
    ready = [graphs.ready(pack) for pack in packs]
    assert len({graphs._form(one, False) for one in ready}) < len(ready)
    alive = fast.loss_sum(ready[0])  # ties the weights to the stream of today, as earlier passes of a run may
    for turn in range(2):  # the second one makes no graph
        for n, one in enumerate(ready):
            torch.manual_seed(n + 10 * turn)
            ours = graphs.loss_sum(one)
            (ours / 4).backward()  # a power of two: bf16 rounds what is scaled by others
            mine = float(ours.detach()), taken(model)
            torch.manual_seed(n + 10 * turn)
            theirs = fast.loss_sum(one)
            (theirs / 4).backward()
            assert_same(mine, (float(theirs.detach()), taken(model)))
        fast.refresh()
    assert alive.requires_grad
    assert not graphs.why
    assert 0 < len(graphs.made) < len(ready)


@pytest.mark.skipif(not CUDA, reason="graphs need CUDA")
def test_weights_that_changed_since_it_was_recorded(packs: list[Pack]) -> None:
    model, fast = on_card()
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = Graphs(fast, weights, packs)
    one = graphs.ready(packs[0])
    first = float(graphs.loss_sum(one).detach())
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn_like(weight) * 0.1)
    fast.refresh()
    now = float(graphs.loss_sum(one).detach())
    assert now == pytest.approx(float(fast.loss_sum(one).detach()), rel=1e-6)
    assert now != pytest.approx(first, rel=1e-3)


def test_where_no_graph_can_be_made_passes_go_on_without(
    packs: list[Pack], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(*args: Any) -> None:
        raise RuntimeError("capture failed\nbecause")

    model = adapted()
    fast = Fast(model, LONGEST)
    monkeypatch.setattr(graph.Graphs, "_make", fails)
    graphs = Graphs(fast, [p for p in model.parameters() if p.requires_grad], packs)
    total = 0.0
    for pack in packs:
        one: Ready = graphs.ready(pack)
        assert graphs.known(one) == bool(graphs.why)
        value = graphs.loss_sum(one)
        value.backward()
        total += float(value.detach())
    assert capsys.readouterr().out.count("no CUDA graphs from here on: capture failed because") == 1
    ours = total, taken(model)
    tokens = random_tokens(tmp_path, [A, B], 120)
    assert_same(ours, packed(fast, model, tokens, 150, []))
