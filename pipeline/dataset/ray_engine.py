"""The work on rows over a Ray cluster, as Ray tasks (extra `ray`).

    items -> window of tasks, in order -> results, in order
             4 for each CPU of the cluster, counted again while the work goes on

On the cluster: forms, checks, rules, hashes, signatures, the search for benchmark questions, and the search for
neighbours of the novelty filter. On the machine that runs the command: reading the sources, writing the result, and the
passes over all rows in order, whose decisions depend on earlier ones (duplicates, split, mixture); they use compact
features.

The cluster is that of RAY_ADDRESS, otherwise one that is started on this machine. Tasks have no state, so any node may
run any of them: those of a node that is lost run again elsewhere (Ray also repeats the tasks whose results were lost
with it), and a node that joins late gets its share at once. Actors would wait for the return of their node's CPUs.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pipeline.run.errors import UserError, one_line
from pipeline.run.progress import warn

In = TypeVar("In")
Out = TypeVar("Out")
TASKS = 4  # in flight for each CPU: enough to keep it busy, few enough to bound the memory
RETRIES = 10  # of one task, each after a node or worker process was lost
LOOK = 2.0  # seconds between two looks at a cluster that gives no result
PATIENCE = 120.0  # seconds without any CPU in the cluster, for nodes that are replaced
ADDRESS = re.compile(r"(\[[^\]/]*\]|[^/:]*):\d+")
RESUME = "start it again (ray status lists its nodes), then run the same command again; or engine: local"
_functions: dict[str, Callable[[Any], Any]] = {}  # of a worker process: the last one


class RayEngine:
    """Applies picklable functions to items, in order, on a Ray cluster.

    Raises:
        UserError: ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise UserError("ray is not installed", "data.engine", "make .venv/.ray, or engine: local") from None
        if not ray.is_initialized():
            _start(ray)
        self._ray = ray
        self._task = ray.remote(_apply).options(max_retries=RETRIES, retry_exceptions=False)
        self._address = ray.get_runtime_context().gcs_address
        self._numbers = itertools.count()
        self.slices = max(self._cpus(), 1)

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        shared = self._ray.put(function)
        name = f"{os.getpid()}-{next(self._numbers)}-{shared.hex()}"
        waiting: deque[Any] = deque()
        try:
            most, looked = TASKS * self.slices, time.monotonic()
            for item in items:
                waiting.append(self._task.remote(name, [shared], item))
                if time.monotonic() - looked > LOOK:  # nodes may have joined or left
                    most, looked = TASKS * max(self._cpus(), 1), time.monotonic()
                while len(waiting) > most:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            if waiting and _answers(self._address):
                for task in waiting:
                    with contextlib.suppress(Exception):  # the cluster may be lost
                        self._ray.cancel(task)

    def spread(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        return self.map(function, items)

    def _result(self, task: Any) -> Any:
        """Waits for a task.

        Raises:
            UserError: the task raised it, or the cluster is lost.
        """
        since = time.monotonic()
        while True:
            try:
                result = self._ray.get(task, timeout=LOOK)
            except self._ray.exceptions.GetTimeoutError:
                since = self._look(since)
                continue
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, ImportError):
                    raise UserError(
                        f"a node of the Ray cluster lacks Suri or a library: {one_line(cause)}", "data.engine: ray",
                        "install the same versions of Suri and Python on all nodes (docs/data.md)",
                    ) from None  # fmt: skip
                raise
            except self._ray.exceptions.RayError as error:
                what = f"the Ray cluster lost a task {RETRIES + 1} times or its data: {one_line(error)}"
                fix = "free memory on its nodes or take out the one that fails, then run the same command again"
                raise UserError(what, "data.engine: ray", fix) from None
            if isinstance(result, UserError):
                raise result
            return result

    def _look(self, since: float) -> float:
        """Checks a cluster that gave no result. Returns since when it has no CPUs, or now if it has some.

        Raises:
            UserError: its head does not answer, or it has had no CPU for `PATIENCE`.
        """
        has_cpus, now = self._cpus() > 0, time.monotonic()
        if has_cpus:
            return now
        if now - since > PATIENCE:
            what = f"the Ray cluster has had no CPU for {PATIENCE:.0f} s: its worker nodes are lost"
            raise UserError(what, "data.engine: ray", RESUME)
        if now - since < 2 * LOOK:
            warn(f"data: the Ray cluster has no CPU left; waiting {PATIENCE:.0f} s for nodes to join")
        return since

    def _cpus(self) -> int:
        """CPUs of the nodes that are alive.

        Raises:
            UserError: the head of the cluster does not answer; Ray would wait for it, and then end this process.
        """
        if not _answers(self._address):
            what = f"the head of the Ray cluster at {self._address} does not answer"
            raise UserError(what, "data.engine: ray", RESUME)
        nodes = (node for node in self._ray.nodes() if node["Alive"])
        return int(sum(node["Resources"].get("CPU", 0) for node in nodes))


def _start(ray: Any) -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts one on this machine.

    Raises:
        UserError: there is none at that address.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    fix = "check RAY_ADDRESS and `ray status`, or unset it to use this machine"
    if ADDRESS.fullmatch(address) and not _answers(address):  # Ray itself would try for minutes
        raise UserError(f"no Ray cluster answers at {address}", "data.engine: ray", fix)
    # By itself Ray would take a cluster of this machine that somebody else started, even one that is gone.
    own = {} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster: {one_line(error)}", "data.engine: ray", fix) from None


def _answers(address: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def _apply(name: str, shared: list[Any], item: Any) -> Any:
    """A task. The function is fetched and unpickled once in each worker process: `shared` holds its reference."""
    import ray

    if name not in _functions:
        _functions.clear()
        _functions[name] = ray.get(shared[0])
    try:
        return _functions[name](item)
    except UserError as error:  # Ray would wrap it in its own traceback
        return error
