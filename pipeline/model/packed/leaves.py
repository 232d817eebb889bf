"""A pass whose gradients flow to other tensors than a model's own weights.

Autograd ties a weight to the stream on which it last got a gradient, and a CUDA graph that waits for another stream
cannot be recorded. Fresh leaves with the same values are tied to nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def replaced(objects: Sequence[Any], name: str, values: Sequence[Any]) -> Iterator[None]:
    """Context in which an attribute of each object has another value."""
    before = [getattr(one, name) for one in objects]
    for one, value in zip(objects, values, strict=True):
        setattr(one, name, value)
    try:
        yield
    finally:
        for one, value in zip(objects, before, strict=True):
            setattr(one, name, value)


@contextlib.contextmanager
def replaced_weights(model: torch.nn.Module, leaf_of: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Context in which modules have a leaf in place of each weight that has one, wherever it is used.

    Args:
        leaf_of: by the weight's `id`.
    """
    places = [
        (module._parameters, name, weight)
        for module in model.modules()
        for name, weight in module._parameters.items()
        if id(weight) in leaf_of
    ]
    for parameters, name, weight in places:
        parameters[name] = leaf_of[id(weight)]
    try:
        yield
    finally:
        for parameters, name, weight in places:
            parameters[name] = weight
