"""The sum of the gradients over all ranks, sent bucket by bucket while the last backward pass of a step computes.

    weights    first block ... last block           a backward pass reaches the last block first
    buckets    n-1  ...  2  |  1  |  0              0 is sent first, as soon as all its gradients are there

All gradients are views into one buffer, so a message is a slice of it and nothing is copied. Every rank sends the same
buckets in the same order, each once a step: a bucket goes out in the last pass if all before it have, and the others
after it (a rank without rows sends zeros). So each rank may send at another time, and no rank has to know the
packs of the others. The same idea: DistributedDataParallel (Li et al. 2020, arXiv 2006.15704).

A weight may get no gradient in a step, such as the adapter of an expert that no token reached. With one rank its
`.grad` is then None, and optimizers skip it: no weight decay, no update of moments. With several ranks its message has
zeros, which an optimizer would not skip. So each rank tells whether it lacks any gradient (`is_incomplete`), in a
message that is sent anyway; if some rank does, all send one more, and `.grad` of a weight that no rank has a gradient
for is None after `wait`.

A step calls `start_step`, `start_pass` before each backward pass, `send_rest` before any other exchange,
`find_ungiven` if any rank is incomplete, `wait`. If memory runs out in a pass, the step starts again at `start_step`:
buckets that were sent hold all of this rank's gradients already, so they are not sent again and their new gradients
are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pipeline.ranks.watch import exchanging

BUCKET = 1 << 22  # numbers in a message, 16 MiB: several per step of LoRA on 7B (40 million), each large for a link


@dataclass
class Bucket:
    """Weights of one type on one device, and the slice of the buffer that holds their gradients.

    Attributes:
        numbers: shape (numbers of all weights,). missing: weights whose gradient the last pass has not given yet.
        message: under way; None before and after. is_kept: sent before memory ran out, so its numbers stay.
    """

    weights: list[torch.nn.Parameter]
    numbers: torch.Tensor
    missing: int = 0
    message: Any = None
    is_kept: bool = False

    def attach(self) -> None:
        """Makes the gradients of its weights views into the buffer."""
        sizes = [weight.numel() for weight in self.weights]
        for weight, numbers in zip(self.weights, self.numbers.split(sizes), strict=True):
            weight.grad = numbers.view_as(weight)

    def detach(self) -> None:
        for weight in self.weights:
            weight.grad = None


class GradientExchange:
    """Gradients of the trained weights, and their sum over all ranks. Does nothing for one rank.

    Args:
        weights: in the order of the model. world: number of ranks. overlapped: send during the last pass; otherwise
            everything after it, in one message for each type of numbers. size: numbers in a bucket.

    Attributes:
        sent: buckets that were sent in this step. sent_early: of them, those that a pass sent.
    """

    def __init__(
        self, weights: Iterable[torch.nn.Parameter], world: int, overlapped: bool = True, size: int = BUCKET
    ) -> None:
        self.weights, self.world, self.overlapped, self.size = list(weights), world, overlapped, size
        self.buckets: list[Bucket] = []
        self.hooks: list[Any] = []
        self.sent = self.sent_early = 0
        # Sending during a pass needs each gradient once a pass. Nested backward passes may give one several times, so
        # the first pass of a run, and the first after memory ran out, is only watched.
        self.is_known = False
        self.in_pass = self.is_sending = self.repeats = False
        self.arrived: set[int] = set()  # ids of the weights that this pass gave a gradient
        self.given: set[int] = set()  # of those that a pass of this step did, on this rank
        self.is_filler = False
        self.ungiven: list[torch.nn.Parameter] = []  # those without a gradient on any rank

    def start_step(self) -> None:
        """Sets all gradients to zero; again if memory ran out since the last call."""
        if self.world == 1:
            return
        if not self.buckets:
            self._allocate()
        self.in_pass, self.is_known = False, self.is_known and not self.sent
        self.given, self.ungiven = set(), []
        for number, bucket in enumerate(self.buckets):
            bucket.is_kept = number < self.sent
            if bucket.is_kept:  # a pass sent it, so it has the gradients of all its weights
                self.given.update(map(id, bucket.weights))
                bucket.detach()
            else:
                bucket.numbers.zero_()
                bucket.attach()

    def start_pass(self, is_last: bool, is_filler: bool = False) -> None:
        """Before a backward pass.

        Args:
            is_last: of the step on this rank. is_filler: its loss is multiplied with 0, so its gradients are none.
        """
        if self.world == 1:
            return
        if self.in_pass and self.arrived:
            self.is_known = True
        self.in_pass, self.arrived, self.is_filler = True, set(), is_filler
        self.is_sending = is_last and self.overlapped and self.is_known and not self.repeats
        for bucket in self.buckets:
            bucket.missing = len(bucket.weights)

    def send_rest(self) -> None:
        """After the last pass, or without one: sends what has not been sent, in the same order on every rank."""
        if self.in_pass and self.arrived:
            self.is_known = True
        self.in_pass = self.is_sending = False
        while self.sent < len(self.buckets):
            self._send()

    @property
    def is_incomplete(self) -> bool:
        """Whether this rank has no gradient for some weight in this step; after `send_rest`."""
        return self.world > 1 and len(self.given) < sum(len(bucket.weights) for bucket in self.buckets)

    def find_ungiven(self) -> None:
        """One message that finds the weights without a gradient on any rank. All ranks call it or none does."""
        if not self.buckets:
            return
        weights = [weight for bucket in self.buckets for weight in bucket.weights]
        flags = torch.tensor([id(w) in self.given for w in weights], dtype=torch.int32, device=weights[0].device)
        with exchanging():
            torch.distributed.all_reduce(flags)
        self.ungiven = [weight for weight, ranks in zip(weights, flags.tolist(), strict=True) if not ranks]

    def wait(self) -> None:
        """Returns once every gradient is its sum over all ranks (on a card: once its stream waits for that), or None
        where `find_ungiven` found that no rank has one."""
        if self.world == 1:
            return
        with exchanging():
            for bucket in self.buckets:
                bucket.message.wait()
        for bucket in self.buckets:
            bucket.message = None
            if bucket.is_kept:
                bucket.attach()
                bucket.is_kept = False
        for weight in self.ungiven:
            weight.grad = None
        self.sent = self.sent_early = 0

    def close(self) -> None:
        """Removes its hooks from the weights."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _allocate(self) -> None:
        """One buffer for each type and device, cut into buckets; the last weights of the model come first."""
        kinds: dict[tuple[torch.dtype, torch.device], list[torch.nn.Parameter]] = {}
        for weight in reversed(self.weights):
            kinds.setdefault((weight.dtype, weight.device), []).append(weight)
        for (dtype, device), weights in kinds.items():
            groups: list[list[torch.nn.Parameter]] = [[]]
            for weight in weights:
                groups[-1].append(weight)
                if self.overlapped and sum(w.numel() for w in groups[-1]) >= self.size:
                    groups.append([])
            groups = [group for group in groups if group]
            sizes = [sum(weight.numel() for weight in group) for group in groups]
            buffer = torch.zeros(sum(sizes), dtype=dtype, device=device)
            self.buckets += [Bucket(g, part) for g, part in zip(groups, buffer.split(sizes), strict=True)]
        for bucket in self.buckets:
            for weight in bucket.weights:
                self.hooks.append(weight.register_post_accumulate_grad_hook(partial(self._arrive, bucket)))

    def _arrive(self, bucket: Bucket, weight: torch.Tensor) -> None:
        """After a weight's gradient was added. bucket: of this weight."""
        if not self.in_pass:  # a check or an estimate between steps
            return
        if not self.is_filler:
            self.given.add(id(weight))
        if bucket.is_kept:
            weight.grad = None
            return
        if id(weight) in self.arrived:
            self.repeats = True
            if bucket.message is not None:
                raise RuntimeError("a gradient came a second time in one backward pass, after it was sent")
            return
        self.arrived.add(id(weight))
        bucket.missing -= 1
        while self.is_sending and self.sent < len(self.buckets) and not self.buckets[self.sent].missing:
            self._send()
            self.sent_early += 1

    def _send(self) -> None:
        bucket = self.buckets[self.sent]
        bucket.message = torch.distributed.all_reduce(bucket.numbers, async_op=True)
        self.sent += 1
