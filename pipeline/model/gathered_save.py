"""Writes a model whose weights are sharded over the ranks as transformers' `save_pretrained` would the whole one.

One tensor at a time is gathered and moved to main memory, and one file at a time is written, so neither a card nor a
host ever holds the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.model.sharded import whole
from pipeline.run.files import write_json

FILE = 5 * 10**9  # bytes of a file at most, if its tensors are smaller
INDEX = "model.safetensors.index.json"


def gathered(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole tensor of each weight, tied ones once; all ranks must go through all of them."""
    for name, tensor in _tensors(model).items():
        yield name, whole(tensor.detach())


def save_gathered(model: Any, folder: Path, limit: int = FILE) -> None:
    """Writes weights and config; the other ranks must go through `gathered` meanwhile.

    Args:
        limit: bytes of a file.
    """
    groups = grouped({name: tensor.numel() * tensor.element_size() for name, tensor in _tensors(model).items()}, limit)
    names = [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    names = names if len(groups) > 1 else ["model.safetensors"]
    tensors = gathered(model)
    for name, group in zip(names, groups, strict=True):
        held = {key: value.cpu().contiguous() for _, (key, value) in zip(group, tensors, strict=False)}
        save_file(held, folder / name, metadata={"format": "pt"})
        del held
    for _ in tensors:  # all of them, since the other ranks take part in each
        pass
    if len(groups) > 1:
        sizes = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(model).values())
        where = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        write_json(folder / INDEX, {"metadata": {"total_size": sizes}, "weight_map": where})
    model.config.dtype = next(model.parameters()).dtype
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, tied ones under their first name, and buffers that are saved."""
    parameters = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - parameters.keys()
    buffers = {name: value for name, value in model.state_dict().items() if name not in parameters and name not in tied}
    return {**parameters, **buffers}


def grouped(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, cut into groups of at most `limit` bytes, or one tensor."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups
