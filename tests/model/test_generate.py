"""Greedy answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.generate import greedy


def one_by_one(model: Any, prompt: list[int], limit: int, end: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + limit and (len(ids) == len(prompt) or ids[-1] != end):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_greedy(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    with torch.no_grad():
        model.lm_head.weight *= 30  # clear choices, so that rounding cannot turn one
    prompts = [random.integers(3, 400, n).tolist() for n in (9, 3, 14, 1, 6)]
    free = [one_by_one(model, p, 8, -1) for p in prompts]
    end = free[0][2]  # a token that the first answer reaches
    model.generation_config.repetition_penalty = 5.0  # as some bases ship; the measurement must not see it
    model.generation_config.min_new_tokens = 8
    model.train()
    model.config.use_cache = False
    for batch in (1, 2, 32):
        monkeypatch.setattr("pipeline.model.generate.CPU_ROWS", batch)
        found = greedy(model, prompts, end_id=end, max_new_tokens=8, what="test")
        assert found == [one_by_one(model.eval(), p, 8, end) for p in prompts]
        assert all(len(a) <= 8 and end not in a[:-1] for a in found)
        assert found[0][-1] == end
        model.train()
    assert model.training
    assert not model.config.use_cache
    assert model.generation_config.repetition_penalty == 5.0
    assert greedy(model, [], end_id=end, max_new_tokens=8, what="test") == []


def test_greedy_with_an_adapter_gives_everything_back(model: Any) -> None:
    model.generation_config.repetition_penalty = 5.0
    wanted = one_by_one(model, [5, 6, 7], 4, 2)
    adapted = adapters.attach(model, Adapter(r=4, targets=("q_proj",)), seed=1)
    assert greedy(adapted, [[5, 6, 7]], end_id=2, max_new_tokens=4, what="test") == [wanted]
    assert adapted.get_base_model().generation_config.repetition_penalty == 5.0
