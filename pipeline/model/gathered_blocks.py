"""Frozen blocks of which each rank of a run keeps a part; before a block computes, all ranks gather it.

    rank 0   [0][1][2] ... [n-1]      the first 1/N of the bytes of every weight
    rank 1   [0][1][2] ... [n-1]      the second
                 |
    all      [1][2]                   at most two whole blocks: 1 computes while 2 is gathered

This is what PyTorch's FSDP does with parameters (Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded
Data Parallel", arXiv 2304.11277, section 3). FSDP itself shards floating-point parameters; here the bytes of
weights of any type are gathered, so bases in nf4 and int8 are sharded too, and every rank computes with exactly the
bytes that an unsharded base has. Frozen weights have no gradients, so nothing has to be reduced.

All ranks must run the same passes in the same order: each block is a message of all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from pipeline.model.block_stream import Pair, bytes_of

ALIGNMENT = 16  # bytes, of a rank's part of a storage
# torch 2.13 has another name for it, and warns of the old one.
_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor


class GatherCopier:
    """Keeps this rank's part of every storage on its own device.

    Messages use the process group of the run, so that on a card all messages of a rank are in one order. They overlap
    with kernels that are launched after them.
    """

    own_pool = False

    def __init__(self) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        size = -(-whole.numel() // (self.world * ALIGNMENT)) * ALIGNMENT
        own = torch.zeros(size, dtype=torch.uint8, device=whole.device)  # the last part may be shorter than the others
        bytes_ = whole[self.rank * size : (self.rank + 1) * size]
        own[: bytes_.numel()] = bytes_
        return own

    def buffer(self, size: int, device: torch.device) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=device)

    def start(self, pairs: list[Pair]) -> list[Any]:
        messages = []
        for storage, own in pairs:
            storage.resize_(
                own.numel() * self.world
            )  # may be a few bytes longer than the weight, whose views end before
            messages.append(_gather(bytes_of(storage), own, async_op=True))
        return messages

    def wait(self, copying: list[Any]) -> None:
        for message in copying:
            message.wait()
