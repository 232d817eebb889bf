"""CUDA graphs of whole passes: thousands of kernels are launched by one call instead of one by one.

    pack --padded to a GraphShape--> PackedBatch --copied into the graph's inputs--> replay --> loss, gradients

A graph replays its kernels on the same memory with the same shapes. So packs are padded to a few shapes, and pack,
dropout seed and adapter copies are where the graph was recorded with them. Padding is a segment that no row attends to
and entries of weight zero in it, so loss and gradients are those of the pack.

All graphs take their memory from one pool, and the first one is recorded for the largest pack that is expected: the
others then find room in what it used. Their gradients are written to the same tensors.

Each graph is compared with the same pass without it when it is recorded. If they differ, or memory runs out, the run
goes on without graphs and with the same results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.kernels.types import DropoutSeed
from pipeline.model.packed.batch import PackedBatch
from pipeline.model.packed.graph_shape import ShapeTable, pad
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Pack
from pipeline.run.errors import one_line
from pipeline.run.progress import say

MAX_GRAPHS = 32  # packs of further shapes go without a graph


def graph_inputs(batch: PackedBatch, seed: DropoutSeed | None) -> list[torch.Tensor]:
    """The tensors that differ between passes of one shape."""
    layout = batch.layout
    tensors = [batch.ids, batch.positions, layout.query_tiles, layout.preamble_tiles, layout.reductions]
    optional = (batch.entries, None if seed is None else seed.value)
    noise = (batch.noise.keys, batch.noise.scales) if batch.noise else ()
    tensors += [batch.kept_positions, batch.targets, batch.weights, *noise]
    return [*tensors, *(t for t in optional if t is not None)]


class Graph(Protocol):
    """What was recorded (`torch.cuda.CUDAGraph`)."""

    def replay(self) -> None: ...


@dataclass
class RecordedPass:
    """inputs: the tensors that the graph reads. loss, gradients: the tensors that it writes, the latter multiplied with
    `scale` unless that is None: in fp16 the whole backward pass must be scaled, and the graph reads the factor itself.
    """

    graph: Graph
    inputs: list[torch.Tensor]
    loss: torch.Tensor
    gradients: Sequence[torch.Tensor]
    scale: torch.Tensor | None = None

    def replay(self, batch: PackedBatch, seed: DropoutSeed | None) -> None:
        torch._foreach_copy_(self.inputs, graph_inputs(batch, seed))
        self.graph.replay()


class _ReplayedLoss(torch.autograd.Function):
    """The loss of a replayed graph. Its gradients exist already; the backward pass scales them."""

    @staticmethod
    def forward(ctx: Any, recorded: RecordedPass, *weights: torch.Tensor) -> torch.Tensor:
        ctx.recorded = recorded
        return recorded.loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        scale = ctx.recorded.scale
        return None, *torch._foreach_mul(ctx.recorded.gradients, grad if scale is None else grad / scale)


class CudaGraphs:
    """Passes of a packed model, one graph for each shape.

    Args:
        weights: the trained ones; each must get a gradient from every pack.
        sample: see `ShapeTable.of`.
        largest: tokens of the largest pack that is expected, for which the first graph is recorded; 0: none is.

    Attributes:
        gradients: of the weights, written by every graph.
        disabled_because: why recording failed or was given up; empty if it was not.
    """

    def __init__(
        self, model: PackedModel, weights: Sequence[torch.Tensor], sample: Sequence[Pack], largest: int = 0
    ) -> None:
        self.model, self.weights, self.shapes = model, list(weights), ShapeTable.of(sample)
        self.first, self.largest = sample[0], largest
        self.recorded: dict[tuple[int, ...], RecordedPass] = {}
        self.gradients: list[torch.Tensor] = []
        self.pool: Any = None
        self.stream: Any = None  # a single one: each new stream takes 32 MiB of cuBLAS workspace for good
        self.disabled_because = ""

    def prepare(self, pack: Pack, least: int = 0) -> PackedBatch:
        """As `PackedModel.prepare`, padded. least: see `ShapeTable.shape_for`."""
        shape, model = self.shapes.shape_for(pack, least), self.model
        size = shape.layout_size(pack)
        return PackedBatch.of(pad(pack, shape), model.device, model.plain_attention, size, shape.kept_positions)

    def needs_recording(self, batch: PackedBatch) -> bool:
        """Whether `loss_sum` would record a new graph."""
        has_dropout = any(linear.has_dropout for linear in self.model.linears)
        is_new = self._key(batch, has_dropout) not in self.recorded
        return is_new and not self.disabled_because and len(self.recorded) < MAX_GRAPHS

    def loss_sum(self, batch: PackedBatch) -> torch.Tensor:
        """As `PackedModel.loss_sum`."""
        seed = self.model.draw_seed()
        key = self._key(batch, seed is not None)
        if self.needs_recording(batch):
            try:
                if self.largest and not self.recorded and not batch.noise:
                    largest = self.prepare(self.first, self.largest)
                    self.recorded[self._key(largest, seed is not None)] = self._record(largest, seed)
                if key not in self.recorded:
                    self.recorded[key] = self._record(batch, seed)
            except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                self.give_up(one_line(error, 200))
        recorded = self.recorded.get(key)
        if recorded is None:
            return self.model.loss_sum(batch, seed)
        recorded.replay(batch, seed)
        loss: torch.Tensor = _ReplayedLoss.apply(recorded, *self.weights)
        return loss

    def give_up(self, reason: str) -> None:
        """Goes on without graphs, whose memory is free then; results stay the same."""
        self.recorded.clear()
        self.gradients = []
        self.disabled_because = reason
        torch.cuda.empty_cache()
        say(f"train: going on without CUDA graphs: {reason}")

    @staticmethod
    def _key(batch: PackedBatch, has_dropout: bool) -> tuple[int, ...]:
        return (*(t.numel() for t in graph_inputs(batch, None)), batch.layout.partial_sums, has_dropout)

    def _pass(self, batch: PackedBatch, seed: DropoutSeed | None) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """The loss, a scalar, and the weights' gradients, multiplied with the model's `gradient_scale` if it has one.

        The gradients flow to fresh leaves: autograd ties the weights themselves to the stream on which they last got a
        gradient, and a graph that waits for another stream cannot be recorded.
        """
        leaves = [weight.detach().requires_grad_() for weight in self.weights]
        with self.model.gradients_to(self.weights, leaves):
            loss = self.model.loss_sum(batch, seed)
        return loss.detach(), torch.autograd.grad(loss, leaves, self.model.gradient_scale)

    def _record(self, batch: PackedBatch, seed: DropoutSeed | None) -> RecordedPass:
        """Raises RuntimeError if a replay differs from the pass without a graph."""
        loss = torch.zeros((), dtype=torch.float32, device=self.model.device)
        self.gradients = self.gradients or [torch.empty_like(weight) for weight in self.weights]

        def run() -> None:
            value, gradients = self._pass(batch, seed)
            loss.copy_(value)
            torch._foreach_copy_(self.gradients, list(gradients))

        self._run_once(run)
        expected = [tensor.clone() for tensor in (loss, *self.gradients)]
        graph = self._capture(run)
        graph.replay()
        pairs = zip([loss, *self.gradients], expected, strict=True)
        difference = float(np.max([_relative_difference(a, b) for a, b in pairs]))
        if not difference <= 1e-6:
            raise RuntimeError(f"a graph's gradients are {difference:.1e} off those without it")
        return RecordedPass(graph, graph_inputs(batch, seed), loss, self.gradients, self.model.gradient_scale)

    def _run_once(self, run: Callable[[], None]) -> None:
        """On the stream of the graphs: compiles and selects kernels before they are recorded.

        Raises:
            RuntimeError: a model's own layers wait for the card. Recording them would fail, and leave torch's allocator
                in the state of a recording.
        """
        current = torch.cuda.current_stream()
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            run()
            if not self.model.blocks and not self.recorded:
                with _without_waiting():
                    run()
        current.wait_stream(self.stream)

    def _capture(self, run: Callable[[], None]) -> Graph:
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph: Any = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                run()
        finally:
            torch.cuda.set_stream(current)  # torch leaves the other one after a failure
        return graph


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """Context in which operations of torch that wait for the card raise RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """|ours - theirs| / |theirs|. Where a scaled gradient overflows, as it may in fp16, both must, and the other
    numbers are compared."""
    both = ~(torch.isfinite(ours) | torch.isfinite(theirs))
    ours, theirs = ours.masked_fill(both, 0), theirs.masked_fill(both, 0)
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))
