"""CUDA graphs of whole passes: a small model's thousands of kernels are started by one call instead of one by one.

A graph repeats its kernels on the same memory with the same shapes. So packs are padded to a few forms; the pack, the
seed of the dropout and the adapters' copies lie where the graph found them. What is added is a segment that nobody
attends to, and entries of weight zero in it: loss and gradients are those of the pack.

Each graph is compared with the same pass without it when it is made. Where that fails, or memory runs out, passes go on
without graphs and with the same results.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.kernels.attention import TILE, Room, blocks_of, pieces_at_most
from pipeline.kernels.lora import Seed
from pipeline.model.fast import Fast
from pipeline.model.ready import Ready
from pipeline.progress import say
from pipeline.prompt.pack import Pack

MOST = 32  # graphs; further forms go without
STEP = 1.08  # from one form to the next larger one, but at least `TILE` tokens: small passes take the same time anyway
FIRST = 8  # packs that say what forms have for each token


class Form(NamedTuple):
    """How many there are of what differs from pack to pack."""

    tokens: int
    entries: int
    kept: int
    blocks: int

    @classmethod
    def of(cls, pack: Pack) -> Form:
        """What the pack has, and one token more, that no row has."""
        blocks, kept = len(blocks_of(pack)) + 1, len(np.unique(pack.where)) + 1
        return cls(len(pack.ids) + 1, len(pack.where) + 1, kept, blocks)

    def room(self, pack: Pack) -> Room:
        """Of the layout. What preambles take follows from their lengths, which no form pads, and from `tokens`: two
        packs with the same preambles share it, and no pack is larger because others have more preambles."""
        return Room(self.blocks, *pieces_at_most(pack, self.tokens))


@dataclass(frozen=True)
class Forms:
    """The forms of a run: their tokens are `_sizes`, of all else they have so much for each token.

    One number decides all four, or the forms that a run meets would be too many. The shares are the largest of several
    packs: what a form has too many of beside its tokens costs less than tokens that it needs only to have enough of it.
    """

    entries: float
    kept: float
    blocks: float

    @classmethod
    def of(cls, packs: Sequence[Pack]) -> Forms:
        """packs: some that are like those of the run; more than `FIRST` are not looked at."""
        sizes = np.array([Form.of(pack) for pack in packs[:FIRST]], np.float64)
        return cls(*(sizes[:, 1:] / sizes[:, :1]).max(axis=0).tolist())

    def for_(self, pack: Pack) -> Form:
        """The smallest form into which the pack fits, with the blocks of the segment that fills it. Where even three
        sizes more do not do, since the pack is unlike those of `of`, it has twice as much for each token, or more."""
        needs = Form.of(pack)
        sizes = _sizes(needs.tokens)
        for times in itertools.count():
            for tokens in sizes:
                found = Form(tokens, *(math.ceil(tokens * share) << times for share in dataclasses.astuple(self)))
                filled = needs._replace(blocks=needs.blocks - 1 - (len(pack.ids) - tokens) // TILE)
                if all(need <= size for need, size in zip(filled, found, strict=True)):
                    return found
        raise AssertionError("powers of two have no end")


def _sizes(tokens: int) -> list[int]:
    """The three smallest that are no less."""
    sizes = [TILE]
    while len(sizes) < 3 or sizes[-3] < tokens:
        sizes.append(max(sizes[-1] + TILE, math.ceil(sizes[-1] * STEP)))
    return sizes[-3:]


def padded(pack: Pack, form: Form) -> Pack:
    """The pack with one more segment and with entries of weight zero in it, as large as its form."""
    count, entries = len(pack.ids), form.entries - len(pack.where)
    more = form.tokens - count
    return dataclasses.replace(
        pack,
        ids=np.concatenate([pack.ids, np.zeros(more, np.int64)]),
        # No further than the rows: some rotations depend on the last position there is.
        positions=np.concatenate([pack.positions, np.zeros(more, np.int64)]),
        starts=np.concatenate([pack.starts, [form.tokens]]),
        # All at one place that no row has: what flows back to it is zero, whichever of them is written last.
        where=np.concatenate([pack.where, np.full(entries, form.tokens - 1)]),
        targets=np.concatenate([pack.targets, np.zeros(entries, np.int64)]),
        weights=np.concatenate([pack.weights, np.zeros(entries, np.float32)]),
    )


def inputs(ready: Ready, seed: Seed | None) -> list[torch.Tensor]:
    """All that differs between passes of one form."""
    layout = ready.layout
    held = [ready.ids, ready.positions, layout.blocks, layout.pieces, layout.folds, ready.kept, ready.targets]
    held += [t for t in (ready.weights, ready.entries, None if seed is None else seed.value) if t is not None]
    return held


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
        first: the first packs, see `Forms.of`.
    """

    def __init__(self, fast: Fast, weights: Sequence[torch.Tensor], first: Sequence[Pack]) -> None:
        self.fast, self.weights, self.forms = fast, list(weights), Forms.of(first)
        self.made: dict[tuple[int, ...], Graph] = {}
        self.pool: Any = None
        self.aside: Any = None  # one stream for all: each new one gets 32 MiB of cuBLAS for good
        self.why = ""

    def ready(self, pack: Pack) -> Ready:
        """As `Fast.ready`, padded."""
        form = self.forms.for_(pack)
        return Ready.of(padded(pack, form), self.fast.device, self.fast.plain, form.room(pack), form.kept)

    def known(self, ready: Ready) -> bool:
        """Whether a pass would make no new graph."""
        drops = any(linear.drops for linear in self.fast.linears)
        return bool(self.why) or self._form(ready, drops) in self.made or len(self.made) >= MOST

    def loss_sum(self, ready: Ready) -> torch.Tensor:
        """As `Fast.loss_sum`."""
        seed = self.fast.seed()
        key = self._form(ready, seed is not None)
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
    def _form(ready: Ready, drops: bool) -> tuple[int, ...]:
        return (*(t.numel() for t in inputs(ready, None)), ready.layout.lines, drops)

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
