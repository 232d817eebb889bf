"""Whether a pass waits for the host to start its kernels: measured before the first step.

    host    time to start all kernels of a pass, by a pass over a few short rows: the same kernels on little data, so
            that the card is never waited for
    card    time of a pass of this run until the card is done; of one that waits for the host it is the host's time

The large pass does not show the host's time: a card queues about a thousand kernels, and a host that is further ahead
has to wait, which looks like time spent on starting kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.prompt.pack import Pack
from pipeline.training.micro_batches import PackedMicroBatches

PASSES = 3  # of which the fastest counts: the first one compiles kernels
ENOUGH = 1.0  # seconds after which two passes do
SHARE = 0.8  # of the card's time; a host that needs more is waited for
SMALL_ROWS = 4  # in the pass for the host's time: preambles are shared, so all kernels of a pass are in it
POOL = 1.3  # memory of a graph pool as a multiple of its largest pass


@dataclass(frozen=True)
class LaunchTime:
    """host, card: seconds, see above. tokens: of the pass. peak: bytes that it takes, gradients included."""

    host: float
    card: float
    tokens: int
    peak: int

    @property
    def is_bound(self) -> bool:
        """Whether passes wait for the host."""
        return self.host > SHARE * self.card

    def bytes_of_graphs(self, largest: int, gradients: int) -> int:
        """Bytes that training with graphs takes: the pool, passes without a graph beside it, and the gradients of
        graphs, which are compared once with those of a pass.

        Args:
            largest: tokens of the largest pack. gradients: bytes.
        """
        largest_pass = self.peak * max(1.0, largest / self.tokens)
        return int((1 + POOL) * largest_pass) + 2 * gradients


def measure(path: PackedMicroBatches, rows: list[int]) -> LaunchTime | None:
    """Times passes over the first pack of some rows, without graphs. None if it has no labels, or does not fit into the
    memory.

    The weights have no gradients afterwards, and the random state is as before.
    """
    pack = next(iter(path.packer.packs(rows)), None)
    labelled = sorted((row for row in rows if path.tokens.labelled[row]), key=lambda row: int(path.tokens.lengths[row]))
    if pack is None or not pack.labelled or not labelled:
        return None
    model, device = path.fast.causal_lm, path.fast.device
    was_training = model.training
    model.train()  # transformers' blocks are recomputed in training mode only
    try:
        with torch.random.fork_rng(devices=[]), path.deterministic():
            host, _ = _fastest(_pass_over(path, path.packer.pack(labelled[:SMALL_ROWS])), device)
            before = _allocated(device)
            _, card = _fastest(_pass_over(path, pack), device)
            return LaunchTime(host, card, len(pack.ids), _peak(device) - before)
    except torch.cuda.OutOfMemoryError:
        return None  # the first step is split further
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def _pass_over(path: PackedMicroBatches, pack: Pack) -> Callable[[], None]:
    batch, weights = path.fast.prepare(pack), [p for p in path.fast.causal_lm.parameters() if p.requires_grad]

    def run() -> None:
        for weight in weights:
            weight.grad = None
        path.loss(batch).backward()
        for weight in weights:
            weight.grad = None

    return run


def _fastest(run: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds until a pass returns, and until the device is done; the least of a few each."""
    returned: list[float] = []
    done: list[float] = []
    for n in range(PASSES):
        if n > 1 and sum(done) > ENOUGH:
            break
        _wait(device)
        started = time.perf_counter()
        run()
        returned.append(time.perf_counter() - started)
        _wait(device)
        done.append(time.perf_counter() - started)
    return min(returned), min(done)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _allocated(device: torch.device) -> int:
    """Bytes allocated now, from which on the peak counts; 0 on CPUs."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def _peak(device: torch.device) -> int:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0
