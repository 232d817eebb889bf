"""The plan of a run: rows, tokens, steps, trained parameters, memory.

It needs no weights: the model is built on the meta device from the base's config.json or `model.geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from pipeline.config.method_rules import has_kernels, spec_of
from pipeline.config.schema import Config
from pipeline.dataset.read.source import kind_of as kind_of_source
from pipeline.dataset.read.source import read
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.load import BYTES, DIVIDE, dtype_name, geometry_config, read_shape
from pipeline.model.packed.support import has_llama_blocks
from pipeline.run.errors import UserError, one_line
from pipeline.run.next_command import next_command
from pipeline.training.memory import FULL_SPEED, MAX_TOKENS, Footprint, predict_footprint
from pipeline.training.penalty import kept_numbers
from pipeline.training.schedule import steps_per_epoch, total_steps, warmup_steps

GIB = 2**30
WEIGHT_BYTES = {"none": None, "int8": 1.05, "nf4": 0.516, "fp8": 2.0}  # with their scales; fp8 by rows and by columns


@dataclass(frozen=True)
class Plan:
    """rows: to train on, None if unknown. exact: whether `tokens` was counted; otherwise it is an upper bound.

    parameters: of the base. everything: with those that the method adds. token_mib: per token on the plain path, an
    estimate. blocks: of the base. fast: footprint of the fast path if it has LLaMA's blocks. penalty_gib: starts and
    importances that `train.l2_sp` and `train.ewc` keep.
    """

    rows: int | None
    tokens: int | None
    exact: bool
    steps: int | None
    parameters: int
    everything: int
    trained: int
    weights_gib: float
    training_gib: float
    token_mib: float
    blocks: int = 0
    fast: Footprint | None = None
    penalty_gib: float = 0.0


def plan(config: Config, counted: dict[str, int] | None = None) -> Plan:
    """The arithmetic of a config.

    Args:
        counted: `rows` and `tokens` of the training split, if the tokens stage has counted them.

    Raises:
        UserError: neither the base's config.json nor a geometry can be read.
    """
    rows, tokens, exact = _rows(config, counted)
    shape = _shape(config)
    old = shape.vocab_size
    shape.vocab_size += len(config.model.add_tokens)
    logging.set_verbosity_error()
    model = _empty(shape)
    parameters = sum(p.numel() for p in model.parameters())
    weights = _weight_bytes(config, model)
    method = adapters.method_of(config.adapter)
    packed = config.train.fast and has_kernels(config.adapter) and has_llama_blocks(model)
    with init_empty_weights():
        adapted = adapters.attach(model, config.adapter, 0, tuple(range(old, shape.vocab_size)))
    trained, everything = adapters.parameter_counts(adapted)
    penalty = _penalty_bytes(config, adapted)
    # Gradient and AdamW's two moments in float32; an adapter itself is in float32 too.
    per_trained = 12 if method.spec.float32 else 16
    return Plan(
        rows=rows,
        tokens=tokens,
        exact=exact,
        steps=total_steps(rows, config.train) if rows else None,
        parameters=parameters,
        everything=everything,
        trained=trained,
        weights_gib=weights / GIB,
        training_gib=trained * per_trained / GIB,
        token_mib=_token_bytes(config, shape) / 2**20,
        blocks=int(getattr(shape, "num_hidden_layers", 0)),
        fast=_footprint(config, shape, adapted, weights + penalty, trained) if packed else None,
        penalty_gib=penalty / GIB,
    )


def _penalty_bytes(config: Config, adapted: Any) -> int:
    """Bytes of starts and importances, in float32."""
    settings = config.train
    if not (settings.l2_sp or settings.ewc):
        return 0
    started = config.adapter.init != "default"
    return 4 * kept_numbers(adapted, adapters.trained(adapted), bool(settings.ewc), started)


def _footprint(config: Config, shape: Any, adapted: Any, weights: float, trained: int) -> Footprint:
    ranks = sum(m.lora_A["default"].weight.shape[0] for m in adapted.modules() if hasattr(m, "lora_A"))
    quantized = config.model.quantize in ("nf4", "int8")
    a_block = math.ceil(ranks / shape.num_hidden_layers)
    return predict_footprint(shape, weights, trained, a_block, BYTES[dtype_name(config.model)], quantized)


def _empty(shape: Any) -> Any:
    """The model without storage for its weights.

    Raises:
        UserError: no model has this shape.
    """
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(shape)
        model.tie_weights()
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"no model has this shape: {one_line(error)}", "model", DIVIDE) from None
    return model


def lines(config: Config, planned: Plan, times: Sequence[str] = ()) -> list[str]:
    """The plan as text. times: lines on how long it will take (`duration.lines`)."""
    method = adapters.method_of(config.adapter)
    if method.spec.export == "nothing":
        kept = f"adapter    none; {config.adapter.shots} examples in front of each question"
    elif not method.spec.float32:
        kept = f"adapter    {planned.trained * 4 / 1e6:,.1f} MB in float32"
    else:
        kept = f"checkpoint {planned.trained * 12 / 1e9:,.1f} GB in float32, weights and AdamW's moments"
    return [
        f"run        {config.name}: {config.adapter.method} on {config.model.base or 'random weights'}, "
        f"template {config.prompt.template}",
        *_amounts(config, planned),
        *times,
        f"parameters {planned.parameters:,}, trained {planned.trained:,} ({planned.trained / planned.everything:.3%})",
        kept,
        f"memory     {planned.weights_gib:.2f} GiB weights",
        f"           {planned.training_gib:.2f} GiB gradients and optimiser" + _and_adapter(config),
        *_penalties(config, planned),
        *(_packs(config, planned, planned.fast) if planned.fast else _one_row(config, planned)),
    ]


def _penalties(config: Config, planned: Plan) -> list[str]:
    """Memory of penalties, if there are any; 0 with `l2_sp` and a plain LoRA, which starts at zero."""
    if not (config.train.l2_sp or config.train.ewc):
        return []
    kept = "the weights' start and their Fisher information" if config.train.ewc else "the weights' start"
    return [f"           {planned.penalty_gib:.2f} GiB for penalties: {kept}"]


def _packs(config: Config, planned: Plan, fast: Footprint) -> list[str]:
    """The peak with a whole step at once and all kept, and with small packs and recomputation."""
    mean = planned.tokens / planned.rows if planned.rows and planned.tokens else config.prompt.cutoff
    step = min(MAX_TOKENS, math.ceil(config.train.batch_size * mean))
    small = min(step, FULL_SPEED)
    ways = [
        (step, False, f"if a step runs in one pass ({step:,} tokens)"),
        (small, False, f"with {small:,} tokens in a pass"),
        (small, True, f"with {small:,} tokens in a pass and activations recomputed"),
    ]
    peaks = [
        f"           peak {fast.peak(tokens, recompute) / GIB:.2f} GiB {how}"
        for tokens, recompute, how in (ways if small < step else ways[:1] + ways[2:])
    ]
    return [*peaks, "           training chooses by the memory that is free when it starts"]


def _one_row(config: Config, planned: Plan) -> list[str]:
    longest = config.prompt.cutoff * planned.token_mib / 1024
    least = planned.weights_gib + planned.training_gib + planned.penalty_gib + longest
    return [
        f"           {longest:.2f} GiB activations of one row of {config.prompt.cutoff} tokens (estimate)",
        f"           peak {least:.2f} GiB at least; with more free memory a pass takes more rows",
    ]


def _and_adapter(config: Config) -> str:
    return "" if spec_of(config.adapter).float32 else ", with the adapter itself"


def _amounts(config: Config, planned: Plan) -> list[str]:
    """Rows, tokens and steps; `unknown` if they are."""
    unknown = "unknown until the data is here"
    val = config.data.val
    held = "none held out" if not val else f"{val:.2%} held out" if val < 1 else f"{val:,} held out"
    if planned.rows is None:
        return [f"rows       {unknown}; {held}", f"tokens     {unknown}", f"steps      {unknown}"]
    size = config.train.batch_size
    how = "" if planned.exact else " at most (before rows are checked)"
    count = f"`{next_command('data')}` counts them"
    bound = "" if planned.exact else f" at most (rows x cutoff {config.prompt.cutoff}; {count})"
    rows = f"rows       {planned.rows:,} to train on{how}, {held}"
    tokens = f"tokens     {planned.tokens:,} an epoch{bound}"
    if planned.steps is None:
        return [rows, tokens, "steps      none: no rows to train on"]
    an_epoch = steps_per_epoch(planned.rows, config.train)
    warm = warmup_steps(planned.steps, config.train.warmup)
    arithmetic = f"{an_epoch:,} an epoch x {config.train.epochs:g} epochs"
    if config.train.accumulation_4_28:
        arithmetic += ", the rest of an epoch carried into the next one, as transformers 4.28 did"
    if planned.steps == config.train.max_steps:
        arithmetic = f"train.max_steps; an epoch would be {an_epoch:,}"
    most = "" if planned.exact else "at most "
    return [rows, tokens, f"steps      {most}{planned.steps:,} of {size} rows ({arithmetic}), {warm:,} of them warm-up"]


def _rows(config: Config, counted: dict[str, int] | None) -> tuple[int | None, int | None, bool]:
    """Rows to train on, their tokens per epoch, and whether the tokens were counted."""
    if counted is not None:
        return counted["rows"], counted["tokens"], True
    total = 0
    for source in config.data.sources:
        count: int | None
        try:
            local = kind_of_source(source) in ("file", "files", "families")
        except UserError:
            if source.rows is None:
                raise
            local = False
        count = sum(1 for _ in read(source, config.data.seed)) if local else source.rows
        if count is None:
            return None, None, False
        total += min(count, source.limit or count)
    val = config.data.val
    rows = max(0, total - int(total * val if val < 1 else val))
    return rows, rows * config.prompt.cutoff, False


def _shape(config: Config) -> Any:
    """The base's transformers config, from the geometry, from its folder, or from the hub (config.json alone)."""
    if config.model.geometry is not None:
        return geometry_config(config.model)
    if bases.kind_of(config.model) == "hub":
        place = config.model.base
        fix = "check the id, the network, and HF_TOKEN for gated models, or give the shape as model.geometry"
    else:
        place, fix = str(bases.resolve(config.model).folder), "check that this transformers knows the model"
    try:
        return read_shape(place, local=False)
    except UserError as error:
        raise UserError(f"cannot read config.json of {place!r}: {error.what}", "model.base", fix) from None


def _weight_bytes(config: Config, model: Any) -> float:
    """Bytes of the weights in the run's types; only linear layers inside the blocks are quantised."""
    size = 4 if spec_of(config.adapter).float32 else BYTES[dtype_name(config.model)]
    packed = WEIGHT_BYTES[config.model.quantize]
    total = 0.0
    head = model.get_output_embeddings()
    inside = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    for parameter in model.parameters():
        total += parameter.numel() * (packed if packed and id(parameter) in inside else size)
    return total


def _token_bytes(config: Config, shape: Any) -> float:
    """Activations kept for the backward pass, bytes per token: an estimate.

    Per block about ten vectors of the hidden size and four of the MLP's, in the type of the arithmetic, 30 % more with
    adapters; for the head three float32 vectors of the vocabulary's size per labelled token.
    """
    hidden = shape.hidden_size
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    size = BYTES[dtype_name(config.model)]
    block = (10 * hidden + 4 * inner) * size * (1.0 if spec_of(config.adapter).float32 else 1.3)
    return float(shape.num_hidden_layers * block + 12 * shape.vocab_size * (0.4 if config.prompt.mask_prompt else 1.0))
