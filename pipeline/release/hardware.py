"""Hardware, time and energy of a training, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.run.markdown import plain
from pipeline.run.progress import readable_time

JOULES_A_KWH = 3.6e6


def section(counts: Mapping[str, Any]) -> str:
    """Sentences for the card. counts: of the adapter's manifest; those of earlier versions name no device."""
    if "train_seconds" not in counts:
        return ""
    cards = int(counts.get("processes", 1))
    on_card = str(counts.get("device", "")).startswith("cuda")
    name = plain(counts.get("device_name") or ("a CUDA card" if on_card else "a CPU"))
    how_many = f"{cards} x {name}" if cards > 1 else name
    text = f"Trained on {how_many} in {readable_time(counts['train_seconds'])}, in {counts.get('dtype', '?')}"
    if "peak_gib" in counts:
        where = "of the card" if on_card else "of the process"
        text += f", with at most {counts['peak_gib']:.1f} GiB of memory {where}"
    if skipped := counts.get("skipped_steps"):
        text += f". Of {counts['steps']:,} steps {skipped:,} were skipped, as their gradients overflowed in fp16"
    return f"{text}. {_energy(counts, cards, on_card)}"


def kwh(counts: Mapping[str, Any]) -> float | None:
    """Energy of the training's cards, counted or bounded; None where nothing is known. Of all cards, in kWh."""
    cards = int(counts.get("processes", 1))
    if (joules := counts.get("joules")) is not None:
        return float(joules) * cards / JOULES_A_KWH
    if watts := counts.get("watts"):
        return float(watts) * float(counts.get("train_seconds", 0)) * cards / JOULES_A_KWH
    return None


def _energy(counts: Mapping[str, Any], cards: int, on_card: bool) -> str:
    used = kwh(counts)
    if used is None:
        if on_card:
            return "Energy: not known, since neither the card's counter nor its power limit could be read."
        return "Energy: not measured, since a CPU's is not counted here."
    times = f", times {cards}" if cards > 1 else ""
    if counts.get("joules") is not None:
        which = "the first card" if cards > 1 else "the card"
        basis = f"about {_amount(used)}, from the energy counter of {which}{times}"
    else:
        limit = f"the card's power limit of {counts['watts']:.0f} W times the time of the training{times}"
        basis = f"at most {_amount(used)}, {limit}"
    return f"Energy (an estimate): {basis}; of the training alone, without the rest of the machine."


def _amount(used: float) -> str:
    return f"{used:.2g} kWh" if used >= 1e-3 else f"{used * 1000:.2g} Wh"
