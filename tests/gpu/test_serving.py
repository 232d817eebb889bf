"""On a GPU: steps from CUDA graphs, and continuous batching, answer as the model does without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.model.generate import greedy
from pipeline.run.folder import Run
from pipeline.serving.engine.decoder import decoder_of
from pipeline.serving.engine.open import open_engine
from pipeline.serving.engine.step_graphs import StepGraphs
from pipeline.store.folder import Store
from tests.helpers.engine import answers, engine_of, request
from tests.helpers.stored_adapters import plain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

PROMPTS = [[5, 6, 7], list(range(20, 90)), [3], list(range(100, 117)), [9] * 40, [8, 9, 10, 11]]


def lively(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = plain(base).to("cuda", dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_graph_gives_the_logits_of_a_step(base: Path, dtype: torch.dtype) -> None:
    decoder = decoder_of(lively(base, dtype))
    decoder.cache.grow(4, 128)
    for row, prompt in enumerate(PROMPTS[:3]):
        decoder.prompt(row, [prompt], 0)
    graphs, lengths = StepGraphs(decoder, None), [len(prompt) for prompt in PROMPTS[:3]]
    for _ in range(5):
        expected = decoder.step([4, 5, 6], lengths).clone()
        ours = graphs.step([4, 5, 6], lengths, [None] * 3)
        assert torch.allclose(ours.float(), expected.float(), atol=1e-4 if dtype == torch.float32 else 5e-2)
        lengths = [length + 1 for length in lengths]
    assert graphs.is_on
    assert graphs._graphs


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_answers_are_those_of_generate(base: Path, slots: int) -> None:
    expected = greedy(lively(base), PROMPTS, end_id=2, max_new_tokens=60, what="answers")
    with engine_of(lively(base), slots) as engine:
        for _ in range(3):  # later rounds are steps from graphs alone
            assert [one.ids for one in answers(engine, [request(p, max_tokens=60) for p in PROMPTS])] == expected
        assert engine.batches[0].graphs.is_on
        assert engine.batches[0].graphs._graphs


def test_adapters_in_one_batch(config: Config, lora_store: Store, tmp_path: Path) -> None:
    """Each adapter alone and all in a batch."""
    engine, models = open_engine(config, Run(tmp_path / config.name), lora_store)
    try:
        requests = [request(prompt, model=model.name) for prompt in PROMPTS for model in models]
        alone = [answers(engine, [one])[0].ids for one in requests]
        for _ in range(3):
            assert [one.ids for one in answers(engine, requests)] == alone
        assert engine.batches[0].graphs.is_on  # type: ignore[attr-defined]
    finally:
        engine.close()
