"""CUDA graphs of a step: hundreds of kernels are launched by one call.

    step of n rows ─padded to (rows, columns)─> ids, positions, adapters copied into the graph's inputs ─> replay

A graph replays its kernels on the same memory with the same shapes, so rows are padded to powers of two and columns to
the cache's steps. A padding row writes into the last column, which no answer uses. Graphs are dropped when the cache
grows. A graph is compared with the same step without it when it is recorded; where they differ by more than such steps
differ among themselves, or recording fails, the engine goes on without graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.run.errors import one_line
from pipeline.run.progress import say
from pipeline.serving.engine.decoder import Decoder
from pipeline.serving.engine.mixed_linear import RowAdapters
from pipeline.serving.engine.slot_cache import rounded, rounded_rows

MOST_GRAPHS = 64  # steps of further shapes go without
PLAIN = 3  # steps without a graph that it is compared with; they also warm up
USES = 2  # a shape is recorded when it comes the second time


@dataclass
class _Graph:
    """ids, positions: (rows, 1). mask: of the adapters. logits: (rows, vocabulary), overwritten by each replay."""

    graph: Any
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    logits: torch.Tensor


class StepGraphs:
    """Steps of a decoder on a card, from graphs where there are some."""

    def __init__(self, decoder: Decoder, adapters: RowAdapters | None) -> None:
        self.decoder, self.adapters = decoder, adapters
        self.is_on = decoder.device.type == "cuda"
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._uses: Counter[tuple[int, int]] = Counter()
        self._version = -1
        self._pool: Any = None

    def step(self, ids: Sequence[int], lengths: Sequence[int], adapters: Sequence[int | None]) -> torch.Tensor:
        """As `Decoder.step`; logits are valid until the next step. adapters: of each row."""
        cache = self.decoder.cache
        if self._version != cache.version:
            self._graphs.clear()
            self._pool = None  # torch frees it with its last graph
            self._version = cache.version
        shape = (rounded_rows(len(ids)), rounded(max(lengths) + 2))
        if self.is_on and shape not in self._graphs and len(self._graphs) < MOST_GRAPHS:
            self._uses[shape] += 1
            if self._uses[shape] >= USES:
                self._record(shape, ids, lengths, adapters)
        if not self.is_on or shape not in self._graphs:
            if self.adapters is not None:
                self.adapters.select(adapters)
            return self.decoder.step(ids, lengths)
        graph = self._graphs[shape]
        self._fill(graph, ids, lengths, adapters)
        graph.graph.replay()
        return graph.logits[: len(ids)]

    def _fill(self, graph: _Graph, ids: Sequence[int], lengths: Sequence[int], adapters: Sequence[int | None]) -> None:
        padding = len(graph.ids) - len(ids)
        last = self.decoder.cache.columns - 1
        inputs = torch.tensor([[*ids, *[0] * padding], [*lengths, *[last] * padding]], device=self.decoder.device)
        graph.ids.copy_(inputs[0][:, None])
        graph.positions.copy_(inputs[1][:, None])
        if graph.mask is not None and self.adapters is not None:
            graph.mask.copy_(self.adapters.mask_of([*adapters, *[None] * padding]))

    def _record(
        self, shape: tuple[int, int], ids: Sequence[int], lengths: Sequence[int], adapters: Sequence[int | None]
    ) -> None:
        device, (rows, columns) = self.decoder.device, shape
        inputs = torch.zeros(2, rows, 1, dtype=torch.long, device=device)
        mask = None if self.adapters is None else self.adapters.mask_of([None] * rows)
        graph = _Graph(torch.cuda.CUDAGraph(), inputs[0], inputs[1], mask, inputs)
        self._fill(graph, ids, lengths, adapters)
        if mask is not None and self.adapters is not None:
            self.adapters.select_all(mask)
        try:
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                plain = [self.decoder.step_on(graph.ids, graph.positions, columns).clone() for _ in range(PLAIN)]
            torch.cuda.current_stream(device).wait_stream(stream)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph.graph, pool=self._pool, capture_error_mode="thread_local"):
                graph.logits = self.decoder.step_on(graph.ids, graph.positions, columns)
            graph.graph.replay()
            ours, theirs = graph.logits[: len(ids)].float(), torch.stack(plain)[:, : len(ids)].float()
            problem = "" if _is_close(ours, theirs) else "its logits differ"
        except RuntimeError as error:  # out of memory, or an operation that a graph cannot hold
            problem = one_line(error, 120)
        if problem:
            self.is_on = False
            self._graphs.clear()
            torch.cuda.synchronize(device)
            say(f"serve: without CUDA graphs: {problem}")
            return
        self._graphs[shape] = graph


def _is_close(ours: torch.Tensor, plain: torch.Tensor) -> bool:
    """Whether a graph's logits are among those of steps without it.

    In bf16 a library may add in another order each time, so such steps differ among themselves. Rows that are not
    finite count as equal: they are an error of the request.

    Args:
        ours: (rows, vocabulary). plain: (steps, rows, vocabulary).
    """
    good = torch.isfinite(plain).all(dim=(0, 2))
    ours, plain = ours[good], plain[:, good]
    if not ours.numel():
        return True
    spread = (plain - plain[0]).abs().max()
    allowed = 1e-2 + 1e-2 * plain[0].abs() + 2 * spread
    return bool(((ours - plain[0]).abs() <= allowed).all())
