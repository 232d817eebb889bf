"""Frozen blocks that are on the card only while they compute, and else in main memory.

    main memory   [0] [1] [2] [3] ... [n-1]     one buffer a block, page-locked
                           |
    card               [1] [2]                  at most two blocks: 1 computes while 2 is copied

    forward   0 1 2 ... n-1,   backward   n-1 ... 1 0     the next one in either direction is copied ahead

A block is brought by a hook before its forward pass, and by one on its output's gradient before its backward pass, so
this serves packs as well as transformers' own layers, recomputed or not. What leaves the card is the memory behind its
tensors: their storages are emptied and filled again, as in PyTorch's FSDP. So all views of a weight stay valid, and
layers, adapters and kernels need no change. A copier decides where the bytes are meanwhile: here in main memory, in
`gathered_blocks.py` a part in each rank of a run.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import torch

SMALLEST = 1 << 16  # bytes; smaller tensors, such as norms and code books, stay on the card
ALIGNMENT = 512  # bytes, of each tensor in a buffer
PAGE = 4096  # bytes of main memory
Storage = Any  # torch.UntypedStorage
Pair = tuple[Storage, torch.Tensor]  # on the card, and what is kept of its bytes elsewhere


class Copier(Protocol):
    """Where the bytes of blocks stay, and how they come to the device.

    Attributes:
        own_pool: whether storages on the device come from another pool of memory than that of the main stream.
    """

    own_pool: bool

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """What is kept of the bytes of a storage."""

    def buffer(self, size: int, device: torch.device) -> torch.Tensor:
        """So many bytes in which a block is kept. device: on which it computes."""

    def start(self, pairs: list[Pair]) -> Any:
        """Fills the storages, which are empty, possibly later than this returns; returns what `wait` takes."""

    def wait(self, copying: Any) -> None:
        """Makes all later computations wait for the copy."""


class CpuCopier:
    """Copies at once: the twin for tests, where the card is the CPU too."""

    own_pool = True

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole

    def buffer(self, size: int, device: torch.device) -> torch.Tensor:
        return _pages(size)

    def start(self, pairs: list[Pair]) -> None:
        for storage, host in pairs:
            storage.resize_(host.numel())
            bytes_of(storage).copy_(host)

    def wait(self, copying: None) -> None:
        pass


class CudaCopier:
    """Copies on a separate CUDA stream.

    Its storages come from this stream's pool of memory. A copy waits for all kernels that were launched before it, so
    also for those that read the block whose memory it gets.
    """

    own_pool = True

    def __init__(self) -> None:
        self.stream: Any = torch.cuda.Stream()

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole

    def buffer(self, size: int, device: torch.device) -> torch.Tensor:
        buffer = _pages(size)
        # torch's own page-locked memory is rounded up to a power of two. Where locking fails, copies are slower.
        cudart = torch.cuda.cudart()
        if int(cudart.cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0)) == 0:
            weakref.finalize(buffer, cudart.cudaHostUnregister, buffer.data_ptr())
        return buffer

    def start(self, pairs: list[Pair]) -> Any:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for storage, host in pairs:
                storage.resize_(host.numel())
                bytes_of(storage).copy_(host, non_blocking=True)
        return self.stream.record_event()

    def wait(self, copying: Any) -> None:
        torch.cuda.current_stream().wait_event(copying)


class BlockStream:
    """The blocks of a decoder, in the order in which they compute.

    Args:
        copier: None: by the device of the blocks.
        smallest: bytes of the smallest tensor that leaves the card; None: `SMALLEST`.
    """

    def __init__(self, copier: Copier | None = None, smallest: int | None = None) -> None:
        self.copier: Any = copier
        self.smallest = SMALLEST if smallest is None else smallest
        self.blocks: list[_Block] = []
        self.copying: dict[int, Any] = {}  # blocks on the card; what their copies are waited for by, None when done
        self.last = 0

    @property
    def bytes(self) -> int:
        """Memory in which this process keeps the blocks."""
        return sum(host.numel() for block in self.blocks for _, host in block.pairs)

    def add(self, layer: Any) -> None:
        """Freezes the decoder's next block, and takes its weights off the card."""
        for parameter in layer.requires_grad_(False).parameters():
            if not parameter.untyped_storage().resizable():  # memory that numpy has seen
                parameter.data = parameter.data.clone()
        if self.copier is None:
            self.copier = CudaCopier() if next(layer.parameters()).is_cuda else CpuCopier()
        number = len(self.blocks)
        self.blocks.append(_Block(layer, self.smallest, self.copier))
        layer.register_forward_pre_hook(lambda *_: self.bring(number))
        layer.register_forward_hook(lambda *passed: self._bring_for_backward(number, passed[2]))

    def bring(self, number: int) -> None:
        """Brings a block's weights to the card and begins to copy the next block's; all other blocks leave the card."""
        following = self._following(number)
        for other in [n for n in self.copying if n not in (number, following)]:
            self._release(other)
        self._start(number)
        if self.copying[number] is not _DONE:
            self.copier.wait(self.copying[number])
            self.copying[number] = _DONE
        if following is not None:
            self._start(following)
        self.last = number

    @contextlib.contextmanager
    def rebuilding(self, number: int) -> Iterator[None]:
        """Context in which a block's weights are on the card and may be replaced by others."""
        block = self.blocks[number]
        for other, copying in list(self.copying.items()):
            if copying is not _DONE:
                self.copier.wait(copying)  # its buffer may be written below
                self.copying[other] = _DONE
            self._release(other)
        self.copier.wait(self.copier.start(block.pairs))
        try:
            yield
        finally:
            block.leave()

    def _following(self, number: int) -> int | None:
        """The block that computes after this one. At both ends the direction changes."""
        others = [n for n in self.copying if n != number]
        if number == self.last and others:
            return others[0]
        is_backward = number == len(self.blocks) - 1 or 0 < number < self.last
        following = number - 1 if is_backward else number + 1
        return following if 0 <= following < len(self.blocks) else None

    def _start(self, number: int) -> None:
        """Begins the copy of a block that is not on the card."""
        block = self.blocks[number]
        if number in self.copying:
            return
        try:
            self.copying[number] = self.copier.start(block.pairs)
        except torch.OutOfMemoryError:
            block.empty()  # also what was filled before memory ran out
            raise

    def _release(self, number: int) -> None:
        copying = self.copying.pop(number)
        if copying is not _DONE and not self.copier.own_pool:  # the main stream may use its memory again at once
            self.copier.wait(copying)
        self.blocks[number].empty()

    def _bring_for_backward(self, number: int, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self.bring(number))


_DONE = object()  # in place of a copy that has been waited for


class _Block:
    """A block's frozen storages and their bytes where they are kept."""

    def __init__(self, layer: Any, smallest: int, copier: Copier) -> None:
        self.layer, self.smallest, self.copier = layer, smallest, copier
        self.pairs: list[Pair] = []
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.leave()

    def leave(self) -> None:
        """Empties the storages, after their bytes were copied to the buffer if they are others than before."""
        storages = self._storages()
        if [s._cdata for s in storages] != [s._cdata for s, _ in self.pairs]:
            self.pairs = []
            places, size = [], 0
            parts = [self.copier.part(bytes_of(storage)) for storage in storages]
            for part in parts:
                places.append(size)
                size += -(-part.numel() // ALIGNMENT) * ALIGNMENT
            size += -size % PAGE
            if size != self.buffer.numel():  # layers that were stacked have the same bytes in all
                self.buffer = self.copier.buffer(size, next(self.layer.parameters()).device)
            for storage, part, start in zip(storages, parts, places, strict=True):
                kept = self.buffer[start : start + part.numel()]
                kept.copy_(part)
                self.pairs.append((storage, kept))
        self.empty()

    def empty(self) -> None:
        for storage, _ in self.pairs:
            storage.resize_(0)

    def _storages(self) -> list[Storage]:
        """Of the frozen weights, each once."""
        found: dict[int, Storage] = {}
        for module in self.layer.modules():
            for tensor in frozen_tensors(module):
                storage = tensor.untyped_storage()
                if storage.nbytes() >= self.smallest:
                    found.setdefault(storage._cdata, storage)
        return list(found.values())


def _pages(size: int) -> torch.Tensor:
    """A buffer in main memory that begins with a page: pages are locked whole, so no two buffers may share one."""
    whole = torch.empty(size + PAGE, dtype=torch.uint8)
    start = -whole.data_ptr() % PAGE
    return whole[start : start + size]


def frozen_tensors(module: Any) -> Iterator[torch.Tensor]:
    """A module's own parameters without gradients, and the scales of those that bitsandbytes quantised."""
    for parameter in module._parameters.values():
        if parameter is None or parameter.requires_grad:
            continue
        yield parameter
        state = getattr(parameter, "quant_state", None)
        inner = getattr(state, "state2", None)
        scales = (getattr(parameter, "CB", None), getattr(state, "absmax", None), getattr(inner, "absmax", None))
        yield from (scale for scale in scales if isinstance(scale, torch.Tensor))


def bytes_of(storage: Storage) -> torch.Tensor:
    """A storage as a tensor of its bytes, with a separate version counter: a copy into it is no change to autograd's
    saved tensors, since the bytes are those that were there before."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def stream_of(model: Any) -> BlockStream | None:
    """The stream that the blocks of a causal LM come through; None where they stay on the card."""
    stream: BlockStream | None = getattr(model, "block_stream", None)
    return stream
