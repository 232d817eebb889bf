"""How the rows of a step go through the model: as packs through our kernels, or padded through transformers and peft.

Both give the same loss and gradients up to rounding; `train.fast` chooses. What goes through at once is a `Part`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.kernels.deterministic import deterministic
from pipeline.model.loss import loss_sum
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import batches
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens


@dataclass(frozen=True)
class Part:
    """Some rows on their way through the model: a `Batch`, or a `PackedBatch`."""

    held: Any


class Plain:
    """Padded rows, the model's own forward under autocast."""

    name = "plain"
    recompute = False

    def __init__(self, model: Any, tokens: Tokens, accelerator: Any, micro_tokens: int) -> None:
        self.model, self.tokens, self.accelerator, self.micro_tokens = model, tokens, accelerator, micro_tokens
        self.strict = False

    def parts(self, rows: Sequence[int]) -> list[Part]:
        """The rows of a step, cut to what fits at once."""
        return [Part(batch) for batch in batches(self.tokens, rows, self.micro_tokens)]

    def loss(self, part: Part) -> torch.Tensor:
        """Sum of -log p over the labelled tokens of the part."""
        with self.accelerator.autocast():
            return loss_sum(self.model, part.held)

    def in_order(self) -> AbstractContextManager[None]:
        """For the steps of a run: the same bits from every run, wherever torch can."""
        return deterministic(strict=self.strict)

    def ahead(self, rows: Sequence[int]) -> None:
        """Nothing to prepare."""

    def updated(self) -> None:
        """Nothing holds copies of the trained weights."""


class Packed:
    """Packs through `PackedModel`. On a GPU those of the next step are made by a thread while this one computes; a CPU
    has no core to spare for that, and OpenMP's threads would not survive a fork of this process."""

    name = "fast"

    def __init__(self, fast: PackedModel, tokens: Tokens, leading: Sequence[Sequence[int]], micro_tokens: int) -> None:
        self.fast, self.tokens = fast, tokens
        gpu = fast.device.type == "cuda"
        # A thread begins on the first card, where every rank would leave its traces.
        where = {"initializer": torch.cuda.set_device, "initargs": (fast.device,)}
        self.thread = ThreadPoolExecutor(1, **where) if gpu else None
        self.next: tuple[list[int], int, Future[list[Part]]] | None = None
        self.graphs: CudaGraphs | None = None
        self.packer = Packer(tokens, leading, micro_tokens)
        self.offload = self.strict = False

    @property
    def recompute(self) -> bool:
        """Whether blocks keep less and compute again."""
        return self.fast.recompute

    def keeps_less(self) -> bool:
        """Has blocks computed again from now on; False where they are already, or cannot be."""
        if self.fast.recompute or not self.fast.can_recompute:
            return False
        self.graphs, self.fast.recompute = None, True  # graphs would keep what they were recorded with
        return True

    def largest_step(self, batch_size: int, world: int) -> int:
        """About the most tokens that a rank computes in a step: the mean of the rows' own, and three deviations."""
        own = self.tokens.lengths - self.packer.shared
        rows = -(-batch_size // world)
        preambles = sum(map(len, self.packer.preambles))
        return preambles + int(min(rows, len(own)) * own.mean() + 3 * rows**0.5 * own.std()) + 1

    @property
    def micro_tokens(self) -> int:
        return self.packer.capacity

    @micro_tokens.setter
    def micro_tokens(self, value: int) -> None:
        self.packer.capacity = value

    def parts(self, rows: Sequence[int]) -> list[Part]:
        """As `Plain.parts`."""
        found, self.next = self.next, None
        if found is not None and found[:2] == (list(rows), self.micro_tokens):
            return found[2].result()
        return self._made(rows)

    def _made(self, rows: Sequence[int]) -> list[Part]:
        prepare = self.graphs.prepare if self.graphs else self.fast.prepare
        return [Part(prepare(pack)) for pack in self.packer.packs(rows)]

    def loss(self, part: Part) -> torch.Tensor:
        """As `Plain.loss`."""
        if self.offload:
            with torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()):
                return self.fast.loss_sum(part.held)
        if self.graphs is None:
            return self.fast.loss_sum(part.held)
        if self.next is not None and self.graphs.needs_recording(part.held):
            self.next[2].result()  # nobody else may use the card while a graph is recorded
        return self.graphs.loss_sum(part.held)

    def in_order(self) -> AbstractContextManager[None]:
        """As `Plain.in_order`; on CUDA our kernels need no flag."""
        ours = self.fast.uses_kernels and self.fast.device.type == "cuda"
        return deterministic(not ours, strict=self.strict)

    def ahead(self, rows: Sequence[int]) -> None:
        """Begins to make the parts that are asked for next."""
        if self.thread is not None:
            self.next = (list(rows), self.micro_tokens, self.thread.submit(self._made, rows))

    def updated(self) -> None:
        """The kernels' copies of the adapters follow the optimiser."""
        self.fast.refresh()
