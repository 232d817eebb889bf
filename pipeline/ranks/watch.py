"""A thread in each rank of a run that ends the rank when another one has failed, or when its own main thread hangs.

    every BEAT seconds   it notes that this rank lives, and what its main thread does
    ends the process     if any rank has noted a failure
    notes a failure      if the next rank (0 -> 1 -> ... -> 0) has given no sign of life for `Limits.dead` seconds;
                         if its own main thread takes much longer in a step than in those before;
                         in rank 0: if all ranks wait in the same exchange

A killed process, one that the kernel ended for memory, a stopped one and a host that is gone all show as no sign of
life. Each rank looks at one other, so the work does not grow with their number. A rank that does something without
steps, such as measuring the held-out loss, has no limit as long as it gives signs of life.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.ranks.board import Board
from pipeline.ranks.place import Place
from pipeline.run.errors import one_line
from pipeline.run.progress import warn

BEAT = 1.0  # seconds
LINGER, LINGER_FAILED = 60.0, 3.0  # seconds that rank 0 waits for the others to end, and after a failure to hear of it
TOLD = "SURI_RANKS_TOLD"  # environment variable: a file that a rank makes when it has told a failure, for the launcher
TIMEOUT = "SURI_RANKS_TIMEOUT"  # environment variable: seconds, instead of `Limits.dead`
FREE, STEP, EXCHANGE, CONNECT = "free", "step", "exchange", "connect"


@dataclass(frozen=True)
class Limits:
    """Seconds. dead: without a sign of life. step: of the main thread in one step, or `slower` times the longest one
    before, if that is more. first: of each of the first `warm` steps, in which kernels are compiled. exchange: that all
    ranks wait in the same exchange. connect: of the first exchange."""

    dead: float = 20.0
    step: float = 30.0
    slower: float = 10.0
    first: float = 900.0
    warm: int = 2
    exchange: float = 30.0
    connect: float = 120.0

    @classmethod
    def from_environment(cls) -> Limits:
        text = os.environ.get(TIMEOUT, "")
        if not text.isdecimal() or not int(text):
            return cls()
        seconds = float(text)
        return cls(dead=seconds, step=seconds, exchange=seconds, connect=max(cls.connect, seconds))


NETWORK = (
    "set NCCL_SOCKET_IFNAME (GLOO_SOCKET_IFNAME on CPUs) to the network interface that reaches the other hosts "
    "(`ip -br addr` lists them), NCCL_IB_DISABLE=1 where InfiniBand does not work, NCCL_P2P_DISABLE=1 where cards "
    "cannot reach each other; NCCL_DEBUG=INFO prints the reason"
)
AGAIN = "the newest checkpoint is whole: the same command goes on from it"


class Watch:
    """The thread of a rank.

    Args:
        hosts: of the ranks.
    """

    def __init__(self, board: Board, place: Place, hosts: Sequence[str], limits: Limits) -> None:
        self.board, self.place, self.hosts, self.limits = board, place, hosts, limits
        self.kind, self.step, self.since = FREE, -1, time.monotonic()
        self.step_seconds, self.longest, self.steps = 0.0, 0.0, 0
        self.is_in_step = False
        self.is_signalled = False  # a signal asked this rank to stop
        self.failure: dict[str, str] | None = None
        self._beats = 0
        self._seen: dict[int, tuple[int, float]] = {}  # rank: its last beat, and when it was new
        self._ended = threading.Event()
        self._main = threading.main_thread().ident or 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="ranks")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """This rank has ended its work; the others no longer wait for signs of life."""
        self._ended.set()
        self._thread.join(timeout=5)
        with contextlib.suppress(RuntimeError):
            self.board.write(f"done/{self.place.rank}", True)
            self.board.count("ended")
            self._linger(LINGER)

    def _linger(self, seconds: float) -> None:
        """Rank 0, which may hold the store, ends after the others."""
        if self.place.rank == 0:
            self.board.wait_for_count("ended", self.place.world, seconds)

    def mark(self, kind: str, step: int | None = None) -> None:
        """The main thread begins something else."""
        now = time.monotonic()
        if self.is_in_step:  # with its exchanges: a card still computes while the main thread waits there
            self.step_seconds += now - self.since
        if step is not None and step != self.step:
            if self.step >= 0:
                self.steps += 1
                self.longest = max(self.longest, self.step_seconds)
            self.step, self.step_seconds = step, 0.0
        self.is_in_step = kind == STEP or (kind == EXCHANGE and self.is_in_step)
        self.kind, self.since = kind, now

    def fail(self, what: str, fix: str) -> bool:
        """Notes a failure, unless there is one; returns whether this rank should print it (one does on each host)."""
        self.failure = {"what": what, "fix": fix}
        with contextlib.suppress(RuntimeError):  # the store is gone
            if self.board.count("failures") == 1:
                self.board.write("failure", self.failure)
            return self._may_tell()
        return self.place.local == 0

    def leave(self, message: str = "") -> None:
        """Ends the process after a failure, whatever its main thread is doing: that may never return from an exchange.

        message: printed before; it is known to the launcher then, which need not say anything.
        """
        if message:
            if path := os.environ.get(TOLD):
                with contextlib.suppress(OSError):
                    open(path, "w").close()
            warn(f"suri: {message}")
        with contextlib.suppress(RuntimeError):
            self.board.count("ended")
            self._linger(LINGER_FAILED)
        sys.stdout.flush()
        os._exit(2)

    def wait_for_failure(self, seconds: float) -> bool:
        """Gives the thread time to learn which rank failed, and to end this process with that; returns whether a signal
        asked this rank to stop, which its launcher sends to all when one has failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_signalled:
            time.sleep(0.1)
        return self.is_signalled

    def _may_tell(self) -> bool:
        return self.board.count(f"told/{self.place.host}") == 1

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                failure = self.board.read("failure")
                if failure is None:
                    self._beats += 1
                    self.board.write(f"beat/{self.place.rank}", [self._beats, self.kind, self.step])
                    problem = self._own_problem() or self._next_problem() or self._exchange_problem()
                    if problem is None:
                        continue
                    self._leave(self.fail(*problem))
                else:
                    self.failure = failure
                    self._leave(self._may_tell())
            except RuntimeError as error:  # torch's errors of the store
                if self._ended.is_set():
                    return
                self._store_is_gone(one_line(error, 120))

    def _leave(self, tells: bool) -> None:
        if not self._ended.is_set():
            failure = self.failure
            self.leave(f"{failure['what']}\n  fix:   {failure['fix']}" if tells and failure else "")

    def _store_is_gone(self, error: str) -> None:
        where = os.environ.get("MASTER_ADDR", "its host")
        what = f"{self.place}: the rendezvous at {where} is gone: rank 0 on {self.hosts[0]} or its launcher has ended"
        self.failure = {"what": f"{what} ({error})", "fix": f"look at the log of {self.hosts[0]}; {AGAIN}"}
        time.sleep(BEAT * self.place.local)  # the first one on a host speaks and ends; its launcher ends the others
        self._leave(True)

    def _own_problem(self) -> tuple[str, str] | None:
        spent = time.monotonic() - self.since
        if self.kind == CONNECT and spent > self.limits.connect:
            others = ", ".join(sorted(set(self.hosts)))
            what = f"{self.place}: no number could be exchanged with the other ranks in {spent:.0f} s (hosts: {others})"
            return what, NETWORK
        if self.kind != STEP:
            return None
        limit = max(self.limits.step, self.limits.slower * self.longest)
        if self.steps < self.limits.warm:
            limit = max(limit, self.limits.first)
        if spent <= limit:
            return None
        what = f"{self.place} hangs: {spent:.0f} s in step {self.step + 1}, at {self._place_in_code()}"
        return what, f"{AGAIN}; {TIMEOUT} sets the seconds"

    def _place_in_code(self) -> str:
        """File, line and function in which the main thread is."""
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return "an unknown place"
        summary = traceback.extract_stack(frame, limit=None)[-1]
        return f"{os.path.basename(summary.filename)}:{summary.lineno} ({summary.name})"

    def _next_problem(self) -> tuple[str, str] | None:
        """The next rank that has not ended gives no sign of life."""
        now = time.monotonic()
        for distance in range(1, self.place.world):
            rank = (self.place.rank + distance) % self.place.world
            if self.board.read(f"done/{rank}"):
                continue
            beat = self.board.read(f"beat/{rank}") or [0]
            seen, since = self._seen.get(rank, (-1, now))
            if beat[0] != seen:
                self._seen = {rank: (beat[0], now)}
                return None
            if now - since < self.limits.dead:
                return None
            what = f"rank {rank} on {self.hosts[rank]} has given no sign of life for {now - since:.0f} s"
            fix = (
                "it was killed, ran out of memory (`dmesg | grep -i oom` there), was stopped or cut off from the "
                f"network; {AGAIN}"
            )
            return what, fix
        return None

    def _exchange_problem(self) -> tuple[str, str] | None:
        """All ranks wait for each other."""
        spent = time.monotonic() - self.since
        limit = max(self.limits.exchange, self.limits.slower * self.longest)
        if self.place.rank or self.kind != EXCHANGE or spent <= limit:
            return None
        beats = [self.board.read(f"beat/{rank}") for rank in range(1, self.place.world)]
        if self.steps < self.limits.warm or not all(beat and beat[1] == EXCHANGE for beat in beats):
            return None
        return f"all ranks have waited for each other for {spent:.0f} s in step {self.step + 1}", f"{NETWORK}; {AGAIN}"


_watch: Watch | None = None


def watch() -> Watch | None:
    """That of this process; None with one rank."""
    return _watch


@contextlib.contextmanager
def watching(board: Board, place: Place, hosts: Sequence[str], limits: Limits) -> Iterator[Watch]:
    """Watches while the block runs; `stop` is not called if it ends by an error, which its caller tells first."""
    global _watch
    _watch = Watch(board, place, hosts, limits)
    _watch.start()
    try:
        yield _watch
    finally:
        _watch = None


def mark(kind: str, step: int | None = None) -> None:
    """Notes what the main thread begins; nothing with one rank.

    Args:
        kind: FREE, STEP, EXCHANGE or CONNECT. step: from 0.
    """
    if _watch is not None:
        _watch.mark(kind, step)


@contextlib.contextmanager
def exchanging() -> Iterator[None]:
    """The main thread waits for other ranks while the block runs."""
    if _watch is None:
        yield
        return
    before = _watch.kind
    _watch.mark(EXCHANGE if before != CONNECT else CONNECT)
    try:
        yield
    finally:
        _watch.mark(before)
