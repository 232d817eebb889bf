"""The plan of a run as text, for `make plan` and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config.method_rules import spec_of
from pipeline.config.rope import longer
from pipeline.config.schema import Config, Train
from pipeline.run.next_command import next_command
from pipeline.training.footprint import Footprint
from pipeline.training.lowest_loss import never_early
from pipeline.training.plan import GIB, Plan, pass_tokens
from pipeline.training.schedule import steps_per_epoch, warmup_steps


def lines(config: Config, planned: Plan, times: Sequence[str] = (), card: Sequence[str] = ()) -> list[str]:
    """The plan as text. times: lines on how long it will take (`duration.lines`). card: lines on what fits
    (`card_plan.lines`)."""
    method, train, cutoff = spec_of(config.adapter), config.train, config.prompt.cutoff
    if method.export == "nothing":
        kept = f"adapter    none; {config.adapter.shots} examples in front of each question"
    elif not method.float32:
        kept = f"adapter    {planned.trained * 4 / 1e6:,.1f} MB in float32"
    else:
        kept = f"checkpoint {planned.checkpoint_gb:,.1f} GB, weights in float32 and the optimiser's state"
    with_adapter = "" if method.float32 else ", with the adapter itself"
    return [
        f"run        {config.name}: {config.adapter.method} on {config.model.base or 'random weights'}, "
        f"template {config.prompt.template}",
        *_amounts(train, config.data.val, cutoff, planned),
        *_early_stop(train, planned),
        *_context(config.model.rope_scaling, cutoff, planned),
        *times,
        f"parameters {planned.parameters:,}, trained {planned.trained:,} ({planned.trained / planned.everything:.3%})",
        kept,
        f"memory     {planned.weights_gib:.2f} GiB weights",
        f"           {planned.training_gib:.2f} GiB gradients and optimiser{with_adapter}",
        *_copies(planned),
        *_penalties(train, planned),
        *(_packs(train.batch_size, cutoff, planned, planned.fast) if planned.fast else _one_row(cutoff, planned)),
        *card,
    ]


def _amounts(train: Train, val: float, cutoff: int, planned: Plan) -> list[str]:
    """Rows, tokens and steps; `unknown` if they are. val: `data.val`, a share below 1, else a number of rows."""
    unknown = "unknown until the data is here"
    held = "none held out" if not val else f"{val:.2%} held out" if val < 1 else f"{val:,} held out"
    if planned.rows is None:
        return [f"rows       {unknown}; {held}", f"tokens     {unknown}", f"steps      {unknown}"]
    how = "" if planned.exact else " at most (before rows are checked)"
    count = f"`{next_command('data')}` counts them"
    bound = "" if planned.exact else f" at most (rows x cutoff {cutoff}; {count})"
    rows = f"rows       {planned.rows:,} to train on{how}, {held}"
    tokens = f"tokens     {planned.tokens:,} an epoch{bound}"
    if planned.steps is None:
        return [rows, tokens, "steps      none: no rows to train on"]
    size, an_epoch = train.batch_size, steps_per_epoch(planned.rows, train)
    warm = warmup_steps(planned.steps, train.warmup)
    arithmetic = f"{an_epoch:,} an epoch x {train.epochs:g} epochs"
    if train.accumulation_4_28:
        arithmetic += ", the rest of an epoch carried into the next one, as transformers 4.28 did"
    if planned.steps == train.max_steps:
        arithmetic = f"train.max_steps; an epoch would be {an_epoch:,}"
    most = "" if planned.exact else "at most "
    return [rows, tokens, f"steps      {most}{planned.steps:,} of {size} rows ({arithmetic}), {warm:,} of them warm-up"]


def _early_stop(train: Train, planned: Plan) -> list[str]:
    """That early stopping cannot happen, if so; the steps may be fewer than an inexact plan says, never more."""
    problem = never_early(train, planned.steps) if planned.steps else ""
    return [f"early stop {problem}"] if problem else []


def _context(scaling: dict[str, Any] | None, cutoff: int, planned: Plan) -> list[str]:
    """Rows that the model cannot take, if there are or may be any."""
    longest = planned.longest or cutoff
    if planned.context is None or longest <= planned.context:
        return []
    how = f"the longest row has {longest:,}" if planned.longest else f"prompt.cutoff allows rows of {cutoff:,}"
    return [
        f"context    this model sees {planned.context:,} tokens, and {how}: set prompt.cutoff={planned.context}, or "
        f"lengthen the context: {longer(scaling, planned.context, longest)}"
    ]


def _copies(planned: Plan) -> list[str]:
    """Memory of copies of trained blocks, if there are any."""
    if not planned.copies_gib:
        return []
    return [f"           {planned.copies_gib:.2f} GiB copies of the blocks' weights in 16 bits"]


def _penalties(train: Train, planned: Plan) -> list[str]:
    """Memory of penalties, if there are any; 0 with `l2_sp` and a plain LoRA, which starts at zero."""
    if not (train.l2_sp or train.ewc):
        return []
    kept = "the weights' start and their Fisher information" if train.ewc else "the weights' start"
    return [f"           {planned.penalty_gib:.2f} GiB for penalties: {kept}"]


def _packs(batch_size: int, cutoff: int, planned: Plan, fast: Footprint) -> list[str]:
    """The peak with a whole step at once and all kept, and with small packs and recomputation."""
    step, small = pass_tokens(batch_size, cutoff, planned)
    ways = [
        (step, "none", f"if a step runs in one pass ({step:,} tokens)"),
        (small, "none", f"with {small:,} tokens in a pass"),
        (small, "block", f"with {small:,} tokens in a pass and activations recomputed"),
    ]
    peaks = [
        f"           peak {fast.peak(tokens, way) / GIB:.2f} GiB {how}"
        for tokens, way, how in (ways if small < step else ways[:1] + ways[2:])
    ]
    return [*peaks, "           training chooses by the memory that is free when it starts"]


def _one_row(cutoff: int, planned: Plan) -> list[str]:
    longest = planned.longest or cutoff
    kept, recomputed = planned.one_row_gib(longest)
    row = f"activations of a row of {longest:,} tokens (estimate)"
    return [
        f"           {longest * planned.token_mib / 1024:.2f} GiB {row}",
        f"           peak {kept:.2f} GiB at least; with more free memory a pass takes more rows",
        f"           peak {recomputed:.2f} GiB at least with activations recomputed",
    ]
