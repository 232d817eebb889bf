"""How long training will take: from the speed of an earlier run, else a rough estimate from a measured matrix product.

    earlier run    tokens / (tokens a second of its steps), between the quartiles
    estimate       tokens x operations a token / (share x operations a second of a product of two matrices)

A token costs about 2 operations for each parameter in the forward pass, as many again in the backward pass of the
blocks with trained weights, and as many again where the weights themselves are trained (Kaplan et al. 2020, arXiv
2001.08361, section 2.1). Which share of the speed of a large product a whole step reaches varies with model and
machine, so the estimate is a range.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Adapter, Config, Model
from pipeline.model.base import identity
from pipeline.model.precision import DTYPES, device, dtype_name
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.progress import readable_time
from pipeline.training import metrics
from pipeline.training.plan import Plan

SHARE = (0.25, 0.9)  # of the speed of a product that steps reach, by hand; 0.25 was measured on two busy cores
FEWEST = 4  # steps of a run whose speed is used; the first of a run is slower and does not count
SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices
MEASURED = 0.3  # seconds


@dataclass(frozen=True)
class Duration:
    """Seconds of training, without loading, evaluation and export; how they were found, for the user."""

    low: float
    high: float
    source: str
    is_rough: bool


def duration(config: Config, planned: Plan, runs: Path) -> Duration | None:
    """The time that the steps of a plan will take on this machine; None where rows or steps are not known.

    Args:
        runs: folder with run folders, whose speeds are used where they fit.
    """
    if not planned.rows or not planned.tokens or not planned.steps or not planned.trained:
        return None
    tokens = planned.steps * config.train.batch_size * planned.tokens / planned.rows
    model, adapter = config.model, config.adapter
    return from_earlier_runs(model, adapter, tokens, runs) or from_product(model, adapter, planned, tokens)


def lines(planned: Plan, estimate: Duration | None) -> list[str]:
    """The estimate as lines of `make plan`."""
    if estimate is None:
        return []
    low, high = (readable_time(seconds) for seconds in (estimate.low, estimate.high))
    span = low if low == high else f"{low} to {high}"
    kind = "rough estimate" if estimate.is_rough else "from an earlier run"
    most = "" if planned.exact else ", if every row had the most tokens"
    return [
        f"time       {span} of training ({kind}){most}",
        f"           {estimate.source}",
        "           loading, evaluation and export come on top",
    ]


def from_earlier_runs(model: Model, adapter: Adapter, tokens: float, runs: Path) -> Duration | None:
    """By the newest run of the same base, adapter and kind of device, with any data."""
    folders = (path.parent.parent for path in runs.glob("*/adapter/manifest.json"))
    for root in sorted(folders, key=lambda path: -Run(path).written("adapter")):
        speeds = _speeds(model, adapter, Run(root))
        if len(speeds) >= FEWEST:
            slow, middle, fast = statistics.quantiles(speeds, n=4)
            return Duration(tokens / fast, tokens / slow, f"{middle:,.0f} tokens/s as measured in {root}", False)
    return None


def _speeds(model: Model, adapter: Adapter, run: Run) -> list[float]:
    """Tokens a second of a run's steps; none if it trained something else or on another kind of device."""
    manifest = run.manifest("adapter") or {}
    key, counts = manifest.get("key", {}), manifest.get("counts", {})
    try:
        same = (
            key.get("model") == identity.settings(model)
            and key.get("base") == identity.identity(model)
            and key.get("adapter") == adapter.model_dump(mode="json")
            and str(counts.get("device", "")).partition(":")[0] == device().type
            and counts.get("processes", 1) == 1
        )
    except (UserError, OSError):
        return []
    steps = [line for line in metrics.read(run.root / "metrics.jsonl") if line.get("seconds") and line.get("tokens")]
    return [line["tokens"] / line["seconds"] for line in steps[1:]] if same else []


def from_product(model: Model, adapter: Adapter, planned: Plan, tokens: float) -> Duration:
    """By the operations of a token and the speed of a product of two matrices, which is measured."""
    work, speed = operations(adapter, planned), product_speed(model)
    share = f"{SHARE[0]:.0%} to {SHARE[1]:.0%} of the {speed / 1e9:,.0f} GFLOP/s that this machine reaches now"
    source = f"{work / 1e9:.2g} GFLOP a token, at {share}"
    return Duration(tokens * work / (SHARE[1] * speed), tokens * work / (SHARE[0] * speed), source, True)


def operations(adapter: Adapter, planned: Plan) -> float:
    """Floating-point operations of training on a token."""
    blocks, last = planned.blocks, adapter.last_blocks
    reached = min(1.0, last / blocks) if last and blocks else 1.0  # share of the blocks that the backward pass reaches
    trained = planned.parameters if spec_of(adapter).float32 else planned.trained
    return 2.0 * planned.parameters * (1 + reached) + 2.0 * trained


def product_speed(model: Model) -> float:
    """Operations a second of a product of two large matrices in the type of the run, the median of a few tenths of a
    second."""
    where = device()
    dtype = DTYPES[dtype_name(model)]
    side = SIDES[where.type]
    a = torch.randn(side, side, device=where).to(dtype)
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < 3 or time.perf_counter() - begun < MEASURED:
        started = time.perf_counter()
        a @ a
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 / statistics.median(seconds[1:])
