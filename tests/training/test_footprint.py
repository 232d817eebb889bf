"""What a plan predicts of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.load import geometry_config, load_base
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Packer
from pipeline.training import card_plan
from pipeline.training.footprint import WAYS, Stack
from pipeline.training.plan import footprint_of, plan
from tests.helpers.packs import random_tokens

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPE = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 512,
}  # fmt: skip


def config_of(**adapter: Any) -> Config:
    return Config.model_validate({"name": "a", "model": {"geometry": SHAPE, "dtype": "fp32"}, "adapter": adapter})


@pytest.mark.parametrize("recompute", [False, True])
def test_what_blocks_keep(recompute: bool, tmp_path: Path) -> None:
    """Counted as autograd saves it. Rotary positions, which all blocks share, and the last block, which computes fewer
    positions, are left out."""
    config = config_of(r=4)
    model = adapters.attach(load_base(config.model, Base(None, Path(), 0, ()), 0), config.adapter, 1)
    tokens = random_tokens(tmp_path, [], 14)
    fast = PackedModel(model, 64)
    fast.recompute = recompute
    batch = fast.prepare(Packer(tokens, [], 1 << 20).pack(range(len(tokens))))
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    layers, ends = fast.decoder.layers, list[int]()
    hooks = [layer.register_forward_hook(lambda *_: ends.append(len(saved))) for layer in layers]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        fast.loss_sum(batch)
    for hook in hooks:
        hook.remove()
    count, size = batch.ids.numel(), 8
    rotary = 2 * count * size * 4
    second = sum(saved[ends[0] : ends[1]]) - rotary
    footprint = footprint_of(config, geometry_config(config.model))
    assert footprint is not None
    predicted = footprint.recomputed if recompute else footprint.kept
    assert second == (predicted - footprint.small) * count  # `small` is not saved by autograd


def test_copies_of_adapters() -> None:
    """By the tensors that they are; on a CPU B is not one block matrix."""
    config = config_of(r=4, targets=("q_proj", "k_proj", "down_proj"))
    model = adapters.attach(load_base(config.model, Base(None, Path(), 0, ()), 0), config.adapter, 1)
    fast = PackedModel(model, 64)
    own = sum(
        t.numel() * 4 for linear in fast.linears for t in (linear.a, linear.scaled_a, *linear.scaled_b, *linear.b)
    )
    footprint = footprint_of(config, geometry_config(config.model))
    assert footprint is not None
    spare = 3 * 4 * (48 * 8 - 4 * (32 + 16))  # q and k behind W: (outputs, both ranks) instead of each its own
    assert footprint.copies == own + spare


def test_a_block_matrix() -> None:
    one = Stack(inputs=10, outputs=(6, 2), ranks=(3, 3), layers=2)
    assert one.copies(2, False) == 2 * (2 * 6 * 10 + 8 * 6 + 3 * 8)
    assert one.copies(2, True) == 2 * (2 * 6 * 10 + 8 * 6 + 8 * 6)
    wide = Stack(inputs=10, outputs=(6, 2), ranks=(100, 100), layers=2)
    assert wide.copies(2, False) == 2 * (2 * 200 * 10 + 2 * 100 * 8)


def test_the_plan_names_main_memory_where_that_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_plan, "free_memory_bytes", lambda: 1 << 33)
    config = load(CONFIGS / "alpaca-lora-7b.yaml", ["model.dtype=bf16", "train.gpu_memory=10"])
    card = next(line for line in card_plan.lines(config, plan(config)) if line.startswith("card"))
    assert card.endswith("only stream fits, and it needs 13.1 GiB of main memory; 8.0 are free here")


def test_seven_billion() -> None:
    """Against what an H200 showed for a step of 4,096 tokens of Alpaca, 26 % of them shared: 7.2 GiB in nf4, and 48.5
    for 16,384 in bf16 (docs/benchmarks-earlier.md)."""
    words = ["model.dtype=bf16", "adapter.r=16", "adapter.targets=[all-linear]"]
    shares = {"nf4": ("block", 4096, 7.2), "none": ("none", 16384, 48.5)}
    for quantize, (way, tokens, seen) in shares.items():
        config = load(CONFIGS / "alpaca-lora-7b.yaml", [*words, f"model.quantize={quantize}"])
        fast = plan(config, {"rows": 1, "tokens": 1}).fast
        assert fast is not None
        assert fast.peak(int(tokens * 0.74), way, 0.5) / 2**30 == pytest.approx(seen, rel=0.05)
        peaks = [fast.peak(2048, one) for one in WAYS]
        assert peaks == sorted(peaks, reverse=True)
        assert fast.most_tokens(way, fast.peak(3000, way)) == 3000
        assert fast.most_tokens(way, 1) == 0
    config = load(CONFIGS / "alpaca-lora-7b.yaml", [*words, "model.quantize=nf4"])
    small = plan(config, {"rows": 1, "tokens": 1}).fast
    assert small is not None
    assert small.peak(512, "block") / 2**30 < 6.5
    assert small.peak(2048, "block") / 2**30 < 7.4


@pytest.mark.parametrize(
    ("gib", "says"),
    [(80, "train.checkpointing=none"), (24, "train.checkpointing=block"), (10, "train.checkpointing=stream"),
     (1, "no way fits; ")],
)  # fmt: skip
def test_the_plan_for_a_card(gib: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_plan, "free_memory_bytes", lambda: 1 << 40)
    config = load(CONFIGS / "alpaca-lora-7b.yaml", ["model.dtype=bf16", f"train.gpu_memory={gib}"])
    lines = card_plan.lines(config, plan(config))
    card = next(line for line in lines if line.startswith("card"))
    assert f"{gib}.0 GiB (train.gpu_memory): {says}" in card
    if "peak" in card:
        peak = float(card.partition("peak ")[2].split()[0])
        assert peak <= gib
    if gib == 10:
        assert "12.1 GiB in main memory" in card
        assert "model.quantize=nf4: train.checkpointing=block" in lines[-1]


@pytest.mark.parametrize(("way", "said"), [
    ("none", "train.checkpointing=none does not fit; 13.44 GiB are needed at least"),
    ("stream", "stream needs 13.1 GiB of main memory; 8.0 are free here"),
])  # fmt: skip
def test_the_plan_of_a_way_that_was_asked_for(way: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is this way alone; another one may."""
    monkeypatch.setattr(card_plan, "free_memory_bytes", lambda: 1 << 33)
    words = ["model.dtype=bf16", "train.gpu_memory=10", f"train.checkpointing={way}"]
    config = load(CONFIGS / "alpaca-lora-7b.yaml", words)
    card = next(line for line in card_plan.lines(config, plan(config)) if line.startswith("card"))
    assert card == f"card       10.0 GiB (train.gpu_memory): {said}"


def test_the_plan_for_a_card_counts_with_the_longest_row() -> None:
    """As training does: `prompt.cutoff` is what a row may have."""
    config = load(CONFIGS / "alpaca-lora-7b.yaml", ["model.dtype=bf16", "train.gpu_memory=24", "prompt.cutoff=8192"])
    planned = plan(config, {"rows": 99, "tokens": 9900, "longest": 300})
    assert planned.fast is not None
    first, *_ = card_plan.lines(config, planned)
    assert f"a row of 300 tokens: none {planned.fast.peak(300, 'none') / 2**30:.2f}, block" in first


def test_a_pass_that_is_offloaded_fits_into_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 3 vectors of 4,096 numbers in bf16 and 8 bytes, in each of 32 blocks."""
    monkeypatch.setattr(card_plan, "free_memory_bytes", lambda: 9 << 30)
    words = ["model.dtype=bf16", "train.gpu_memory=24", "train.checkpointing=offload", "prompt.cutoff=2048"]
    config = load(CONFIGS / "alpaca-lora-7b.yaml", words)
    card = next(line for line in card_plan.lines(config, plan(config)) if line.startswith("card"))
    tokens = (8 << 30) // (32 * (3 * 4096 * 2 + 8))
    assert f"offload, {tokens:,} tokens in a pass" in card
    assert card.endswith("8.0 GiB in main memory")


@pytest.mark.parametrize(("gib", "way", "said"), [
    (24, "auto", "a row of 2,048 tokens does not fit: it needs 45.39 GiB with activations recomputed (estimate)"),
    (46, "auto", "a row of 2,048 tokens fits: it needs 45.39 GiB with activations recomputed (estimate)"),
    (46, "none", "a row of 2,048 tokens does not fit: it needs 55.92 GiB (estimate)"),
])  # fmt: skip
def test_a_card_for_a_model_of_another_form(gib: int, way: str, said: str) -> None:
    words = [f"train.gpu_memory={gib}", f"train.checkpointing={way}"]
    config = load(CONFIGS / "koalpaca-polyglot-5.8b.yaml", words)
    assert card_plan.lines(config, plan(config)) == [f"card       {gib}.0 GiB (train.gpu_memory): {said}"]


def test_without_a_card_the_plan_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load(CONFIGS / "alpaca-lora-7b.yaml", [])
    assert "train.gpu_memory=8" in card_plan.lines(config, plan(config))[-1]
