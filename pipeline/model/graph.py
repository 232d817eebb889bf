"""CUDA graphs of whole passes: a small model's thousands of kernels are started by one call instead of one by one.

A graph repeats its kernels on the same memory with the same shapes. So packs are padded to a few forms; the pack, the
seed of the dropout and the adapters' copies lie where the graph found them. What is added is a few segments that nobody
attends to, and entries of weight zero: loss and gradients are those of the pack.

Each graph is compared with the same pass without it when it is made. Where that fails, or memory runs out, passes go on
without graphs and with the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.kernels.lora import Seed
from pipeline.model.fast import Fast, Ready
from pipeline.progress import say
from pipeline.prompt.pack import Pack

MOST = 32  # graphs; further forms go without
Form = tuple[int, int, int]


def up(count: int, least: int = 8) -> int:
    """The next of the sizes that packs are padded to: at most an eighth more, in steps of `least` at least."""
    step = max(least, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def padded(pack: Pack, longest: int) -> Pack:
    """The pack with more tokens, segments and entries, so that few forms stand for all.

    longest: tokens that a segment may have. The pack must have no preambles.
    """
    assert not pack.preambles
    count, rows, entries = len(pack.ids), len(pack.starts) - 1, len(pack.where)
    segments = up(rows + 1)
    size = up(count + segments - rows, 128)
    while size - count > (segments - rows) * longest:
        segments = up(segments + 1)
        size = up(count + segments - rows, 128)
    sizes = np.diff(np.linspace(count, size, segments - rows + 1).astype(np.int64))
    more = up(entries + 1, 64) - entries
    return Pack(
        ids=np.concatenate([pack.ids, np.zeros(size - count, np.int64)]),
        positions=np.concatenate([pack.positions, *(np.arange(n) for n in sizes)]),
        starts=np.concatenate([pack.starts, count + np.cumsum(sizes)]),
        preambles=0,
        groups=np.array([0]),
        # All at one place that no row has: what flows back to it is zero, whichever of them is written last.
        where=np.concatenate([pack.where, np.full(more, size - 1)]),
        targets=np.concatenate([pack.targets, np.zeros(more, np.int64)]),
        weights=np.concatenate([pack.weights, np.zeros(more, np.float32)]),
        rows=pack.rows,
        original=pack.original,
    )


def inputs(ready: Ready, seed: Seed | None) -> list[torch.Tensor]:
    """All that differs between passes of one form."""
    held = [ready.ids, ready.positions, ready.layout.starts, ready.kept, ready.targets, ready.weights]
    return held if seed is None else [*held, seed.value]


@dataclass
class Graph:
    """held: where the graph reads its pack; loss, grads: where it leaves what it found."""

    graph: Any
    held: list[torch.Tensor]
    loss: torch.Tensor
    grads: Sequence[torch.Tensor]

    def run(self, ready: Ready, seed: Seed | None) -> None:
        torch._foreach_copy_(self.held, inputs(ready, seed))
        self.graph.replay()


class _Replay(torch.autograd.Function):
    """The loss of a graph. Its gradients are there already; what comes back scales them."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, *weights: torch.Tensor) -> torch.Tensor:
        ctx.graph = graph
        return graph.loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return None, *torch._foreach_mul(ctx.graph.grads, grad)


class Graphs:
    """Passes of `fast` over padded packs, one graph for each form.

    Args:
        weights: what is trained; each must get a gradient from every pack.
        longest: tokens of the longest row.
    """

    def __init__(self, fast: Fast, weights: Sequence[torch.Tensor], longest: int) -> None:
        self.fast, self.weights, self.longest = fast, list(weights), longest
        self.made: dict[tuple[Form, bool], Graph] = {}
        self.pool: Any = None
        self.aside: Any = None  # one stream for all: each new one gets 32 MiB of cuBLAS for good
        self.why = ""

    def ready(self, pack: Pack) -> Ready:
        """As `Fast.ready`, padded."""
        return Ready.of(padded(pack, self.longest), self.fast.device, self.fast.plain, self.longest)

    def known(self, ready: Ready) -> bool:
        """Whether a pass would make no new graph."""
        drops = any(linear.drops for linear in self.fast.linears)
        return bool(self.why) or (self._form(ready), drops) in self.made or len(self.made) >= MOST

    def loss_sum(self, ready: Ready) -> torch.Tensor:
        """As `Fast.loss_sum`."""
        seed = self.fast.seed()
        key = self._form(ready), seed is not None
        if not self.known(ready):
            try:
                self.made[key] = self._make(ready, seed)
            except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                self.made.clear()
                self.why = " ".join(str(error).split())[:200]
                torch.cuda.empty_cache()
                say(f"train: no CUDA graphs from here on: {self.why}")
        graph = self.made.get(key)
        if graph is None:
            return self.fast.loss_sum(ready, seed)
        graph.run(ready, seed)
        found: torch.Tensor = _Replay.apply(graph, *self.weights)
        return found

    @staticmethod
    def _form(ready: Ready) -> Form:
        return ready.ids.shape[1], len(ready.targets), len(ready.layout.starts)

    def _pass(self, ready: Ready, seed: Seed | None) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """The loss, a scalar, and the weights' gradients.

        Gradients flow to fresh leaves: autograd ties the weights themselves to the stream on which they last got one,
        and a graph that had to wait for that stream could not be recorded.
        """
        leaves = [weight.detach().requires_grad_() for weight in self.weights]
        with self.fast.trains(self.weights, leaves):
            loss = self.fast.loss_sum(ready, seed)
        return loss.detach(), torch.autograd.grad(loss, leaves)

    def _make(self, ready: Ready, seed: Seed | None) -> Graph:
        """Raises RuntimeError where the graph finds something else than the pass without it."""
        here = torch.cuda.current_stream()
        self.aside = self.aside or torch.cuda.Stream()
        self.aside.wait_stream(here)
        with torch.cuda.stream(self.aside):  # kernels are compiled and chosen before a graph sees them
            loss, grads = self._pass(ready, seed)
            wanted = [loss.clone(), *(grad.clone() for grad in grads)]
            del loss, grads
        here.wait_stream(self.aside)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.aside):
            loss, grads = self._pass(ready, seed)
        made = Graph(graph, inputs(ready, seed), loss, grads)
        graph.replay()
        apart = [float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip([loss, *grads], wanted, strict=True)]
        if not max(apart) <= 1e-6:
            raise RuntimeError(f"a graph's gradients are {max(apart):.1e} off those without it")
        return made
