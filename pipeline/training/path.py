"""How the rows of a step go through the model: as packs through our kernels, or padded through transformers and peft.

Both give the same loss and gradients up to rounding; `train.fast` chooses. What goes through at once is a `Part`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.model.fast import Fast
from pipeline.model.loss import loss_sum
from pipeline.prompt.batch import batches
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens


@dataclass(frozen=True)
class Part:
    """Some rows on their way through the model: how many, and the batch or the pack."""

    rows: int
    held: Any


class Plain:
    """Padded rows, the model's own forward under autocast."""

    name = "plain"
    recompute = False

    def __init__(self, model: Any, tokens: Tokens, accelerator: Any, micro_tokens: int) -> None:
        self.model, self.tokens, self.accelerator, self.micro_tokens = model, tokens, accelerator, micro_tokens

    def parts(self, rows: Sequence[int]) -> list[Part]:
        """The rows of a step, cut to what fits at once."""
        return [Part(len(batch.ids), batch) for batch in batches(self.tokens, rows, self.micro_tokens)]

    def loss(self, part: Part) -> torch.Tensor:
        """Sum of -log p over the labelled tokens of the part."""
        with self.accelerator.autocast():
            return loss_sum(self.model, part.held)

    def ahead(self, rows: Sequence[int]) -> None:
        """Nothing to prepare."""

    def updated(self) -> None:
        """Nothing holds copies of the trained weights."""


class Packed:
    """Packs through `Fast`. Those of the next step are made by a thread while this one computes."""

    name = "fast"

    def __init__(self, fast: Fast, tokens: Tokens, leading: Sequence[Sequence[int]], micro_tokens: int) -> None:
        self.fast, self.tokens, self.leading = fast, tokens, leading
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="packs")
        self.next: tuple[list[int], int, Future[list[Part]]] | None = None
        self.packer = Packer(tokens, leading, micro_tokens)
        self.offload = False

    @property
    def recompute(self) -> bool:
        """Whether blocks keep less and compute again."""
        return self.fast.recompute

    def largest_step(self, batch_size: int, world: int) -> int:
        """About the most tokens that a rank computes in a step: the mean of the rows' own, and three deviations."""
        own = self.tokens.lengths - self.packer.shared
        rows = -(-batch_size // world)
        preambles = sum(map(len, self.packer.leading))
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
        return [Part(pack.rows, self.fast.ready(pack)) for pack in self.packer.packs(rows)]

    def loss(self, part: Part) -> torch.Tensor:
        """As `Plain.loss`."""
        if self.offload:
            with torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()):
                return self.fast.loss_sum(part.held)
        return self.fast.loss_sum(part.held)

    def ahead(self, rows: Sequence[int]) -> None:
        """Begins to make the parts that are asked for next."""
        self.next = (list(rows), self.micro_tokens, self.thread.submit(self._made, rows))

    def updated(self) -> None:
        """The kernels' copies of the adapters follow the optimiser."""
        self.fast.refresh()


def difference(
    packed: Packed, plain: Plain, rows: Sequence[int], weights: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """How far the two ways are apart on some rows: relative difference of the loss, and of the gradient as a whole.

    Dropout is off meanwhile; gradients are left empty.
    """
    found = []
    was_training = plain.model.training
    plain.model.eval()
    with packed.fast.without_dropout():
        for path in (packed, plain):
            loss = 0.0
            for part in path.parts(rows):
                value = path.loss(part)
                if value.requires_grad:
                    value.backward()
                loss += float(value.detach())
            found.append((loss, [None if w.grad is None else w.grad.float().clone() for w in weights]))
            for weight in weights:
                weight.grad = None
    plain.model.train(was_training)
    (ours, our_grads), (theirs, their_grads) = found
    pairs = [(a, b) for a, b in zip(our_grads, their_grads, strict=True) if a is not None and b is not None]
    apart = sum(float((a - b).pow(2).sum()) for a, b in pairs) ** 0.5
    size = sum(float(b.pow(2).sum()) for _, b in pairs) ** 0.5
    return abs(ours - theirs) / max(abs(theirs), 1e-12), apart / max(size, 1e-12)
