"""What a run will be, before it costs anything: rows, tokens, steps, trained parameters, memory.

Needs no weights: the model is built without storage from the base's config.json, or from `model.geometry`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from pipeline.config import Config
from pipeline.dataset.source import kind_of as kind_of_source
from pipeline.dataset.source import read
from pipeline.errors import UserError
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.load import BYTES, dtype_name, geometry_config
from pipeline.training.schedule import total_steps, warmup_steps

GIB = 2**30
WEIGHT_BYTES = {"none": None, "int8": 1.05, "nf4": 0.57}  # with the scales that bitsandbytes keeps


@dataclass(frozen=True)
class Plan:
    """rows: to train on, None when unknown. exact: whether `tokens` was counted or is an upper bound."""

    rows: int | None
    tokens: int | None
    exact: bool
    steps: int | None
    parameters: int
    trained: int
    weights_gib: float
    training_gib: float
    token_mib: float


def plan(config: Config, counted: dict[str, int] | None = None) -> Plan:
    """The arithmetic of a config.

    Args:
        counted: `rows` and `tokens` of the training part, where the tokens stage has counted them.

    Raises:
        UserError: neither the base's config.json nor a geometry is at hand.
    """
    rows, tokens, exact = _rows(config, counted)
    shape = _shape(config)
    shape.vocab_size += len(config.model.add_tokens)
    logging.set_verbosity_error()
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(shape)
    model.tie_weights()
    parameters = sum(p.numel() for p in model.parameters())
    weights = _weight_bytes(config, model)
    trained = sum(p.numel() for p in adapters.trained(adapters.attach(model, config.adapter, 0)).values())
    steps = total_steps(rows, config.train) if rows else None
    # Beside the weights: gradient and AdamW's two moments in float32, for LoRA the float32 adapter itself too.
    per_trained = 12 if config.adapter.method == "full" else 16
    return Plan(
        rows,
        tokens,
        exact,
        steps,
        parameters,
        trained,
        weights / GIB,
        trained * per_trained / GIB,
        _token_bytes(config, shape) / 2**20,
    )


def lines(config: Config, found: Plan) -> list[str]:
    """The plan as a person reads it."""

    def number(value: int | None) -> str:
        return "unknown until the data is here" if value is None else f"{value:,}"

    warm = "" if found.steps is None else f", {warmup_steps(found.steps, config.train.warmup)} of them warm-up"
    per_epoch = (
        ""
        if found.rows is None
        else f"{math.ceil(found.rows / config.train.batch_size):,} an epoch x {config.train.epochs:g}"
    )
    bound = (
        ""
        if found.exact or found.tokens is None
        else f" at most (rows x cutoff {config.prompt.cutoff}; counted once the data is tokenised)"
    )
    fixed = found.weights_gib + found.training_gib
    longest = config.prompt.cutoff * found.token_mib / 1024
    return [
        f"run        {config.name}: {config.adapter.method} on {config.model.base or 'random weights'}, template {config.prompt.template}",
        f"rows       {number(found.rows)} to train on, {config.data.val:,} held out",
        f"tokens     {number(found.tokens)} an epoch{bound}",
        f"steps      {number(found.steps)}" + (f" ({per_epoch}, {config.train.batch_size} rows each{warm})" if found.steps else ""),
        f"parameters {found.parameters:,}, trained {found.trained:,} ({found.trained / found.parameters:.3%})",
        f"adapter    {found.trained * 4 / 1e6:,.1f} MB in float32" if config.adapter.method == "lora" else f"checkpoint {found.trained * 4 / 1e9:,.1f} GB in float32",
        f"memory     {found.weights_gib:.2f} GiB weights + {found.training_gib:.2f} GiB gradients and optimiser = {fixed:.2f} GiB;",
        f"           activations about {found.token_mib:.2f} MiB a token at once (estimate): {fixed + longest:.2f} GiB with one longest row",
    ]  # fmt: skip


def _rows(config: Config, counted: dict[str, int] | None) -> tuple[int | None, int | None, bool]:
    """Rows to train on and their tokens an epoch, and whether the tokens were counted."""
    if counted is not None:
        return counted["rows"], counted["tokens"], True
    total = 0
    for source in config.data.sources:
        count: int | None
        try:
            local = kind_of_source(source) in ("file", "families")
        except UserError:
            if source.rows is None:
                raise
            local = False
        count = sum(1 for _ in read(source, config.data.seed)) if local else source.rows
        if count is None:
            return None, None, False
        total += min(count, source.limit or count)
    rows = max(0, total - config.data.val)
    return rows, rows * config.prompt.cutoff, False


def _shape(config: Config) -> Any:
    if config.model.geometry is not None:
        return geometry_config(config.model)
    kind = bases.kind_of(config.model)
    if kind == "hub":
        try:
            return AutoConfig.from_pretrained(config.model.base, trust_remote_code=False)
        except OSError:
            raise UserError(f"cannot fetch config.json of {config.model.base!r}", "model.base",
                            "check the network, or give the shape as model.geometry") from None  # fmt: skip
    folder = bases.resolve(config.model).folder
    return AutoConfig.from_pretrained(Path(str(folder)), local_files_only=True, trust_remote_code=False)


def _weight_bytes(config: Config, model: Any) -> float:
    """Bytes of the weights as the run holds them; only linear layers inside the blocks are quantised."""
    size = 4 if config.adapter.method == "full" else BYTES[dtype_name(config.model)]
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
    block = (10 * hidden + 4 * inner) * size * (1.3 if config.adapter.method == "lora" else 1.0)
    return float(shape.num_hidden_layers * block + 12 * shape.vocab_size * (0.4 if config.prompt.mask_prompt else 1.0))
