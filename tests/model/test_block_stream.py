"""Blocks that leave the card between uses compute the same bits, and at most two of them are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Adapter, Model
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.block_stream import BlockStream, Pair, bytes_of
from pipeline.model.load import load_base
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.tokens import Tokens
from tests.helpers.packed_models import packed_pass, plain_pass, with_trained_lora
from tests.helpers.tiny import make_base

LAYERS = 5


class LateCopier:
    """Copies when it is waited for, as a card's stream may; until then the memory holds NaN.

    Attributes:
        log: what was started and waited for. present: blocks' storages that are filled.
    """

    own_pool = True

    def __init__(self) -> None:
        self.log: list[str] = []
        self.most = 0
        self.started: list[list[Pair]] = []

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole

    def buffer(self, size: int, device: torch.device) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def start(self, pairs: list[Pair]) -> list[Pair]:
        self.log.append("start")
        for storage, host in pairs:
            assert storage.nbytes() == 0
            storage.resize_(host.numel())
            bytes_of(storage).fill_(255)
        self.started.append(pairs)
        self.most = max(self.most, len({id(p) for p in self.started if p[0][0].nbytes()}))
        return pairs

    def wait(self, copying: list[Pair]) -> None:
        self.log.append("wait")
        for storage, host in copying:
            bytes_of(storage).copy_(host)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS, "vocab_size": 400}
    return make_base(tmp_path_factory.mktemp("wide") / "base", **shape)


def loaded(folder: Path, quantize: str, stream: BlockStream | None, dropout: float = 0.0, last_blocks: int = 0) -> Any:
    settings = Model(base=str(folder), quantize=quantize, dtype="fp32")  # type: ignore[arg-type]
    model = load_base(settings, bases.resolve(settings), 0, stream=stream)
    adapter = Adapter(r=4, dropout=dropout, last_blocks=last_blocks)
    return with_trained_lora(adapters.attach(model, adapter, seed=1, added=()))


def same(first: tuple[float, dict[str, Any]], second: tuple[float, dict[str, Any]]) -> None:
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    assert all(torch.equal(gradient, second[1][name]) for name, gradient in first[1].items())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_packs_give_the_same_bits(
    quantize: str, recompute: bool, wide: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, over several passes. The twin has every block at hand, and no columns behind W either."""
    results = []
    for copier in (LateCopier(), None):
        model = loaded(wide, quantize, BlockStream(copier, smallest=0), dropout=0.1)
        if copier is None:
            monkeypatch.setattr(BlockStream, "_release", lambda *_: None)
        fast = PackedModel(model, 64)
        if copier is not None:
            copier.most = 0
            copier.started.clear()  # blocks as they were before their layers were stacked
        fast.recompute = recompute
        torch.manual_seed(3)
        model.train()
        results.append([packed_pass(fast, model, tokens) for _ in range(2)])
        if copier is not None:
            assert copier.most == 2
    for first, second in zip(*results, strict=True):
        same(first, second)
    assert results[0][0][0] != results[0][1][0]  # other masks


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_as_exact_as_without(quantize: str, wide: Path, tokens: Tokens) -> None:
    """In 4 bits the same bits; else the products are not the same, as adapters have no columns behind W."""
    streamed, plain = (loaded(wide, quantize, s) for s in (BlockStream(LateCopier(), smallest=0), None))
    first, second = (packed_pass(PackedModel(m, 64), m, tokens) for m in (streamed, plain))
    if quantize == "nf4":
        same(first, second)
    assert first[0] == pytest.approx(second[0], rel=1e-6)
    for name, gradient in first[1].items():
        assert float((gradient - second[1][name]).norm()) <= 1e-5 * float(second[1][name].norm()), name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_the_plain_path_gives_the_same_bits(quantize: str, recompute: bool, wide: Path, tokens: Tokens) -> None:
    """transformers' own layers, whose saved weights are brought back before they are used."""
    results = []
    for stream in (BlockStream(LateCopier(), smallest=0), None):
        model = loaded(wide, quantize, stream)
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
            model.train()
        results.append(plain_pass(model, tokens))
    same(*results)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_layers_with_biases_that_are_replaced_one_by_one(
    quantize: str, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Blocks of another form than LLaMA's: their biases are read while their block is away."""
    folder = make_base(tmp_path_factory.mktemp("neox") / "base", model_type="gpt_neox", num_hidden_layers=3)
    results = []
    for stream in (BlockStream(LateCopier(), smallest=0), None):
        model = loaded(folder, quantize, stream)
        fast = PackedModel(model, 64)
        assert fast.linears
        assert not fast.blocks
        results.append(packed_pass(fast, model, tokens))
    same(*results)


def test_each_block_is_copied_once_each_way(wide: Path, tokens: Tokens) -> None:
    """Those at both turns stay: 5 blocks forward, 3 backward, then 3 and 3. Every copy but the first was ahead."""
    copier = LateCopier()
    model = loaded(wide, "none", BlockStream(copier, smallest=0))
    fast = PackedModel(model, 64)
    copier.log.clear()
    for copies in (2 * LAYERS - 2, 2 * LAYERS - 4, 2 * LAYERS - 4):
        fast.loss_sum(fast.prepare(_one_pack(tokens))).backward()
        assert copier.log.count("start") == copies
        copier.log.clear()


def test_blocks_below_the_trained_ones_come_forward_only(wide: Path, tokens: Tokens) -> None:
    results = []
    for stream in (BlockStream(LateCopier(), smallest=0), None):
        model = loaded(wide, "nf4", stream, last_blocks=2)
        results.append([packed_pass(PackedModel(model, 64), model, tokens) for _ in range(2)])
    for first, second in zip(*results, strict=True):
        same(first, second)


def test_generation(wide: Path) -> None:
    answers = []
    for stream in (BlockStream(LateCopier(), smallest=0), None):
        model = loaded(wide, "none", stream)
        model.config.use_cache = True
        with torch.no_grad():
            answers.append(model.generate(input_ids=torch.arange(5, 15)[None], max_new_tokens=8, do_sample=False))
    assert torch.equal(*answers)


def test_memory_runs_out_in_a_copy(wide: Path, tokens: Tokens) -> None:
    """What was half copied is given back, and the same pass then succeeds."""

    class Full(LateCopier):
        fails = False

        def start(self, pairs: list[Pair]) -> list[Pair]:
            if not self.fails:
                return super().start(pairs)
            pairs[0][0].resize_(pairs[0][1].numel())
            raise torch.OutOfMemoryError("CUDA out of memory")

    copier = Full()
    stream = BlockStream(copier, smallest=0)
    model = loaded(wide, "none", stream)
    fast = PackedModel(model, 64)
    expected = packed_pass(fast, model, tokens)
    copier.fails = True
    with pytest.raises(torch.OutOfMemoryError):
        packed_pass(fast, model, tokens)
    assert all(s.nbytes() == 0 for n, b in enumerate(stream.blocks) for s, _ in b.pairs if n not in stream.copying)
    model.zero_grad()
    copier.fails = False
    same(packed_pass(fast, model, tokens), expected)


def test_memory_of_both_sides(wide: Path) -> None:
    stream = BlockStream()
    model = loaded(wide, "none", stream)
    layers = model.get_base_model().get_decoder().layers
    assert max(p.numel() * 4 for p in layers.parameters()) < 1 << 16
    assert stream.bytes == 0  # all of it is small
    stream = BlockStream(smallest=1 << 12)
    model = loaded(wide, "none", stream)
    layers = model.get_base_model().get_decoder().layers
    large = [p for p in layers.parameters() if not p.requires_grad and p.numel() * 4 >= 1 << 12]
    assert stream.bytes == sum(p.numel() * 4 for p in large)
    assert all(p.untyped_storage().nbytes() == 0 for p in large)
    assert all(p.untyped_storage().nbytes() for p in model.parameters() if not any(p is one for one in large))


def _one_pack(tokens: Tokens) -> Any:
    from pipeline.prompt.pack import Packer

    return Packer(tokens, [], 1 << 20).pack(range(len(tokens)))
