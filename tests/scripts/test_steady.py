"""Benchmarks of training: which steps count, and which events of a profile are kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from scripts.benchmarks.steady import MAX_WARM_UP, STEPS, WINDOW, kernels, timed


def clock(spans: list[float]) -> Any:
    ends = iter(itertools.accumulate([0.0, *spans]))
    return lambda: next(ends)


def test_compile_time_is_not_counted() -> None:
    """Two slow steps at the start, one more among the first packs: a mean over all would be half the rate."""
    spans = [9.0, 4.0, 0.6, 0.6, 3.0] + [0.6, 0.61, 0.59] * 40
    pace = timed(itertools.repeat(16_000), clock(spans))
    assert pace.is_steady
    assert pace.warm == 5 + WINDOW
    assert len(pace.rates) == STEPS
    assert pace.rate == pytest.approx(16_000 / 0.6)
    assert pace.milliseconds == pytest.approx(600)
    low, high = pace.quartiles
    assert 16_000 / 0.62 < low <= pace.rate <= high < 16_000 / 0.58


def test_steps_of_different_size_are_compared_by_rate() -> None:
    """Packs are not alike: twice the tokens in twice the time is steady."""
    pace = timed(itertools.cycle([1000, 2000]), clock([2.0, 1.0] * 60))
    assert pace.is_steady
    assert pace.warm == WINDOW
    assert pace.quartiles == (1000, 1000)


def test_warming_up_has_an_end() -> None:
    pace = timed(itertools.repeat(100), clock([1.0, 2.0] * 60))
    assert not pace.is_steady
    assert (pace.warm, len(pace.rates)) == (MAX_WARM_UP, STEPS)


def event(key: str, kind: DeviceType, device: float, cpu: float = 0.0, named: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        key=key, device_type=kind, self_device_time_total=device, self_cpu_time_total=cpu, count=4,
        is_user_annotation=named,
    )  # fmt: skip


def test_a_kernel_is_counted_once() -> None:
    """aten::mm carries its kernel's time too; so does a named range around it."""
    found = kernels(
        [
            event("aten::mm", DeviceType.CPU, 500.0, 20.0),
            event("nvjet_gemm", DeviceType.CUDA, 500.0),
            event("aten::add", DeviceType.CPU, 85.0, 5.0),
            event("add_kernel", DeviceType.CUDA, 85.0),
            event("Optimizer.step", DeviceType.CUDA, 585.0, named=True),
            event("cudaLaunchKernel", DeviceType.CPU, 0.0, 3.0),
        ],
        on_card=True,
    )
    assert [(k.name, k.microseconds, k.calls) for k in found] == [("nvjet_gemm", 500.0, 4), ("add_kernel", 85.0, 4)]


def test_a_profile_of_this_machine() -> None:
    """The attributes are those of torch's own events."""
    a = torch.randn(64, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            a @ a
    found = {k.name: k for k in kernels(profile.key_averages(), on_card=False)}
    assert found["aten::mm"].calls == 3
    assert kernels(profile.key_averages(), on_card=True) == []


def steps(count: int) -> Iterator[int]:
    yield from itertools.repeat(1, count)


def test_no_step_too_many() -> None:
    """As many as the longest case needs, and none after them."""
    given = steps(MAX_WARM_UP + STEPS + 2)
    timed(given, clock([1.0, 2.0] * 60))
    assert len(list(given)) == 1
