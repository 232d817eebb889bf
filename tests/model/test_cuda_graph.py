"""Padded packs give what packs give, and CUDA graphs of them what passes without a graph give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.config.schema import Adapter, Train
from pipeline.kernels import layout as layouts
from pipeline.kernels.layout import TILE, preamble_tiles_of
from pipeline.model.packed.batch import PackedBatch
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.graph_shape import GROWTH, SAMPLE_PACKS, GraphShape, ShapeTable, pad
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Pack, Packer
from pipeline.training.fast_path import _first_packs
from pipeline.training.schedule import step_rows
from tests.helpers.packed_models import LONGEST, adapted, assert_same, packed_pass, stock, take_gradients
from tests.helpers.packs import A, B, random_tokens, tokens_of

CUDA = torch.cuda.is_available()
CPU = torch.device("cpu")


@pytest.fixture(params=[[], [A, B]], ids=["apart", "shared"])
def packs(tmp_path: Path, request: pytest.FixtureRequest) -> list[Pack]:
    tokens = random_tokens(tmp_path, [A, B], 120)
    return list(Packer(tokens, request.param, 150).packs(range(len(tokens))))


def test_shapes_are_few_and_little_larger_than_packs(packs: list[Pack]) -> None:
    shapes = [ShapeTable.of(packs).shape_for(pack) for pack in packs]
    assert len(set(shapes)) < len(packs)
    for shape, pack in zip(shapes, packs, strict=True):
        assert len(pack.ids) < shape.tokens <= max(len(pack.ids) + 3 * TILE, len(pack.ids) * GROWTH**3)
        assert all(need <= size for need, size in zip(GraphShape.of(pack), shape, strict=True))


def a_pack(folder: Path, rows: int, length: int, learnt: int) -> Pack:
    """Rows of `length` tokens, of which the last `learnt` are."""
    folder.mkdir()
    tokens = tokens_of(folder, [[7] * length] * rows, [length - learnt] * rows)
    return Packer(tokens, [], 1 << 40).pack(range(rows))


def test_shape_table_by_hand(tmp_path: Path) -> None:
    """Tokens decide the shape, in steps of 64, then of 8 %; the other sizes follow from the sample's largest ratios."""
    short, long = a_pack(tmp_path / "a", 3, 133, 100), a_pack(tmp_path / "b", 1, 399, 99)
    assert (GraphShape.of(short), GraphShape.of(long)) == ((400, 301, 301, 10), (400, 100, 100, 8))
    shapes = ShapeTable.of([long, short])
    assert shapes == ShapeTable(301 / 400, 301 / 400, 10 / 400)
    assert shapes.shape_for(short) == shapes.shape_for(long) == (448, 338, 338, 12)
    sizes = sorted({shapes.shape_for(a_pack(tmp_path / str(n), 1, n, 0)).tokens for n in range(800, 1500, 50)})
    assert sizes == [832, 899, 971, 1049, 1133, 1224, 1322, 1428, 1543]
    assert ShapeTable.of([long] * SAMPLE_PACKS + [short]) == ShapeTable.of([long])


def test_shapes_come_from_the_first_steps(tmp_path: Path) -> None:
    """One pack of each, then the first two steps' where steps are cut."""
    tokens = random_tokens(tmp_path, [A, B], 40)
    packer, settings = Packer(tokens, [A, B], 1000), Train(batch_size=4)
    steps = [step_rows(n, 40, settings) for n in range(SAMPLE_PACKS)]
    ranks = SimpleNamespace(num_processes=1, process_index=0)
    path: Any = SimpleNamespace(packer=packer, costs=tokens.lengths)
    inputs: Any = SimpleNamespace(tokens=tokens, settings=settings, accelerator=ranks)
    assert [pack.ids.tolist() for pack in _first_packs(path, inputs)] == [
        packer.pack(packer.bins(rows)[0]).ids.tolist() for rows in steps
    ]
    packer.capacity = 1
    assert [pack.rows for pack in _first_packs(path, inputs)] == [1] * SAMPLE_PACKS
    packer.capacity, ranks.num_processes = 1000, 2
    counts = []
    for ranks.process_index in (0, 1):
        counts.append([pack.rows for pack in _first_packs(path, inputs)])
    assert [a + b for a, b in zip(*counts, strict=True)] == [4] * SAMPLE_PACKS


def test_packs_unlike_the_sample_get_no_more_tokens(tmp_path: Path) -> None:
    """A sample of one row with two labels, then a hundred rows with many: the ratios grow, not the tokens."""
    first, other = a_pack(tmp_path / "a", 1, 1000, 2), a_pack(tmp_path / "b", 100, 10, 9)
    shape = ShapeTable.of([first]).shape_for(other)
    assert shape == (1049, 4 << 8, 4 << 8, 18 << 8)
    assert all(need <= size for need, size in zip(GraphShape.of(other), shape, strict=True))


def test_padding_is_apart_from_the_rows(packs: list[Pack]) -> None:
    shapes = ShapeTable.of(packs)
    for pack in packs:
        shape = shapes.shape_for(pack)
        more = pad(pack, shape)
        count, entries, rows = len(pack.ids), len(pack.where), len(pack.starts)
        assert (more.starts[:rows] == pack.starts).all()
        assert len(more.starts) == rows + 1
        assert more.starts[-1] == len(more.ids) == len(more.positions) == shape.tokens
        assert (more.ids[:count] == pack.ids).all()
        assert (more.where[:entries] == pack.where).all()
        assert (more.where[entries:] >= count).all()
        assert not more.weights[entries:].any()
        assert more.labelled == pack.labelled
        assert (more.positions[:count] == pack.positions).all()
        assert not more.positions[count:].any()
        size = shape.layout_size(pack)
        one = PackedBatch.of(more, CPU, False, size, shape.kept_positions)
        assert (one.ids.shape[1], len(one.targets), len(one.kept_positions), len(one.layout.query_tiles)) == shape
        assert (len(one.layout.query_tiles), len(one.layout.preamble_tiles), one.layout.partial_sums) == size


def test_a_shape_has_room_for_all_preambles_of_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of five queries; packs with both preambles, one or none, also if the sample had others."""
    monkeypatch.setattr(layouts, "QUERY_CHUNK", 5)
    leading = [A * 30, B]
    packer, kinds = Packer(random_tokens(tmp_path, leading, 120), leading, 100_000), set()
    shared = [
        [n for n in range(120) if packer.preamble_of_row[n] in some] for some in ((-1,), (0,), (1,), (0, 1), (-1, 0, 1))
    ]
    for rows in shared:
        for first in shared:
            pack = packer.pack(rows[:30])
            size = ShapeTable.of([packer.pack(first)]).shape_for(pack).layout_size(pack)
            tiles, _, partial_sums = preamble_tiles_of(pack)
            assert len(tiles) <= size.preamble_tiles
            assert partial_sums <= size.partial_sums
            assert bool(size.partial_sums) == bool(pack.preambles)
            kinds.add(pack.preambles)
    assert kinds == {0, 1, 2}


def test_padded_packs_give_the_same_gradients(packs: list[Pack]) -> None:
    model = adapted()
    fast = PackedModel(model, LONGEST)

    def passed(some: Sequence[Pack]) -> Any:
        total = 0.0
        for pack in some:
            value = fast.loss_sum(fast.prepare(pack))
            value.backward()
            total += float(value.detach())
        return total, take_gradients(model)

    assert len(packs) > 3
    assert_same(passed([pad(pack, ShapeTable.of(packs).shape_for(pack)) for pack in packs]), passed(packs))


def test_gradients_that_flow_to_other_leaves(packs: list[Pack]) -> None:
    model = adapted()
    fast = PackedModel(model, LONGEST)
    weights = [p for p in model.parameters() if p.requires_grad]
    one = fast.prepare(packs[0])
    loss, grads = CudaGraphs(fast, weights, packs)._pass(one, None)
    assert all(weight.grad is None for weight in weights)
    wanted = fast.loss_sum(one)
    wanted.backward()
    assert torch.equal(loss, wanted.detach())
    assert all(torch.equal(a, w.grad) for a, w in zip(grads, weights, strict=True))


def on_card(quantize: str = "none", **adapter: Any) -> tuple[Any, PackedModel]:
    model = adapted(adapter=Adapter(r=4, **adapter), hidden_size=64, intermediate_size=128, head_dim=16)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    model.cuda()
    return model, PackedModel(model, LONGEST, fp8=quantize == "fp8")


@pytest.mark.skipif(not CUDA, reason="graphs need CUDA")
@pytest.mark.parametrize("quantize", ["none", "fp8"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_graph_gives_what_its_passes_give(packs: list[Pack], quantize: str, dropout: float, recompute: bool) -> None:
    model, fast = on_card(quantize, dropout=dropout)
    fast.recompute = recompute
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = CudaGraphs(fast, weights, packs)
    ready = [graphs.prepare(pack) for pack in packs]
    assert len({graphs._key(one, False) for one in ready}) < len(ready)
    alive = fast.loss_sum(ready[0])  # ties the weights to the stream of today, as earlier passes of a run may
    for turn in range(2):  # the second one makes no graph
        for n, one in enumerate(ready):
            torch.manual_seed(n + 10 * turn)
            ours = graphs.loss_sum(one)
            (ours / 4).backward()  # a power of two: bf16 rounds what is scaled by others
            mine = float(ours.detach()), take_gradients(model)
            torch.manual_seed(n + 10 * turn)
            theirs = fast.loss_sum(one)
            (theirs / 4).backward()
            assert_same(mine, (float(theirs.detach()), take_gradients(model)))
        fast.refresh()
    assert alive.requires_grad
    assert not graphs.disabled_because
    assert 0 < len(graphs.recorded) < len(ready)


@pytest.mark.skipif(not CUDA, reason="graphs need CUDA")
def test_weights_that_changed_since_it_was_recorded(packs: list[Pack]) -> None:
    model, fast = on_card()
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = CudaGraphs(fast, weights, packs)
    one = graphs.prepare(packs[0])
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
    fast = PackedModel(model, LONGEST)
    monkeypatch.setattr(CudaGraphs, "_record", fails)
    graphs = CudaGraphs(fast, [p for p in model.parameters() if p.requires_grad], packs)
    total = 0.0
    for pack in packs:
        one: PackedBatch = graphs.prepare(pack)
        assert graphs.needs_recording(one) != bool(graphs.disabled_because)
        value = graphs.loss_sum(one)
        value.backward()
        total += float(value.detach())
    assert capsys.readouterr().out.count("going on without CUDA graphs: capture failed because") == 1
    ours = total, take_gradients(model)
    tokens = random_tokens(tmp_path, [A, B], 120)
    assert_same(ours, packed_pass(fast, model, tokens, 150, []))


class Repeated:
    """In place of a graph on machines without a card: replaying it computes the pass again, from the same tensors."""

    def __init__(self, run: Any) -> None:
        self.replay = run


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaGraphs, "_run_once", lambda _, run: run())
    monkeypatch.setattr(CudaGraphs, "_capture", lambda _, run: Repeated(run))


MODELS = {
    "lora": (adapted, torch.float32),
    "lora, own layers": (lambda: adapted("qwen3"), torch.float32),
    "full": (lambda: stock(tie_word_embeddings=True).requires_grad_(True), torch.bfloat16),
    "full, own layers": (lambda: stock("qwen3").requires_grad_(True), torch.bfloat16),
    "full, own layers, float32": (lambda: stock().requires_grad_(True), torch.float32),
}


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", MODELS)
def test_replayed_passes_follow_the_weights(packs: list[Pack], name: str) -> None:
    """One shape after the other, twice, with other weights the second time. All graphs write the same gradients."""
    make, dtype = MODELS[name]
    model = make()
    fast = PackedModel(model, LONGEST, dtype=dtype)
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = CudaGraphs(fast, weights, packs)
    ready = {graphs._key(one, False): one for one in map(graphs.prepare, packs)}
    for _ in range(2):
        for one in ready.values():
            (graphs.loss_sum(one) / 4).backward()
            ours = take_gradients(model)
            (fast.loss_sum(one) / 4).backward()
            theirs = take_gradients(model)
            assert ours.keys() == theirs.keys()
            assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn_like(weight) * 0.01)
        fast.refresh()
    assert graphs.recorded.keys() == ready.keys()
    assert not graphs.disabled_because
    assert all(recorded.gradients is graphs.gradients for recorded in graphs.recorded.values())


@pytest.mark.usefixtures("stand_in")
def test_the_first_graph_is_of_the_largest_pack(packs: list[Pack], capsys: pytest.CaptureFixture[str]) -> None:
    model = adapted()
    fast = PackedModel(model, LONGEST)
    graphs = CudaGraphs(fast, [p for p in model.parameters() if p.requires_grad], packs, largest=1000)
    one = graphs.prepare(packs[0])
    first = float(graphs.loss_sum(one).detach())
    assert [recorded.inputs[0].shape[1] for recorded in graphs.recorded.values()] == [1049, one.ids.shape[1]]
    graphs.give_up("for a test")
    assert not graphs.recorded
    assert not graphs.needs_recording(one)
    assert float(graphs.loss_sum(one).detach()) == first
    assert "going on without CUDA graphs: for a test" in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_a_graph_that_differs_is_refused(packs: list[Pack], monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = CudaGraphs(PackedModel(model, LONGEST), weights, packs)

    def capture(run: Any) -> Repeated:
        return Repeated(lambda: (run(), graphs.gradients[3].mul_(1.01)))

    monkeypatch.setattr(graphs, "_capture", capture)
    graphs.loss_sum(graphs.prepare(packs[0]))
    assert "off those without it" in graphs.disabled_because
