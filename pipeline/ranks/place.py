"""The place of this process among those of a run, from environment variables that the launcher sets.

Needs no torch. `RANK` numbers the processes of all machines, `LOCAL_RANK` those of this machine, `WORLD_SIZE` is their
number (https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from pipeline.run.errors import UserError


@dataclass(frozen=True)
class Place:
    """rank: of this process among `world`. local: among those of its host."""

    rank: int = 0
    world: int = 1
    local: int = 0
    host: str = ""

    @classmethod
    def here(cls) -> Place:
        """From the environment; one process where nothing is set.

        Raises:
            UserError: a variable is no number, or the rank is none of these processes.
        """
        rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
        if not 0 <= rank < max(1, world):
            what = f"RANK={rank} and WORLD_SIZE={world}: ranks go from 0 to WORLD_SIZE - 1"
            raise UserError(what, "environment", "start the processes by make train GPUS=N, torchrun or accelerate")
        return cls(rank, world, _number("LOCAL_RANK", rank), socket.gethostname())

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UserError(f"{name}={text!r} is no number", "environment", "the launcher sets it; unset it without one")
    return int(text) if text else default
