"""Steps timed once they are steady, and the kernels of a profile, each counted once. Needs no card.

A step's first passes compile kernels, choose algorithms and grow memory: a mean that holds them said 15,432 tok/s for
27,600. So steps count from where the last `WINDOW` of them agree, and the median is reported with its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.autograd import DeviceType

WINDOW = 12  # steps; as many as there are packs, so that each has been met
SPREAD = 0.1  # slowest to fastest of them, as a share of their median
MOST = 72  # steps of warming up; some cases (padded rows of all lengths) never agree
STEPS = 12  # that count


@dataclass(frozen=True)
class Pace:
    """Of the steps that count. rates: tokens a second. spans: seconds. warm: steps before them. is_steady: whether the
    last of those agreed."""

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
    def milliseconds(self) -> float:
        """Median of a step."""
        return statistics.median(self.spans) * 1e3


def is_steady(rates: Sequence[float]) -> bool:
    """Whether the last `WINDOW` rates agree within `SPREAD`."""
    last = rates[-WINDOW:]
    return len(last) == WINDOW and max(last) - min(last) <= SPREAD * statistics.median(last)


def timed(steps: Iterable[int], clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Goes through steps until they are steady, then through `STEPS` more.

    Args:
        steps: gives the tokens of each step when it has ended; longer than `MOST` + `STEPS` + 1.
    """
    rates: list[float] = []
    spans: list[float] = []
    warm, agreed, before = 0, False, 0.0
    for n, tokens in enumerate(steps):
        now = clock()
        if n:  # the first began at an unknown time
            spans.append(now - before)
            rates.append(tokens / spans[-1])
        before = now
        if not warm:
            agreed = is_steady(rates)
            warm = len(rates) if agreed or len(rates) == MOST else 0
        elif len(rates) == warm + STEPS:
            break
    return Pace(tuple(rates[warm:]), tuple(spans[warm:]), warm, agreed)


@dataclass(frozen=True)
class Kernel:
    """microseconds: of all its calls."""

    name: str
    microseconds: float
    calls: int


def kernels(events: Iterable[Any], on_card: bool) -> list[Kernel]:
    """What ran on the device, each once, longest first.

    An operation such as aten::mm carries the time of the kernel that it launched, which is an event of its own: only
    events of the device count. Nor do ranges that somebody named (`is_user_annotation`), which span kernels.

    Args:
        events: of a profile's `key_averages()`. on_card: otherwise operations of the CPU, without what they call.
    """
    wanted = (lambda e: e.device_type != DeviceType.CPU) if on_card else (lambda e: e.device_type == DeviceType.CPU)
    time_of = "self_device_time_total" if on_card else "self_cpu_time_total"
    found = [
        Kernel(e.key, getattr(e, time_of), e.count)
        for e in events
        if wanted(e) and not getattr(e, "is_user_annotation", False)
    ]
    return sorted((k for k in found if k.microseconds), key=lambda k: -k.microseconds)
