"""The type of the arithmetic on a CPU: what `model.dtype: auto` becomes there.

Products in bf16 take less than half of float32's time on processors that have instructions for them (avx512_bf16, AMX),
and 200 times as much on others. So one product of each type is measured, once a run, before its training:

    no record ── measure ── runs/NAME/cpu_dtype.json ── `bound`: the config of every later command

A run keeps the recorded type on another CPU and after another measurement, since its checkpoints, its adapter and
its export depend on it: bf16 stands in their keys as if the config had named it. `fp32` leaves `auto`, which
means float32 on CPUs and the card's own type on a card.

Needs no torch but for the measurement.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.method_rules import has_kernels
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, sealed, write_json
from pipeline.run.folder import Run
from pipeline.run.progress import say

RECORD = "cpu_dtype.json"
FASTER = 1.3  # times as fast as float32 that bf16 must be: a whole step gains less than its products
HOPELESS = 10.0  # times as slow as float32 that a small product in bf16 may be before a large one is tried
SMALL, LARGE = (32, 256), (256, 1024)  # rows, and side of the square weight: 4 and 540 million operations
SECONDS = 0.15  # of the measurement


@dataclass(frozen=True)
class ProductSeconds:
    """Seconds of processor time that the same product takes in each type, on one thread."""

    fp32: float
    bf16: float

    @property
    def gain(self) -> float:
        """How many times as fast as float32 bf16 is."""
        return self.fp32 / self.bf16

    @property
    def dtype(self) -> str:
        """`bf16` where that is clearly faster, else `fp32`."""
        return "bf16" if self.gain >= FASTER else "fp32"


def bound(config: Config, run: Run) -> Config:
    """The config with the type that its run has recorded, where it leaves the type open.

    Raises:
        UserError: the record is damaged.
    """
    path = run.root / RECORD
    if config.model.dtype != "auto" or not path.exists():
        return config
    return _with(config, _recorded(path))


def choose(config: Config, run: Run) -> Config:
    """As `bound`; where nothing is recorded and the training has not begun, measures, says and records the type.

    Raises:
        UserError: the record is damaged, or the run folder cannot be written.
    """
    if config.model.dtype == "auto" and (run.root / RECORD).exists():
        return bound(config, run)
    if not _is_open(config, run):
        return config
    seconds = measure()
    say(f"train: model.dtype: auto is {seconds.dtype}: on this CPU a product in bf16 is {_times(seconds)} as in "
        f"float32. The run keeps this type ({RECORD})")  # fmt: skip
    value = {"dtype": seconds.dtype, "product_seconds": asdict(seconds), "processor": _processor()}
    run.root.mkdir(parents=True, exist_ok=True)
    write_json(run.root / RECORD, sealed(value))
    return bound(config, run)


def expected(config: Config, run: Run) -> Config:
    """As `choose`, for a plan: nothing is recorded or said."""
    config = bound(config, run)
    is_recorded = (run.root / RECORD).exists()
    return _with(config, measure().dtype) if not is_recorded and _is_open(config, run) else config


def warn_if_slow() -> None:
    """Says so where bf16, which a config names, is slower than float32 on this CPU."""
    seconds = measure()
    if seconds.gain < 1:
        text = f"model: a product in bf16 is {_times(seconds)} as in float32 on this CPU"
        say(f"{text}; model.dtype=auto takes the faster type")


@functools.cache
def measure() -> ProductSeconds:
    """Measures products of both types in turn for a fifth of a second; the best time of each, once a process.

    On one thread, in processor time: other work on the machine then hardly changes the ratio.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        small = _best(SMALL, 0)
        return small if small.gain < 1 / HOPELESS else _best(LARGE, SECONDS)
    finally:
        torch.set_num_threads(threads)


def _best(size: tuple[int, int], seconds: float) -> ProductSeconds:
    """The best time of each type in at least three rounds, until `seconds` of wall time have passed."""
    import torch

    rows, side = size
    x, weight = torch.ones(rows, side), torch.full((side, side), 1 / side)
    pairs = [(x, weight), (x.bfloat16(), weight.bfloat16())]
    times: list[list[float]] = [[], []]
    begun = time.perf_counter()
    with torch.inference_mode():
        while len(times[0]) < 4 or time.perf_counter() - begun < seconds:
            for own, (left, right) in zip(times, pairs, strict=True):
                started = time.thread_time()
                torch.nn.functional.linear(left, right)
                own.append(max(time.thread_time() - started, 1e-9))
    return ProductSeconds(*(min(own[1:]) for own in times))  # the first product of a shape compiles its kernel


def _is_open(config: Config, run: Run) -> bool:
    """Whether the type of this run is still to be chosen by measuring.

    Not on a card, which has a type of its own; nor where the run began without a record, in float32; nor where other
    processes compute on the same cores. Only for plain LoRA on a base in 16 or 32 bits: other methods compute under
    autocast, which converts weights again and again, and train weights of the base in float32.
    """
    if config.model.dtype != "auto" or config.model.quantize != "none" or not has_kernels(config.adapter):
        return False
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return False
    if run.manifest("adapter") is not None or any(run.folder("checkpoints").glob("step-*")):
        return False
    import torch

    return not torch.cuda.is_available()


def _with(config: Config, dtype: str) -> Config:
    if dtype == "fp32":
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})


def _recorded(path: Path) -> str:
    record: Any = read_json(path)
    if isinstance(record, dict) and sealed(record) == record and record.get("dtype") in ("bf16", "fp32"):
        return str(record["dtype"])
    what = "the record of the type that this run computes with is damaged"
    raise UserError(what, str(path), "put it back, or set model.dtype to the type that config.yaml beside it names")


def _times(seconds: ProductSeconds) -> str:
    gain = seconds.gain
    return f"{gain:.1f} times as fast" if gain >= 1 else f"{1 / gain:.1f} times as slow"


def _processor() -> str:
    """The name of this CPU, as Linux gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or platform.processor()
    except OSError:
        return platform.processor()
