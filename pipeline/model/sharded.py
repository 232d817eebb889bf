"""Models whose weights are spread over the ranks of a run: every pass through them is a message of all ranks.

    frozen weights    `gathered_blocks.py`: blocks as bytes, of any type; adapters, embedding and head are in every rank
    trained weights   PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`), a group for each block and one for the
                      rest: weights, gradients and the optimizer's moments are DTensors, sharded by rows, in float32

FSDP2 gathers a block in the type of the arithmetic before it computes, and adds its gradients up over the ranks, in
float32, after its backward pass. It does so in every pass, not once a step: gradients that wait for the end of a step
would be whole on every rank, 27 GB for 7B. Gradients are sums, not means, as everywhere in training.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed

from pipeline.model.causal_lm import causal_lm_of

T = TypeVar("T")
PASS = "pass_through_root"  # name of the method that `through_root` calls


class FullyShard:
    """Gives the decoder's blocks, and then the rest of a model, to FSDP2.

    Args:
        dtype: of the arithmetic, in which weights are gathered.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.blocks: list[Any] = []
        self.mesh: Any = None

    def add(self, layer: Any) -> None:
        """Keeps this rank's part of the decoder's next block; the rest of its memory is freed."""
        self.blocks.append(layer)
        self._shard(layer)

    def finish(self, model: Any) -> Any:
        """Shards what is outside the blocks, and runs one pass in which FSDP2 makes its buffers: made in inference mode
        they could not be used in training."""
        from torch.distributed.fsdp import register_fsdp_forward_method

        architecture = type(model).__name__  # FSDP2 gives the model a class of another name
        self._shard(model)
        model.config.architectures = [architecture]
        setattr(model, PASS, types.MethodType(lambda _, function, *args: function(*args), model))
        register_fsdp_forward_method(model, PASS)
        model.sharded = "trained"
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
        return model

    def _shard(self, module: Any) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if self.mesh is None:
            self.mesh = init_device_mesh(next(module.parameters()).device.type, (distributed.get_world_size(),))
        low = None if self.dtype == torch.float32 else self.dtype
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        # The root too: its gathered weights would outlive a pass without gradients, and an update of the weights.
        sharded = fully_shard(module, mesh=self.mesh, mp_policy=policy, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        if hasattr(sharded, "set_reduce_scatter_unused_params"):  # torch 2.13 has it
            # A weight may get a gradient on some ranks alone; without this their messages would differ in size.
            sharded.set_reduce_scatter_unused_params(True)
        sharded.set_force_sum_reduction_for_comms(True)  # a factor would choose a sum that only NCCL has


def through_root(model: Any, function: Callable[..., T], *args: Any) -> T:
    """Calls a function that uses parts of a model without the model's forward; their weights are gathered before.

    model: a causal LM, sharded or not.
    """
    call = getattr(model, PASS, None)
    result: T = function(*args) if call is None else call(function, *args)
    return result


def is_sharded(model: Any) -> bool:
    """Whether all ranks must run every pass through a model together. model: with or without an adapter."""
    return bool(_kind(model))


def has_sharded_weights(model: Any) -> bool:
    """Whether trained weights are sharded, too."""
    return _kind(model) == "trained"


def mark_gathered(model: Any) -> None:
    """Notes that the frozen blocks of a causal LM are gathered from all ranks."""
    model.sharded = "frozen"


def least_of_ranks(model: Any, value: int) -> int:
    """The smallest value of any rank where a model is sharded, so that all ranks run passes of the same size."""
    if not is_sharded(model):
        return value
    least = torch.tensor(value, device=next(model.parameters()).device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return int(least)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor: of one that is not sharded, all."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from all ranks, which must all call this; one that is not sharded, as it is."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _kind(model: Any) -> str:
    causal_lm = causal_lm_of(model)
    return str(getattr(causal_lm, "sharded", ""))
