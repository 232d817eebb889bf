"""Steps whose loss stands out, so that somebody looks at their rows."""

from __future__ import annotations

from collections.abc import Iterable

WARM = 20  # steps before anything can stand out
WEIGHT = 0.05  # of a new step in the running mean
FACTOR = 5.0  # standard deviations; small batches of short answers scatter a lot


class Spikes:
    """Running mean and variance of the loss, exponentially weighted; the spike itself does not enter them.

    before: losses of the steps that a resumed run has behind it.
    """

    def __init__(self, before: Iterable[float] = ()) -> None:
        self.mean, self.variance, self.seen = 0.0, 0.0, 0
        for loss in before:
            self.is_one(loss)

    def is_one(self, loss: float) -> bool:
        """Whether this step's loss is far above those before it."""
        self.seen += 1
        if self.seen == 1:
            self.mean = loss
        off = loss - self.mean
        if self.seen > WARM and off > FACTOR * max(self.variance**0.5, 0.02 * self.mean):
            return True
        self.mean += WEIGHT * off
        self.variance = (1 - WEIGHT) * (self.variance + WEIGHT * off * off)
        return False
