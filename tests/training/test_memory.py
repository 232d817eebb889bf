"""How many tokens fit into a card."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.model.packed.model import PackedModel
from pipeline.run.errors import UserError
from pipeline.training import memory
from pipeline.training.footprint import ROOM


@pytest.mark.parametrize(
    ("checkpointing", "free", "wanted", "longest", "chosen"),
    [
        ("auto", 100_000, 0, 300, (6000, False)),  # a whole step fits with all kept
        ("auto", 50_000, 0, 300, (4450, False)),  # 4,096 do
        ("auto", 40_000, 0, 300, (6000, True)),  # 3,550 would, so blocks are recomputed
        ("auto", 40_000, 3000, 300, (3000, False)),  # no more are wanted
        ("auto", 10_000, 0, 300, (4250, True)),
        ("auto", 1_000, 0, 500, (500, True)),  # the longest row has to go through
        ("none", 40_000, 0, 300, (3550, False)),
        ("block", 100_000, 0, 300, (6000, True)),
        ("offload", 10_000, 0, 300, (4250, True)),
        ("none", 10_000, 8000, 300, (8000, False)),  # a number that is set is used
    ],
)
def test_what_fits_into_a_card(
    checkpointing: str, free: int, wanted: int, longest: int, chosen: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token takes 10 bytes with all kept and 2 without, beside 500 that do not depend on it; a step has 6,000. 1,000
    bytes are for the optimiser."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(memory, "free_bytes", lambda _: free + 1000)
    monkeypatch.setattr(
        memory, "_packed_peak", lambda fast, tokens, offload: 500 + tokens * (2 if fast.recompute else 10)
    )
    fast = SimpleNamespace(can_recompute=True, recompute=False, causal_lm=SimpleNamespace())
    assert memory.choose_packed(fast, wanted, checkpointing, longest, 6000, reserve=1000) == chosen


@pytest.mark.parametrize("longest", [300, 6000])
@pytest.mark.parametrize("checkpointing", ["auto", "none"])
def test_a_card_that_holds_only_what_is_computed_again(
    checkpointing: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe with all kept runs out of memory, or the longest row would."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 50_000)

    def peak(fast: SimpleNamespace, tokens: int, offload: bool) -> int:
        if longest == 300 and not fast.recompute:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return tokens * (2 if fast.recompute else 10)

    monkeypatch.setattr(memory, "_packed_peak", peak)
    fast = SimpleNamespace(can_recompute=True, recompute=False, causal_lm=SimpleNamespace())
    if checkpointing == "auto":
        assert memory.choose_packed(fast, 0, "auto", longest, 6000, 0) == (6000, True)
    elif longest == 300:
        with pytest.raises(UserError, match="not even 512 tokens"):
            memory.choose_packed(fast, 0, "none", longest, 6000, 0)
    else:
        assert memory.choose_packed(fast, 0, "none", longest, 6000, 0) == (6000, False)


def test_a_probe_leaves_no_gradient(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    model = adapters.attach(load_folder(base, torch.float32), Adapter(r=4), 1, (7,))
    memory._packed_peak(PackedModel(model, 128), 256, False)
    assert [name for name, weight in adapters.trained(model).items() if weight.grad is not None] == []


@pytest.mark.parametrize(
    ("free", "chosen", "tried"),
    [(300_000, (6000, False), [1024, 2048, 1024, 2048]), (60_000, (6000, True), [1024, 2048])],
)
def test_a_sharded_model_is_never_probed_beyond_its_memory(
    free: int, chosen: tuple[int, bool], tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ranks would wait in a pass that ends for memory. With 10 blocks a token that keeps all needs at most ten
    times the bytes of one that is recomputed: 2 * 10 * 2048 = 40,960 bytes are enough for any result of the probe."""
    probes: list[int] = []

    def peak(fast: SimpleNamespace, tokens: int, offload: bool) -> int:
        probes.append(tokens)
        return tokens * (2 if fast.recompute else 10)

    monkeypatch.setattr(memory, "_packed_peak", peak)
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    monkeypatch.setattr(memory, "least_of_ranks", lambda model, value: value - 30_000)  # of another rank
    for name, value in (("is_available", True), ("current_device", 0), ("empty_cache", None)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    config = SimpleNamespace(num_hidden_layers=10)
    fast = SimpleNamespace(
        can_recompute=True, recompute=False, causal_lm=SimpleNamespace(config=config, sharded="trained")
    )
    assert memory.choose_packed(fast, 0, "auto", 300, 6000, 0) == chosen
    assert probes == tried


def test_a_sharded_model_that_has_no_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(*_: object) -> int:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory, "_packed_peak", peak)
    for name in ("is_available", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    fast = SimpleNamespace(can_recompute=True, recompute=False, causal_lm=SimpleNamespace(sharded="frozen"))
    with pytest.raises(UserError, match="2,048 tokens do not fit"):
        memory.choose_packed(fast, 0, "auto", 300, 6000, 0)


@pytest.mark.parametrize(("free", "tokens"), [(3000, 1000), (2000, 1000), (1999, 999), (600, 300), (-5, 300)])
def test_offloaded_activations_fit_into_main_memory(free: int, tokens: int) -> None:
    """2 bytes a token, beside the bytes for everything else; the longest row, of 300, has to go through."""
    assert memory.within_main_memory(1000, 300, 2, ROOM + free) == tokens
