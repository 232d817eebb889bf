"""The held-out losses of a run: which one is the lowest, and whether the run should end early."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import Train
from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.training.schedule import every

MEASUREMENTS = 4  # of a run where `train.eval_every` is 0


def never_early(settings: Train, total: int) -> str:
    """Why `train.early_stop` cannot end a run of `total` steps before its last one, and what to set; empty if it can.

    The first measurement is always a new lowest value, so the earliest end is `early_stop` measurements after it.
    """
    patience, between = settings.early_stop, every(settings.eval_every, total, MEASUREMENTS)
    if not patience or between * (patience + 1) < total:
        return ""
    fewer = max(1, total // (2 * (patience + 1)))
    fix = f"set train.eval_every={fewer}" if fewer * (patience + 1) < total else "lower train.early_stop"
    times, how_often = math.ceil(total / between), f"{between:,} steps" if between > 1 else "step"
    measured = f"the held-out loss is measured {times:,} time{'s' if times > 1 else ''}, every {how_often}"
    return f"train.early_stop={patience} cannot end this run early, since {measured}: {fix}"


@dataclass
class LowestLoss:
    """The measurements so far. It is part of a checkpoint's state, so a resumed run decides as an uninterrupted one.

    Attributes:
        patience: `train.early_stop`. keeps: `train.best`.
        step, loss: of the lowest held-out loss; step 0: none so far. The loss before the first step does not count.
        since: measurements since then.
    """

    patience: int
    keeps: bool
    step: int = 0
    loss: float = float("inf")
    since: int = 0

    @classmethod
    def of(cls, settings: Train, state: dict[str, Any], rows: int) -> LowestLoss:
        """state: of a checkpoint, or `checkpoint.START`. rows: measured held-out rows that have a labelled token.

        Raises:
            UserError: there are none, and a key needs them: without labelled tokens the loss is not a number.
        """
        for key in ("early_stop", "best"):
            if getattr(settings, key) and not rows:
                what = "no held-out row that is measured while training has a labelled token, so there is no loss"
                fix = "raise data.val, train.eval_rows or prompt.cutoff, or remove this key"
                raise UserError(what, f"train.{key}", fix)
        return cls(settings.early_stop, settings.best, **state.get("lowest", {}))

    def add(self, step: int, loss: float) -> bool:
        """Takes a measurement; True if its weights must be kept.

        A loss that is not a number counts as no improvement.
        """
        if not step:
            return False
        if loss < self.loss:
            self.step, self.loss, self.since = step, loss, 0
            return self.keeps
        self.since += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return bool(self.patience) and self.since >= self.patience

    def is_before(self, step: int) -> bool:
        """Whether the weights to keep are those of an earlier step than this last one."""
        return self.keeps and 0 < self.step < step

    def tell(self, steps: int, planned: int) -> None:
        """Prints why the run ended early, and which weights are used. Arguments as in `counts`."""
        if steps < planned:
            ago = f"{self.since} measurement{'s' if self.since > 1 else ''} ago, at step {self.step:,}"
            say(f"train: stopped at step {steps:,} of {planned:,}: the held-out loss was lowest {ago}: {self.loss:.4f}")
        if self.is_before(steps):
            say(f"train: the weights of step {self.step:,} are used, with the lowest held-out loss ({self.loss:.4f}); "
                "those of the last step are in adapter/last")  # fmt: skip

    def state(self) -> dict[str, Any]:
        """For the checkpoint; `best` tells it to keep weights. Empty if neither key is set."""
        if not (self.patience or self.keeps) or not self.step:
            return {}
        lowest = {"step": self.step, "loss": self.loss, "since": self.since}
        return {"lowest": lowest, **({"best": {"step": self.step}} if self.keeps else {})}

    def counts(self, steps: int, planned: int) -> dict[str, Any]:
        """For the adapter's manifest. steps: that were taken; planned: of the whole run."""
        counts: dict[str, Any] = {"planned_steps": planned} if steps < planned else {}
        if self.keeps and self.step:
            counts |= {"best_step": self.step, "best_loss": round(self.loss, 6)}
        return counts
