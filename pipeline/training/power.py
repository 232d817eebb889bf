"""Energy of a card during training, from NVIDIA's management library (NVML), which the driver brings along.

Cards since Volta count their energy themselves, so two readings are enough, and no thread samples anything. The counter
is of the whole card: other programs on it count too. Without the counter there is the card's power limit, which gives
an upper bound. On a CPU nothing is measured.

https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html: nvmlDeviceGetTotalEnergyConsumption (mJ since the
driver was loaded), nvmlDeviceGetEnforcedPowerLimit (mW)
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import torch

LIBRARY = "libnvidia-ml.so.1"


class EnergyMeter:
    """Energy of one card since the meter was made, on top of what earlier parts of the run used.

    Args:
        device: of this process. before: joules of the parts of the run that this one resumes; None = not known.

    Attributes:
        watts: the card's power limit; None where it is not known.
    """

    def __init__(self, device: torch.device, before: float | None = 0.0) -> None:
        self._card = _card(device)
        self._before = before
        self._start = self._read("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        limit = self._read("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint)
        self.watts = limit / 1000 if limit else None

    def joules(self) -> float | None:
        """Energy so far; None where the card, or one of the earlier parts of the run, counted none."""
        now = self._read("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        if now is None or self._start is None or self._before is None:
            return None
        return round(self._before + (now - self._start) / 1000, 1)

    def _read(self, function: str, kind: Any) -> int | None:
        """A value of the card; None where the library or the card has none."""
        if self._card is None:
            return None
        library, handle = self._card
        value = kind()
        try:
            status = getattr(library, function)(handle, ctypes.byref(value))
        except AttributeError:
            return None
        return int(value.value) if status == 0 else None


def device_name(device: torch.device) -> str:
    """The name of the card, or of the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()


def _card(device: torch.device) -> tuple[Any, ctypes.c_void_p] | None:
    """The library and its handle of a card; None on a CPU, and where NVML is missing or does not know the card."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    try:
        library = ctypes.CDLL(LIBRARY)
        if library.nvmlInit_v2() != 0:
            return None
        handle = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        status = library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle))
    except (OSError, AttributeError):
        return None
    return (library, handle) if status == 0 else None
