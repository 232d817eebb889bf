"""On a GPU: blocks that come from main memory give the same bits, and take no more of the card than predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Adapter, Model
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model import block_stream
from pipeline.model.block_stream import BlockStream
from pipeline.model.load import load_base
from pipeline.model.memory import free_bytes
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Packer
from pipeline.run.folder import Run
from tests.helpers.packed_models import with_trained_lora
from tests.helpers.packs import random_tokens
from tests.helpers.tiny import make_base, make_config, run_to

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "head_dim": 128}
    return make_base(tmp_path_factory.mktemp("deep") / "base", **shape, max_position_embeddings=2048)


def passes(model: Any, folder: Path) -> list[tuple[float, list[torch.Tensor]]]:
    """Loss and gradients of three passes."""
    fast = PackedModel(model, 64)
    fast.recompute = True
    tokens = random_tokens(folder, [], 14)
    results = []
    for _ in range(3):
        loss = fast.loss_sum(fast.prepare(Packer(tokens, [], 1 << 20).pack(range(len(tokens)))))
        loss.backward()
        results.append((float(loss.detach()), [p.grad.clone() for p in adapters.trained(model).values()]))
        model.zero_grad()
    return results


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_the_same_bits(quantize: str, deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_stream, "SMALLEST", 1 << 10)
    settings = Model(base=str(deep), quantize=quantize, dtype="bf16")  # type: ignore[arg-type]
    results = []
    for name, stream in (("streamed", BlockStream()), ("plain", None)):
        model = load_base(settings, bases.resolve(settings), 0, stream=stream)
        model = with_trained_lora(adapters.attach(model, Adapter(r=8), seed=1, added=()))
        (tmp_path / name).mkdir()
        results.append(passes(model, tmp_path / name))
        if stream is not None:
            assert stream.bytes > 0
            present = [n for n, block in enumerate(stream.blocks) if block.pairs[0][0].nbytes()]
            assert len(present) <= 2
    for (a, first), (b, second) in zip(*results, strict=True):
        assert a == b
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("way", ["block", "offload", "stream"])
def test_a_run(way: str, deep: Path, tmp_path: Path) -> None:
    """Through the loop: self-check, evaluation, sample answers, checkpoints."""
    words = ("model.dtype=bf16", f"train.checkpointing={way}", "train.max_steps=3", "train.graphs=false")
    run: Run = run_to(make_config(tmp_path, deep, *words), "train", tmp_path)
    counts = (run.manifest("adapter") or {})["counts"]
    assert counts["path"] == "fast"
    state = json.loads((run.folder("checkpoints") / "step-000003" / "state.json").read_text())
    assert (state["checkpointing"], state["recompute"]) == (way, True)


def test_free_memory_is_within_the_limit_of_the_process() -> None:
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.1)
    try:
        assert free_bytes(torch.device("cuda", 0)) <= whole * 0.1 - torch.cuda.memory_allocated()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
