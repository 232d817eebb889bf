"""What a run will be, before it costs anything: rows, tokens, steps, trained parameters, memory.

Needs no weights: the model is built without storage from the base's config.json, or from `model.geometry`.
"""

from __future__ import annotations

import math
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
from pipeline.run.errors import UserError
from pipeline.training.footprint import Footprint, footprint
from pipeline.training.memory import FULL, MOST
from pipeline.training.penalty import kept_numbers
from pipeline.training.schedule import steps_an_epoch, total_steps, warmup_steps

GIB = 2**30
WEIGHT_BYTES = {"none": None, "int8": 1.05, "nf4": 0.516, "fp8": 2.0}  # with their scales; fp8 by rows and by columns


@dataclass(frozen=True)
class Plan:
    """rows: to train on, None when unknown. exact: whether `tokens` was counted or is an upper bound.

    parameters: of the base. everything: with those that the method adds.

    token_mib: what the plain path keeps of a token, an estimate. fast: what the fast path takes, where it has whole
    blocks as functions. penalty_gib: starts and importances that `train.l2_sp` and `train.ewc` hold on to.
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
    fast: Footprint | None = None
    penalty_gib: float = 0.0


def plan(config: Config, counted: dict[str, int] | None = None) -> Plan:
    """The arithmetic of a config.

    Args:
        counted: `rows` and `tokens` of the training part, where the tokens stage has counted them.

    Raises:
        UserError: neither the base's config.json nor a geometry is at hand.
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
    # Beside the weights: gradient and AdamW's two moments in float32, for adapters the float32 adapter itself too.
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
        fast=_footprint(config, shape, adapted, weights + penalty, trained) if packed else None,
        penalty_gib=penalty / GIB,
    )


def _penalty_bytes(config: Config, adapted: Any) -> int:
    """What penalties towards the start keep for the whole run, all of it in float32."""
    settings = config.train
    if not (settings.l2_sp or settings.ewc):
        return 0
    started = config.adapter.init != "default"
    return 4 * kept_numbers(adapted, adapters.trained(adapted), bool(settings.ewc), started)


def _footprint(config: Config, shape: Any, adapted: Any, weights: float, trained: int) -> Footprint:
    ranks = sum(m.lora_A["default"].weight.shape[0] for m in adapted.modules() if hasattr(m, "lora_A"))
    bits = config.model.quantize in ("nf4", "int8")
    a_block = math.ceil(ranks / shape.num_hidden_layers)
    return footprint(shape, weights, trained, a_block, BYTES[dtype_name(config.model)], bits)


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
        said = " ".join(str(error).split())[:300]
        raise UserError(f"no model has this shape: {said}", "model", DIVIDE) from None
    return model


def lines(config: Config, found: Plan) -> list[str]:
    """The plan as a person reads it."""
    method = adapters.method_of(config.adapter)
    if method.spec.export == "nothing":
        kept = f"adapter    none; {config.adapter.shots} examples in front of each question"
    elif not method.spec.float32:
        kept = f"adapter    {found.trained * 4 / 1e6:,.1f} MB in float32"
    else:
        kept = f"checkpoint {found.trained * 12 / 1e9:,.1f} GB in float32, weights and AdamW's moments"
    return [
        f"run        {config.name}: {config.adapter.method} on {config.model.base or 'random weights'}, "
        f"template {config.prompt.template}",
        *_amounts(config, found),
        f"parameters {found.parameters:,}, trained {found.trained:,} ({found.trained / found.everything:.3%})",
        kept,
        f"memory     {found.weights_gib:.2f} GiB weights",
        f"           {found.training_gib:.2f} GiB gradients and optimiser" + _and_adapter(config),
        *_penalties(config, found),
        *(_packs(config, found, found.fast) if found.fast else _one_row(config, found)),
    ]


def _penalties(config: Config, found: Plan) -> list[str]:
    """What penalties take, where there are any; with `l2_sp` a plain LoRA takes nothing, as it starts at zero."""
    if not (config.train.l2_sp or config.train.ewc):
        return []
    kept = "the weights' start and their Fisher information" if config.train.ewc else "the weights' start"
    return [f"           {found.penalty_gib:.2f} GiB for penalties: {kept}"]


def _packs(config: Config, found: Plan, fast: Footprint) -> list[str]:
    """The peak with a whole step at once and all kept, and with small packs and blocks computed again."""
    mean = found.tokens / found.rows if found.rows and found.tokens else config.prompt.cutoff
    step = min(MOST, math.ceil(config.train.batch_size * mean))
    small = min(step, FULL)
    ways = [(step, False, "a whole step"), (small, False, "all kept"), (small, True, "blocks computed again")]
    said = [
        f"           {fast.peak(tokens, again) / GIB:.2f} GiB at the peak with {tokens:,} tokens at once, {how}"
        for tokens, again, how in (ways if small < step else ways[:1] + ways[2:])
    ]
    return [*said, "           what is free when the run begins decides between them"]


def _one_row(config: Config, found: Plan) -> list[str]:
    longest = config.prompt.cutoff * found.token_mib / 1024
    least = found.weights_gib + found.training_gib + found.penalty_gib + longest
    return [
        f"           {longest:.2f} GiB activations of one row of {config.prompt.cutoff} tokens, "
        f"about {found.token_mib:.2f} MiB a token (estimate)",
        f"           {least:.2f} GiB at least; what is free beyond that takes more rows at once",
    ]


def _and_adapter(config: Config) -> str:
    return "" if spec_of(config.adapter).float32 else ", with the adapter itself"


def _amounts(config: Config, found: Plan) -> list[str]:
    """Rows, tokens and steps, each said to be unknown where it is."""
    unknown = "unknown until the data is here"
    val = config.data.val
    held = "none held out" if not val else f"{val:.2%} held out" if val < 1 else f"{val:,} held out"
    if found.rows is None:
        return [f"rows       {unknown}; {held}", f"tokens     {unknown}", f"steps      {unknown}"]
    size = config.train.batch_size
    how = "" if found.exact else " at most (before rows are checked)"
    bound = "" if found.exact else f" at most (rows x cutoff {config.prompt.cutoff}; `make data` counts them)"
    rows = f"rows       {found.rows:,} to train on{how}, {held}"
    tokens = f"tokens     {found.tokens:,} an epoch{bound}"
    if found.steps is None:
        return [rows, tokens, "steps      none: no rows are left to train on"]
    an_epoch = steps_an_epoch(found.rows, config.train)
    warm = warmup_steps(found.steps, config.train.warmup)
    arithmetic = f"{an_epoch:,} an epoch x {config.train.epochs:g} epochs"
    if config.train.accumulation_4_28:
        arithmetic += ", what is left over carried into the next one, as transformers 4.28 did"
    if found.steps == config.train.max_steps:
        arithmetic = f"train.max_steps; an epoch would be {an_epoch:,}"
    most = "" if found.exact else "at most "
    return [rows, tokens, f"steps      {most}{found.steps:,} of {size} rows ({arithmetic}), {warm:,} of them warm-up"]


def _rows(config: Config, counted: dict[str, int] | None) -> tuple[int | None, int | None, bool]:
    """Rows to train on and their tokens an epoch, and whether the tokens were counted."""
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
    """Bytes of the weights as the run holds them; only linear layers inside the blocks are quantised."""
    size = 4 if spec_of(config.adapter).float32 else BYTES[dtype_name(config.model)]
    packed = WEIGHT_BYTES[config.model.quantize]
    total = 0.0
    head = model.get_output_embeddings()
    inside = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    for parameter in model.parameters():
        total += parameter.numel() * (packed if packed and id(parameter) in inside else size)
    return total


def _token_bytes(config: Config, shape: Any) -> float:
    """Activations kept for the backward pass, bytes a token: an estimate.

    For each block about ten vectors of the hidden size and four of the MLP's, in the arithmetic's type, and as much
    again for adapters on every linear layer; for the head, three vectors of the vocabulary's size in float32 where
    tokens carry loss.
    """
    hidden = shape.hidden_size
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    size = BYTES[dtype_name(config.model)]
    block = (10 * hidden + 4 * inner) * size * (1.0 if spec_of(config.adapter).float32 else 1.3)
    return float(shape.num_hidden_layers * block + 12 * shape.vocab_size * (0.4 if config.prompt.mask_prompt else 1.0))
