"""Frozen blocks that live in main memory and are on the card only while they compute.

    main memory   [0] [1] [2] [3] ... [n-1]     one buffer a block, page-locked
                           |
    card               [1] [2]                  at most two blocks: 1 computes while 2 is copied

    forward   0 1 2 ... n-1,   backward   n-1 ... 1 0     the next one in either direction is copied ahead

A block is brought by a hook before its forward pass, and by one on its output's gradient before its backward pass, so
this serves packs as well as transformers' own layers, recomputed or not. What leaves the card is the memory behind its
tensors: their storages are emptied and filled again, as in PyTorch's FSDP. So all views of a weight stay valid, and
layers, adapters and kernels need not know.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

SMALLEST = 1 << 16  # bytes; smaller tensors, such as norms and code books, stay on the card
ALIGNMENT = 512  # bytes, of each tensor in a buffer
PAGE = 4096  # bytes of main memory
Storage = Any  # torch.UntypedStorage
Pair = tuple[Storage, torch.Tensor]  # on the card, and its bytes in main memory


class Copier(Protocol):
    """How blocks are copied to the device."""

    def lock(self, buffer: torch.Tensor) -> None:
        """Prepares a buffer in main memory for fast copies."""

    def start(self, pairs: list[Pair]) -> Any:
        """Fills the storages, which are empty, possibly later than this returns; returns what `wait` takes."""

    def wait(self, copying: Any) -> None:
        """Has all that is computed from now on wait for the copy."""


class CpuCopier:
    """Copies at once: the twin for tests, where the card is the CPU too."""

    def lock(self, buffer: torch.Tensor) -> None:
        pass

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

    def __init__(self) -> None:
        self.stream: Any = torch.cuda.Stream()

    def lock(self, buffer: torch.Tensor) -> None:
        # torch's own page-locked memory is rounded up to a power of two. Where locking fails, copies are slower.
        cudart = torch.cuda.cudart()
        if int(cudart.cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0)) == 0:
            weakref.finalize(buffer, cudart.cudaHostUnregister, buffer.data_ptr())

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
        self.copier, self.smallest = copier, SMALLEST if smallest is None else smallest
        self.blocks: list[_Block] = []
        self.copying: dict[int, Any] = {}  # blocks on the card; what their copies are waited for by, None when done
        self.last = 0

    @property
    def bytes(self) -> int:
        """Main memory that the blocks take."""
        return sum(host.numel() for block in self.blocks for _, host in block.pairs)

    def add(self, layer: Any) -> None:
        """Freezes the decoder's next block, and takes its weights off the card."""
        for parameter in layer.requires_grad_(False).parameters():
            if not parameter.untyped_storage().resizable():  # memory that numpy has seen
                parameter.data = parameter.data.clone()
        if self.copier is None:
            self.copier = CudaCopier() if next(layer.parameters()).is_cuda else CpuCopier()
        number = len(self.blocks)
        self.blocks.append(_Block(layer, self.smallest, self.copier.lock))
        layer.register_forward_pre_hook(lambda *_: self.bring(number))
        layer.register_forward_hook(lambda *passed: self._bring_for_backward(number, passed[2]))

    def bring(self, number: int) -> None:
        """Has a block's weights on the card, and the copy of the next one begun; no other block stays there."""
        assert self.copier is not None
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
        assert self.copier is not None
        for other, copying in list(self.copying.items()):
            if copying is not _DONE:
                self.copier.wait(copying)  # its buffer may be written below
            self._release(other)
        for storage, host in block.pairs:
            storage.resize_(host.numel())
            bytes_of(storage).copy_(host)
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
        assert self.copier is not None
        block = self.blocks[number]
        if number in self.copying:
            return
        try:
            self.copying[number] = self.copier.start(block.pairs)
        except torch.OutOfMemoryError:
            block.empty()  # also what was filled before memory ran out
            raise

    def _release(self, number: int) -> None:
        del self.copying[number]
        self.blocks[number].empty()

    def _bring_for_backward(self, number: int, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self.bring(number))


_DONE = object()  # in place of a copy that has been waited for


class _Block:
    """A block's frozen storages and their bytes in main memory."""

    def __init__(self, layer: Any, smallest: int, lock: Callable[[torch.Tensor], None]) -> None:
        self.layer, self.smallest, self.lock = layer, smallest, lock
        self.pairs: list[Pair] = []
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.leave()

    def leave(self) -> None:
        """Empties the storages, after their bytes were copied to main memory if they are others than before."""
        storages = self._storages()
        if [s._cdata for s in storages] != [s._cdata for s, _ in self.pairs]:
            self.pairs = []
            places, size = [], 0
            for storage in storages:
                places.append(size)
                size += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
            size += -size % PAGE
            if size != self.buffer.numel():  # layers that were stacked have the same bytes in all
                whole = torch.empty(size + PAGE, dtype=torch.uint8)
                start = -whole.data_ptr() % PAGE  # pages are locked whole, so no two buffers may share one
                self.buffer = whole[start : start + size]
                self.lock(self.buffer)
            for storage, start in zip(storages, places, strict=True):
                host = self.buffer[start : start + storage.nbytes()]
                host.copy_(bytes_of(storage))
                self.pairs.append((storage, host))
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
