"""The two ways from rows to a loss: padded rows through the model itself, and packs through our kernels.

    rows of a step --split--> micro-batches --loss--> sum of -log p over the labelled tokens of each

Both give the same loss and gradients up to rounding. `fast_path.py` chooses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from pipeline.kernels.deterministic import deterministic
from pipeline.model.loss import loss_sum
from pipeline.model.packed.batch import PackedBatch
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import PaddedBatch, batches, micro_rows
from pipeline.prompt.pack import Packer
from pipeline.prompt.token_noise import RowNoise
from pipeline.prompt.tokens import Tokens

MicroBatch = PaddedBatch | PackedBatch  # what goes through the model at once


class PaddedMicroBatches:
    """Padded rows through the model's own forward, under autocast.

    Attributes:
        micro_tokens: most tokens in a micro-batch, padding included. noise: on the embeddings of a step's rows.
        is_deterministic: whether all operations have deterministic algorithms on this device.
    """

    name = "plain"
    recompute, has_graphs = False, None

    def __init__(
        self, model: Any, tokens: Tokens, accelerator: Any, micro_tokens: int, noise: RowNoise | None = None
    ) -> None:
        self.model, self.tokens, self.accelerator, self.micro_tokens = model, tokens, accelerator, micro_tokens
        self.noise, self.is_deterministic = noise, False

    @property
    def costs(self) -> np.ndarray:
        """Tokens that are computed for each row of the data when it is alone, shape (rows,)."""
        return self.tokens.lengths

    def split(self, rows: Sequence[int], step: int | None = None) -> Sequence[MicroBatch]:
        """Some rows as micro-batches. step: that they are of; None for checks, which have no noise on embeddings."""
        noise = None if step is None else self.noise
        return list(batches(self.tokens, rows, self.micro_tokens, noise, step or 0))

    def count(self, rows: Sequence[int]) -> int:
        """Number of micro-batches that `split` makes of rows."""
        return len(micro_rows([int(self.tokens.lengths[i]) for i in rows], self.micro_tokens))

    def loss(self, micro_batch: Any) -> torch.Tensor:
        """Sum of -log p over the labelled tokens of a micro-batch."""
        with self.accelerator.autocast():
            return loss_sum(self.model, micro_batch)

    def deterministic(self) -> AbstractContextManager[None]:
        """Context of the steps of a run: deterministic where torch supports it."""
        return deterministic(strict=self.is_deterministic)

    def prefetch(self, rows: Sequence[int], step: int | None = None) -> None:
        """Padding is cheap: nothing is prepared ahead."""

    def after_step(self) -> None:
        """The model computes with the trained weights themselves."""


class PackedMicroBatches:
    """Packs through a `PackedModel`.

    On a GPU a thread prepares the packs of the next step while this one computes. On a CPU there is no spare core for
    it, and OpenMP's threads would not survive a fork of this process.

    Attributes:
        micro_tokens: most tokens in a pack. offload: whether what blocks keep is moved to the computer's memory.
        graphs: CUDA graphs of whole passes, None without. has_graphs: the decision for them, which a resumed run keeps;
            None where there was none. noise: on the embeddings of a step's rows; there are no
            preambles then, since each row needs its own.
    """

    name = "fast"

    def __init__(
        self, fast: PackedModel, tokens: Tokens, preambles: Sequence[Sequence[int]], micro_tokens: int,
        noise: RowNoise | None = None,
    ) -> None:  # fmt: skip
        self.fast, self.tokens, self.noise = fast, tokens, noise
        # By default a thread uses the first card, where every rank would allocate memory.
        use_card = {"initializer": torch.cuda.set_device, "initargs": (fast.device,)}
        self.thread = ThreadPoolExecutor(1, **use_card) if fast.device.type == "cuda" else None
        self.next: tuple[tuple[list[int], int | None, int], Future[list[PackedBatch]]] | None = None
        self.graphs: CudaGraphs | None = None
        self.has_graphs: bool | None = None
        self.packer = Packer(tokens, [] if noise else preambles, micro_tokens)
        self.offload = self.is_deterministic = False

    @property
    def recompute(self) -> bool:
        """Whether blocks keep less and are recomputed in the backward pass."""
        return self.fast.recompute

    def start_recompute(self) -> bool:
        """Has blocks recomputed from now on; False if they are already or cannot be."""
        if self.fast.recompute or not self.fast.can_recompute:
            return False
        self.graphs, self.has_graphs = None, False  # they were recorded without recomputation
        self.fast.recompute = True
        return True

    def largest_step(self, batch_size: int, world: int) -> int:
        """About the most tokens that a rank computes in a step: the mean of its rows plus three standard deviations."""
        own = self.tokens.lengths - self.packer.shared
        rows = -(-batch_size // world)
        preambles = sum(map(len, self.packer.preambles))
        return preambles + int(min(rows, len(own)) * own.mean() + 3 * rows**0.5 * own.std()) + 1

    @property
    def costs(self) -> np.ndarray:
        """As `PaddedMicroBatches.costs`: without the preamble, which a pack computes once."""
        return self.tokens.lengths - self.packer.shared

    @property
    def micro_tokens(self) -> int:
        return self.packer.capacity

    @micro_tokens.setter
    def micro_tokens(self, value: int) -> None:
        self.packer.capacity = value

    def split(self, rows: Sequence[int], step: int | None = None) -> Sequence[MicroBatch]:
        """As `PaddedMicroBatches.split`."""
        prefetched, self.next = self.next, None
        if prefetched is not None and prefetched[0] == (list(rows), step, self.micro_tokens):
            return prefetched[1].result()
        return self._prepare(rows, step)

    def count(self, rows: Sequence[int]) -> int:
        """As `PaddedMicroBatches.count`."""
        return len(self.packer.bins(rows))

    def _prepare(self, rows: Sequence[int], step: int | None) -> list[PackedBatch]:
        prepare = self.graphs.prepare if self.graphs else self.fast.prepare
        if step is None or self.noise is None:
            return [prepare(pack) for pack in self.packer.packs(rows)]
        prepared = []
        for members in self.packer.bins(rows):  # without preambles a pack keeps their order
            batch = prepare(self.packer.pack(members))
            lengths = self.tokens.lengths[members].tolist()
            prepared.append(batch.with_noise(self.noise.of_pack(members, lengths, step, batch.ids.shape[1])))
        return prepared

    def loss(self, micro_batch: Any) -> torch.Tensor:
        """As `PaddedMicroBatches.loss`."""
        if self.offload:
            with torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()):
                return self.fast.loss_sum(micro_batch)
        if self.graphs is None:
            return self.fast.loss_sum(micro_batch)
        if self.next is not None and self.graphs.needs_recording(micro_batch):
            self.next[1].result()  # no other thread may use the card while a graph is recorded
        return self.graphs.loss_sum(micro_batch)

    def deterministic(self) -> AbstractContextManager[None]:
        """As `PaddedMicroBatches.deterministic`.

        Our kernels are deterministic without torch's flag. Plain attention (on CPUs, and in float32 on CUDA) adds
        gradients by index, and is deterministic only with it.
        """
        only_kernels = self.fast.uses_kernels and not self.fast.plain_attention
        return deterministic(not only_kernels, strict=self.is_deterministic)

    def prefetch(self, rows: Sequence[int], step: int | None = None) -> None:
        """Starts to prepare the packs of the next step."""
        if self.thread is not None:
            self.next = (list(rows), step, self.micro_tokens), self.thread.submit(self._prepare, rows, step)

    def after_step(self) -> None:
        """Copies the trained weights to where the kernels read them."""
        self.fast.refresh()


MicroBatches = PaddedMicroBatches | PackedMicroBatches
