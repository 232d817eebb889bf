"""What a card says of the hardware, the time and the energy of its training."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.release.hardware import kwh, section

GPU = {"train_seconds": 3600.0, "device": "cuda:0", "device_name": "NVIDIA H200", "processes": 1, "dtype": "bf16",
       "peak_gib": 20.0}  # fmt: skip


def test_a_cpu_is_named_and_no_energy_is_made_up() -> None:
    text = section({"train_seconds": 75.0, "device": "cpu", "device_name": "Some CPU", "processes": 1, "dtype": "fp32",
                    "peak_gib": 0.5, "joules": None, "watts": None})  # fmt: skip
    assert text.startswith("Trained on Some CPU in 1 min 15 s, in fp32, with at most 0.5 GiB of memory of the process.")
    assert text.endswith("Energy: not measured, since a CPU's is not counted here.")


def test_the_counter_of_the_card() -> None:
    assert kwh({**GPU, "joules": 1.8e6, "watts": 700.0}) == 0.5
    text = section({**GPU, "joules": 1.8e6, "watts": 700.0})
    assert "Trained on NVIDIA H200 in 1 h 0 min" in text
    assert "Energy (an estimate): about 0.5 kWh, from the energy counter of the card;" in text


def test_the_power_limit_is_an_upper_bound() -> None:
    assert kwh({**GPU, "joules": None, "watts": 700.0}) == pytest.approx(0.7)
    assert "at most 0.7 kWh, the card's power limit of 700 W times the time" in section({**GPU, "watts": 700.0})


def test_several_cards() -> None:
    counts: dict[str, Any] = {**GPU, "processes": 4, "joules": 1.8e6}
    assert kwh(counts) == 2.0
    text = section(counts)
    assert "4 x NVIDIA H200" in text
    assert "of the first card, times 4" in text


def test_runs_of_earlier_versions() -> None:
    old = {"train_seconds": 10.0, "device": "cuda:0", "processes": 1}
    assert "Trained on a CUDA card in 10 s" in section(old)
    assert "Energy: not known" in section(old)
    assert section({"steps": 0}) == ""
