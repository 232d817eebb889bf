"""Timing of steps once they are steady, and the kernels of a profile, each counted once. Needs no card.

The first steps compile kernels, choose algorithms and allocate memory: a mean that includes them was 15,432 tok/s
instead of 27,600. So steps count once the last `WINDOW` of them agree; the median is reported with its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.autograd import DeviceType

WINDOW = 12  # steps; as many as there are packs, so that each was computed
SPREAD = 0.1  # slowest to fastest of them, as a share of their median
MAX_WARM_UP = 72  # steps; some cases (padded rows of all lengths) never become steady
STEPS = 12  # that count


@dataclass(frozen=True)
class Pace:
    """Of the steps that count. rates: tokens a second. spans: seconds. warm: steps before them. is_steady: whether the
    last of those were steady."""

    rates: tuple[float, ...]
    spans: tuple[float, ...]
    warm: int
    is_steady: bool

    @property
    def rate(self) -> float:
        """Median, in tokens a second."""
        return statistics.median(self.rates)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Of the rates: the first and the third."""
        first, _, third = statistics.quantiles(self.rates, n=4, method="inclusive")
        return first, third

    @property
    def mean(self) -> float:
        """Tokens of all steps by their seconds: what counts where steps are not alike, as with padded rows."""
        return sum(rate * span for rate, span in zip(self.rates, self.spans, strict=True)) / sum(self.spans)

    @property
    def milliseconds(self) -> float:
        """Median of a step."""
        return statistics.median(self.spans) * 1e3


def is_steady(rates: Sequence[float]) -> bool:
    """Whether the last `WINDOW` rates agree within `SPREAD`."""
    last = rates[-WINDOW:]
    return len(last) == WINDOW and max(last) - min(last) <= SPREAD * statistics.median(last)


def timed(
    steps: Iterable[int], clock: Callable[[], float] = time.perf_counter, most: int = MAX_WARM_UP, count: int = STEPS
) -> Pace:
    """Goes through steps until they are steady, then through some more, which count.

    Args:
        steps: gives the tokens of each step when it has ended; longer than `most` + `count` + 1.
        most: steps before those that count, even if not steady. count: how many count.
    """
    rates: list[float] = []
    spans: list[float] = []
    warm, steady, before = 0, False, 0.0
    for n, tokens in enumerate(steps):
        now = clock()
        if n:  # the first began at an unknown time
            spans.append(now - before)
            rates.append(tokens / spans[-1])
        before = now
        if not warm:
            steady = is_steady(rates)
            warm = len(rates) if steady or len(rates) == most else 0
        elif len(rates) == warm + count:
            break
    return Pace(tuple(rates[warm:]), tuple(spans[warm:]), warm, steady)


@dataclass(frozen=True)
class Kernel:
    """microseconds: of all its calls."""

    name: str
    microseconds: float
    calls: int


def kernels(events: Iterable[Any], on_card: bool) -> list[Kernel]:
    """What ran on the device, each once, longest first.

    An operation such as aten::mm has the time of the kernel that it launched, which is a separate event: only events
    of the device count, without named ranges (`is_user_annotation`), which span kernels.

    Args:
        events: of a profile's `key_averages()`. on_card: otherwise operations of the CPU, without what they call.
    """
    is_counted = (lambda e: e.device_type != DeviceType.CPU) if on_card else (lambda e: e.device_type == DeviceType.CPU)
    time_of = "self_device_time_total" if on_card else "self_cpu_time_total"
    measured = [
        Kernel(e.key, getattr(e, time_of), e.count)
        for e in events
        if is_counted(e) and not getattr(e, "is_user_annotation", False)
    ]
    return sorted((k for k in measured if k.microseconds), key=lambda k: -k.microseconds)
