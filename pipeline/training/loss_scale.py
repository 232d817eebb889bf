"""Dynamic loss scaling for fp16 (Micikevicius et al. 2018, "Mixed Precision Training"), with the rule and the numbers
of torch.amp.GradScaler.

    loss of a step = sum over labelled tokens / labelled tokens
    backward pass of scale x loss -> gradients, float32, summed over micro-batches and ranks -> / scale

    all finite       the optimizer steps; after `GROWTH_INTERVAL` such steps in a row the scale is doubled
    one is not       the step is skipped: no weight changes; the scale is halved

fp16 has no number between 0 and 6e-8 and none above 65,504; without a scale many gradients of activations lie below the
first. It is a power of two, so dividing by it is exact. As in transformers' Trainer, a skipped step counts as a step
and its rows are not repeated, but the learning rate's course waits for it: after n skipped steps the rate of step i is
that of step i - n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from pipeline.run.progress import say

START = 2.0**16
GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0, 0.5, 2000
LEAST = 1.0  # below it scaling makes gradients smaller, so it is not small gradients that fail
TRIALS = tuple(2.0**n for n in range(16, -1, -4))  # scales for a single comparison of gradients, largest first


class LossScale:
    """The scale of a run, and what happened to it. It is part of a checkpoint's state, so a resumed run scales and
    skips as an uninterrupted one.

    Attributes:
        factor: None without scaling. Else a scalar on the device, float32, scale / labelled tokens of the step: what
            the gradient of a micro-batch's sum of losses is multiplied with. The same tensor for the whole run, since
            CUDA graphs read it.
        scale: a power of two; 1 without scaling.
        good_steps: steps since the scale changed. skipped: steps in the whole run. in_a_row: of them, the last ones.
    """

    def __init__(self, device: torch.device | None, saved: dict[str, Any] | None = None) -> None:
        """device: of the scaled gradients; None: no scaling. saved: from `state`."""
        self.factor = None if device is None else torch.ones((), dtype=torch.float32, device=device)
        self.scale, self.good_steps, self.skipped, self.in_a_row = 1.0 if device is None else START, 0, 0, 0
        if saved and device is not None:
            self.scale, self.good_steps = float(saved["scale"]), int(saved["good_steps"])
            self.skipped, self.in_a_row = int(saved["skipped"]), int(saved["in_a_row"])
        self.labelled = 1

    @classmethod
    def of(cls, dtype: str, device: torch.device, state: dict[str, Any]) -> LossScale:
        """dtype: of the arithmetic; only `fp16` is scaled. state: of a checkpoint, or `checkpoint.START`."""
        return cls(device if dtype == "fp16" else None, state.get("loss_scale"))

    def start_step(self, labelled: int) -> None:
        """labelled: tokens with loss in the whole step."""
        self.labelled = max(1, labelled)
        if self.factor is not None:
            self.factor.fill_(self.scale / self.labelled)

    def backward(self, value: torch.Tensor) -> torch.Tensor:
        """Adds a micro-batch's scaled gradients; value: its sum of losses, a scalar, which is returned detached."""
        if value.requires_grad:  # not if nothing is labelled
            if self.factor is None:
                (value / self.labelled).backward()
            else:
                value.backward(self.factor)
        return value.detach()

    def unscale(self, weights: Iterable[torch.Tensor]) -> None:
        """Divides the summed gradients by the scale, in place; exact."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.factor is not None and gradients:
            torch._foreach_mul_(gradients, 1 / self.scale)

    def overflows(self, norm: torch.Tensor) -> bool:
        """Whether the step must be skipped, by the norm of its gradients; waits for the device."""
        return not math.isfinite(float(norm))

    def update(self, is_skipped: bool) -> None:
        """Takes the outcome of a step."""
        if self.factor is None:
            return
        if is_skipped:
            self.scale *= BACKOFF
            self.good_steps, self.skipped, self.in_a_row = 0, self.skipped + 1, self.in_a_row + 1
            return
        self.good_steps, self.in_a_row = self.good_steps + 1, 0
        if self.good_steps == GROWTH_INTERVAL:
            self.scale, self.good_steps = self.scale * GROWTH, 0

    @property
    def is_exhausted(self) -> bool:
        """Whether gradients overflow at any scale that helps."""
        return self.scale < LEAST

    def trials(self, labelled: int) -> Iterator[bool]:
        """Sets `factor` for a comparison of gradients outside of a step, to smaller and smaller scales; yields whether
        it is the last one. One trial without scaling. The run's scale does not change."""
        self.labelled = 1
        if self.factor is None:
            yield True
            return
        for scale in TRIALS:
            self.factor.fill_(scale / max(1, labelled))
            yield scale == TRIALS[-1]

    def state(self) -> dict[str, Any]:
        """For the checkpoint; empty without scaling."""
        if self.factor is None:
            return {}
        names = ("scale", "good_steps", "skipped", "in_a_row")
        return {"loss_scale": {name: getattr(self, name) for name in names}}

    def metric(self) -> dict[str, float]:
        """For metrics.jsonl; empty without scaling."""
        return {} if self.factor is None else {"loss_scale": self.scale}

    def counts(self) -> dict[str, Any]:
        """For the adapter's manifest; empty without scaling."""
        return {} if self.factor is None else {"skipped_steps": self.skipped, "loss_scale": self.scale}

    def tell(self, steps: int) -> None:
        """Prints how many steps were skipped. steps: of the whole run."""
        if self.factor is not None:
            skipped = f"{self.skipped:,} of {steps:,} steps were skipped, as their gradients overflowed"
            say(f"train: fp16: {skipped}; the loss scale ended at {self.scale:,.6g}")
