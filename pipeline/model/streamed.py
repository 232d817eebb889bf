"""A model larger than the memory computes: each block's weights are read before it runs and dropped after it.

disk ─> block 0 ─> disk ─> block 1 ─> ... ─> head          memory: one block, and the activations of a few rows
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from pipeline.model.causal_lm import causal_lm_of
from pipeline.model.precision import device
from pipeline.model.skeleton import Skeleton

Read = Callable[[str], torch.Tensor]  # a tensor of the base by its name in the model


@contextlib.contextmanager
def streamed(skeleton: Skeleton, model: Any, names: Mapping[int, str], read: Read) -> Iterator[Any]:
    """Lets `model` compute on this process's device, inside the context.

    Args:
        model: the skeleton's model, with or without an adapter whose own weights are in memory.
        names: of the base's parameters by `id`, from before the adapter was attached. read: gives their weights.
    """
    target, handles = device(), []
    whole = causal_lm_of(model)
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for tensor in own.values():
                if tensor is not None and tensor.device.type not in ("meta", target.type):
                    tensor.data = tensor.data.to(target)
    for name in skeleton.blocks:
        block = whole.get_submodule(name)
        fill, clear = _hooks(names, read, target)
        handles += [block.register_forward_pre_hook(fill), block.register_forward_hook(clear)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _hooks(names: Mapping[int, str], read: Read, target: torch.device) -> tuple[Any, Any]:
    """Hooks that put the weights of a block in and take them out again."""
    empty: list[tuple[Any, str, torch.nn.Parameter]] = []

    def fill(block: Any, _: Any) -> None:
        for module in block.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None and parameter.device.type == "meta":
                    empty.append((module, key, parameter))
                    weight = read(names[id(parameter)]).to(target)
                    module._parameters[key] = torch.nn.Parameter(weight, requires_grad=False)

    def clear(block: Any, _: Any, __: Any) -> None:
        for module, key, parameter in empty:
            module._parameters[key] = parameter
        empty.clear()

    return fill, clear
