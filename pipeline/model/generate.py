"""Greedy answers to many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.progress import bar


@torch.inference_mode()
def greedy(
    model: Any, prompts: Sequence[Sequence[int]], *, end_id: int, max_new_tokens: int, what: str, batch: int = 32
) -> list[list[int]]:
    """New ids for each prompt, the end token included when the model gave it.

    Prompts go in batches of similar length, padded on the left; the answer depends on the prompt alone, up to
    rounding.
    """
    was_training, used_cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    device = next(model.parameters()).device
    with bar(total=len(prompts), what=what, unit="answer") as progress:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            width = max(len(prompts[i]) for i in rows)
            ids = torch.zeros((len(rows), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for n, i in enumerate(rows):
                ids[n, width - len(prompts[i]) :] = torch.tensor(list(prompts[i]))
                mask[n, width - len(prompts[i]) :] = 1
            made = model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=max_new_tokens,
                do_sample=False, num_beams=1, eos_token_id=end_id, pad_token_id=end_id, temperature=None, top_p=None, top_k=None,
            )[:, width:].tolist()  # fmt: skip
            for i, new in zip(rows, made, strict=True):
                answers[i] = new[: new.index(end_id) + 1] if end_id in new else new
            progress.update(len(rows))
    model.config.use_cache = used_cache
    model.train(was_training)
    return answers
