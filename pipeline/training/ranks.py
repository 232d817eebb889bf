"""What the processes of `accelerate launch` tell each other: whether to stop, sizes of passes, gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

BUCKET = 1 << 24  # numbers that are sent at once: few messages, little memory


def anyone(accelerator: Any, code: int) -> bool:
    """Whether any rank was told to stop; with one rank this costs nothing."""
    if accelerator.num_processes == 1:
        return code != 0
    return bool(accelerator.reduce(torch.tensor(float(code != 0), device=accelerator.device), "sum") > 0)


def smallest(accelerator: Any, numbers: list[int]) -> list[int]:
    """Of each number the smallest of any rank; to be called by all ranks at once."""
    if accelerator.num_processes == 1:
        return numbers
    return accelerator.gather(torch.tensor([numbers], device=accelerator.device)).min(dim=0).values.tolist()


def sum_gradients(accelerator: Any, weights: Iterable[torch.nn.Parameter]) -> None:
    """Every rank's gradients become the sum over all ranks; a rank without rows has zeros."""
    if accelerator.num_processes == 1:
        return
    bucket: list[torch.Tensor] = []
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        bucket.append(weight.grad)
        if sum(g.numel() for g in bucket) >= BUCKET:
            _sum(accelerator, bucket)
            bucket = []
    _sum(accelerator, bucket)


def _sum(accelerator: Any, bucket: list[torch.Tensor]) -> None:
    if not bucket:
        return
    whole = accelerator.reduce(torch.cat([g.reshape(-1) for g in bucket]), "sum")
    for gradient, part in zip(bucket, whole.split([g.numel() for g in bucket]), strict=True):
        gradient.copy_(part.view_as(gradient))
