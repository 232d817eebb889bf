"""Notes that all processes of a run can write and read: torch's TCPStore, at MASTER_ADDR:MASTER_PORT.

It is the store by which torch.distributed starts too. Reading never waits for a note that is not there, so that the
caller decides how long to be patient, and what to say then.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

from pipeline.ranks.place import Place
from pipeline.run.errors import UserError, one_line

ANSWER = 15.0  # seconds within which the store answers, or counts as gone
POLL = 0.1  # seconds between two looks
AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun holds the store; without it rank 0 does


class Board:
    """Notes of one attempt of a run; those of an attempt that failed are not seen: torchrun keeps its store when it
    starts all ranks again.

    Args:
        store: a TCPStore. attempt: name of the attempt; empty: of none yet.
    """

    def __init__(self, store: Any, attempt: str) -> None:
        self.store, self.prefix = store, f"suri/{attempt}/"

    def write(self, name: str, value: Any) -> None:
        self.store.set(self.prefix + name, json.dumps(value))

    def read(self, name: str) -> Any:
        """The note, or None where there is none."""
        key = self.prefix + name
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def count(self, name: str, by: int = 1) -> int:
        """Adds to a counter, which starts at 0; returns its new value."""
        return int(self.store.add(self.prefix + name, by))

    def wait_for_count(self, name: str, wanted: int, seconds: float) -> None:
        """Returns once a counter has come to a number, or after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.count(name, 0) < wanted and time.monotonic() < deadline:
            time.sleep(POLL)


def open_board(place: Place, patience: float) -> Board:
    """Connects to the store; rank 0 starts it where no launcher did. The board is of no attempt yet.

    Args:
        patience: seconds to wait for it.

    Raises:
        UserError: nothing answers at that address.
    """
    from torch.distributed import TCPStore

    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    where = "MASTER_ADDR and MASTER_PORT"
    if not host or not port.isdecimal():
        what = f"{place.world} processes, and no address at which they meet"
        raise UserError(what, where, "start them by make train GPUS=N, torchrun or accelerate: docs/scaling.md")
    holds = place.rank == 0 and os.environ.get(AGENT) != "True"
    started = time.monotonic()
    while True:
        try:
            store = TCPStore(
                host, int(port), place.world, holds, timedelta(seconds=patience), wait_for_workers=False,
                multi_tenant=True,
            )  # fmt: skip
            store.set_timeout(timedelta(seconds=ANSWER))
            return Board(store, "")
        except (RuntimeError, ValueError) as error:  # torch's errors of a connection are RuntimeErrors
            if time.monotonic() - started < patience and not holds:
                time.sleep(1)
                continue
            what = f"{place}: nothing answers at {host}:{port} after {patience:.0f} s ({one_line(error, 120)})"
            fix = "is rank 0 running, is that its host's address, and is the port open between the hosts?"
            raise UserError(what, where, fix) from None
