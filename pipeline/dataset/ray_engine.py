"""The work on rows over a Ray cluster, as Ray Data transformations (extra `ray`).

On the cluster: forms, checks, rules, hashes, signatures, the search for benchmark questions, and the search for
neighbours of the novelty filter. On the machine that runs the command: reading the sources, writing the result, and the
passes over all rows in order, whose decisions depend on earlier ones (duplicates, split, mixture); they use compact
features.

The cluster is that of RAY_ADDRESS, otherwise one that is started on this machine.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pipeline.run.errors import UserError, one_line

In = TypeVar("In")
Out = TypeVar("Out")
WAVE = 1 << 28  # bytes given to Ray Data at once: bounds the memory here and in its object store


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
            import ray.data
        except ImportError:
            raise UserError("ray is not installed", "data.engine", "make .venv/.ray, or engine: local") from None
        if not ray.is_initialized():
            try:
                ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UserError(f"no Ray cluster: {one_line(error)}", "data.engine", "check RAY_ADDRESS") from None
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come back to us; the rest is chatter
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        self._ray = ray
        self.slices = max(int(ray.cluster_resources().get("CPU", 1)), 1)

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        rest = iter(items)
        while wave := _wave(rest):
            data = self._ray.data.from_items(wave, override_num_blocks=min(len(wave), 4 * self.slices))
            pool = self._ray.data.ActorPoolStrategy(size=min(self.slices, len(wave)))
            done = data.map(_Call, fn_constructor_args=(pickle.dumps(function),), compute=pool)
            for row in done.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, UserError):
                    raise result
                yield result

    def spread(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """One task for each item: a pass of Ray Data takes seconds to start, too long for each step of a loop."""
        shared = self._ray.put(function)
        task = self._ray.remote(_apply)
        for result in [task.remote(shared, item) for item in items]:
            yield self._ray.get(result)


def _wave(items: Iterator[Any]) -> list[dict[str, bytes]]:
    """The next items, pickled, about `WAVE` bytes."""
    wave: list[dict[str, bytes]] = []
    size = 0
    for item in items:
        wave.append({"item": pickle.dumps(item)})
        size += len(wave[-1]["item"])
        if size > WAVE:
            break
    return wave


def _apply(function: Callable[[In], Out], item: In) -> Out:
    return function(item)


class _Call:
    """One worker: the function is unpickled once."""

    def __init__(self, function: bytes) -> None:
        self._function = pickle.loads(function)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result = self._function(pickle.loads(row["item"]))
        except UserError as error:  # Ray would wrap it in its own traceback
            result = error
        return {"result": pickle.dumps(result)}
