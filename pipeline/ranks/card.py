"""The cards of this host: how many there are, and that of a rank."""

from __future__ import annotations

import os

from pipeline.ranks.place import Place
from pipeline.run.errors import UserError

CPU = "ACCELERATE_USE_CPU"  # as accelerate reads it


def uses_cpu() -> bool:
    """Whether ranks compute on the CPU: as asked for, or since there is no card."""
    import torch

    asked = os.environ.get(CPU, "").lower() in ("1", "true", "yes", "y", "on")
    return asked or not torch.cuda.is_available()


def card_count() -> int:
    """Cards that torch sees on this host."""
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def card_name(local: int) -> str:
    """The name of a rank's card; `cpu` without one."""
    import torch

    return "cpu" if uses_cpu() or local >= card_count() else str(torch.cuda.get_device_name(local))


def check_card_exists(place: Place) -> None:
    """Raises:
    UserError: more ranks than cards on this host.
    """
    if not uses_cpu() and place.local >= card_count():
        what = f"there is no card for the {place.local + 1}. process of {place.host}: torch sees {card_count()}"
        fix = f"start {card_count()} processes on this host; CUDA_VISIBLE_DEVICES may hide cards"
        raise UserError(what, "LOCAL_RANK", fix)
