"""The energy of a card, read from NVML; a stand-in for the library counts here."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import pytest
import torch

from pipeline.training import power
from pipeline.training.power import EnergyMeter, device_name

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


class Nvml:
    """The functions of the library that are called. millijoules: of the counter, one a reading; empty = no counter."""

    def __init__(self, *millijoules: int) -> None:
        self.readings = list(millijoules)

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        assert uuid == b"GPU-1234"
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        if not self.readings:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        ctypes.cast(value, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.readings.pop(0)
        return 0

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, value: Any) -> int:
        ctypes.cast(value, ctypes.POINTER(ctypes.c_uint))[0] = 700_000
        return 0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="1234"))
    return monkeypatch


def test_joules_since_the_start_and_of_the_parts_before(card: pytest.MonkeyPatch) -> None:
    card.setattr(power.ctypes, "CDLL", lambda name: Nvml(5_000, 7_500))
    meter = EnergyMeter(CUDA, before=10.0)
    assert meter.watts == 700.0
    assert meter.joules() == 12.5


def test_a_run_that_began_without_a_counter_has_no_sum(card: pytest.MonkeyPatch) -> None:
    card.setattr(power.ctypes, "CDLL", lambda name: Nvml(5_000, 7_500))
    assert EnergyMeter(CUDA, before=None).joules() is None


def test_a_card_without_a_counter_has_its_limit(card: pytest.MonkeyPatch) -> None:
    card.setattr(power.ctypes, "CDLL", lambda name: Nvml())
    meter = EnergyMeter(CUDA)
    assert (meter.joules(), meter.watts) == (None, 700.0)


def test_without_the_library_nothing_is_known(card: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    card.setattr(power.ctypes, "CDLL", missing)
    meter = EnergyMeter(CUDA)
    assert (meter.joules(), meter.watts) == (None, None)


def test_a_cpu_is_not_measured_but_named() -> None:
    meter = EnergyMeter(CPU)
    assert (meter.joules(), meter.watts) == (None, None)
    assert device_name(CPU)
