"""Greedy answers to many prompts at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from pipeline.progress import bar


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_id: int,
    max_new_tokens: int,
    what: str,
    batch: int = 32,
    adapters: Sequence[str] | None = None,
) -> list[list[int]]:
    """New ids for each prompt, the end token included when the model gave it.

    Prompts go in batches of similar length, padded on the left; the answer depends on the prompt alone, up to
    rounding. With `adapters`, peft's name of the adapter that answers each prompt, a batch mixes them.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    device = next(model.parameters()).device
    wanted = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, eos_token_id=end_id, pad_token_id=end_id
    )
    with answering(model), bar(total=len(prompts), what=what, unit="answer") as progress:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            width = max(len(prompts[i]) for i in rows)
            ids = torch.zeros((len(rows), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for n, i in enumerate(rows):
                ids[n, width - len(prompts[i]) :] = torch.tensor(list(prompts[i]))
                mask[n, width - len(prompts[i]) :] = 1
            mixed = {} if adapters is None else {"adapter_names": [adapters[i] for i in rows]}
            made = model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=wanted, **mixed
            )  # (rows, width + new), rows that ended early filled up with the end token
            for i, new in zip(rows, made[:, width:].tolist(), strict=True):
                answers[i] = new[: new.index(end_id) + 1] if end_id in new else new
            progress.update(len(rows))
    return answers


@contextlib.contextmanager
def answering(model: Any) -> Iterator[None]:
    """The model as it should answer: no dropout, with a cache, and without the settings that its maker shipped.

    transformers fills everything left open from the model's own generation_config, such as a repetition penalty.
    """
    owners = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]  # peft hands its own on
    before = [owner.generation_config for owner in owners]
    was_training, used_cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    for owner in owners:
        owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for owner, own in zip(owners, before, strict=True):
            owner.generation_config = own
        model.config.use_cache = used_cache
        model.train(was_training)
