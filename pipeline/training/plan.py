"""The plan of a run: rows, tokens, steps, trained parameters, memory (as text: `plan_lines`).

It needs no weights: the model is built on the meta device from the base's config.json or `model.geometry`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from pipeline.config.method_rules import has_kernels
from pipeline.config.schema import Config, Data, Model, Train
from pipeline.dataset.read.source import kind_of as kind_of_source
from pipeline.dataset.read.source import read
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.base.rope_scaling import scale
from pipeline.model.load import DIVIDE, context_length, geometry_config, read_shape
from pipeline.model.packed.support import LINEARS, has_llama_blocks, trains_llama_blocks
from pipeline.model.precision import BYTES, dtype_name
from pipeline.run.errors import UserError, one_line
from pipeline.training.footprint import Footprint, Stack, predict_footprint
from pipeline.training.memory import FULL_SPEED, MAX_TOKENS
from pipeline.training.optimizer_state import Layout
from pipeline.training.penalty import kept_numbers
from pipeline.training.schedule import total_steps

GIB = 2**30
WEIGHT_BYTES = {"none": None, "int8": 1.05, "nf4": 0.516, "fp8": 2.0}  # with their scales; fp8 by rows and by columns


@dataclass(frozen=True)
class Plan:
    """rows: to train on, None if unknown. exact: whether `tokens` was counted; otherwise it is an upper bound.

    checkpoint_gb: in 1e9 bytes.
    parameters: of the base. everything: with those that the method adds. token_mib: per token on the plain path, an
    estimate; recomputed_mib: with blocks recomputed. blocks: of the base. fast: footprint of the fast path if it has
    LLaMA's blocks. penalty_gib: starts and importances that `train.l2_sp` and `train.ewc` keep. context: tokens that
    the model sees, None without a limit. longest: tokens of the longest row, None if unknown.
    outside_gib: weights of embedding and head. copies_gib: 16-bit copies of trained blocks.
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
    checkpoint_gb: float
    token_mib: float
    blocks: int = 0
    fast: Footprint | None = None
    penalty_gib: float = 0.0
    context: int | None = None
    longest: int | None = None
    recomputed_mib: float = 0.0
    outside_gib: float = 0.0
    copies_gib: float = 0.0

    def one_row_gib(self, tokens: int) -> tuple[float, float]:
        """Peak of a pass over one row outside the fast path: with all kept, and with blocks recomputed."""
        fixed = self.weights_gib + self.training_gib + self.penalty_gib + self.copies_gib
        return fixed + tokens * self.token_mib / 1024, fixed + tokens * self.recomputed_mib / 1024


def plan(config: Config, counted: dict[str, int] | None = None, shape: Any = None) -> Plan:
    """The arithmetic of a config.

    Args:
        counted: `rows`, `tokens` and `longest` of the training split, if the tokens stage has counted them.
        shape: the base's transformers config; None: it is read.

    Raises:
        UserError: neither the base's config.json nor a geometry can be read.
    """
    rows, tokens, exact = _rows(config.data, config.prompt.cutoff, counted)
    shape = _shape(config.model) if shape is None else copy.deepcopy(shape)
    old = shape.vocab_size
    shape.vocab_size += len(config.model.add_tokens)
    logging.set_verbosity_error()
    model = _empty(shape)
    parameters = sum(p.numel() for p in model.parameters())
    method, dtype = adapters.method_of(config.adapter), dtype_name(config.model)
    inside, outside = _weight_bytes(model, "fp32" if method.spec.float32 else dtype, config.model.quantize)
    packed = config.train.fast and has_kernels(config.adapter) and has_llama_blocks(model)
    if method.spec.float32:
        model.float()
    with init_empty_weights():
        adapted = adapters.attach(model, config.adapter, 0, tuple(range(old, shape.vocab_size)))
    trained, everything = adapters.parameter_counts(adapted)
    penalty = _penalty_bytes(config.train, adapted, config.adapter.init != "default")
    # Gradient in float32 and the optimizer's state; an adapter itself is in float32 too.
    state = Layout.of(adapters.trained(adapted), config.train.optimizer).moment_bytes
    per_trained = 4 if method.spec.float32 else 8
    return Plan(
        rows=rows,
        tokens=tokens,
        exact=exact,
        steps=total_steps(rows, config.train) if rows else None,
        parameters=parameters,
        everything=everything,
        trained=trained,
        weights_gib=(inside + outside) / GIB,
        outside_gib=outside / GIB,
        copies_gib=_copied_bytes(adapted, dtype) / GIB if config.train.fast else 0.0,
        training_gib=(trained * per_trained + state) / GIB,
        checkpoint_gb=(trained * 4 + state) / 1e9,
        token_mib=_token_bytes(shape, dtype, not method.spec.float32, config.prompt.mask_prompt) / 2**20,
        blocks=int(getattr(shape, "num_hidden_layers", 0)),
        fast=_footprint(config, adapted, penalty, 8 * trained + state, dtype) if packed else None,
        penalty_gib=penalty / GIB,
        context=context_length(shape, config.adapter),
        longest=counted.get("longest") if counted else None,
        recomputed_mib=_recomputed_bytes(shape, dtype, not method.spec.float32, config.prompt.mask_prompt) / 2**20,
    )


def _copied_bytes(adapted: Any, dtype: str) -> int:
    """Bytes of the blocks' linear layers in the run's type, which products read where the blocks themselves are trained
    and computed by our kernels (`kernels.trained_linear`)."""
    decoder = adapted.get_decoder() if hasattr(adapted, "get_decoder") else None
    if dtype == "fp32" or decoder is None or not trains_llama_blocks(decoder):
        return 0
    linear = (m for m in decoder.layers.modules() if isinstance(m, torch.nn.Linear))
    return BYTES[dtype] * sum(p.numel() for m in linear for p in m.parameters())


def _penalty_bytes(train: Train, adapted: Any, started: bool) -> int:
    """Bytes of starts and importances, in float32. started: whether LoRA's B A is not zero at the start."""
    if not (train.l2_sp or train.ewc):
        return 0
    return 4 * kept_numbers(adapted, adapters.trained(adapted), bool(train.ewc), started)


def footprint_of(config: Config, shape: Any) -> Footprint | None:
    """Memory of training on the fast path; None where the model has no blocks of LLaMA's form.

    Args:
        shape: the base's transformers config.
    """
    return plan(config, {"rows": 1, "tokens": 1}, shape).fast


def _footprint(config: Config, adapted: Any, penalty: float, trained: float, dtype: str) -> Footprint:
    model = adapted.get_base_model()
    blocks, rest = _weight_bytes(model, dtype, config.model.quantize)
    layers = [_stacks(layer) for layer in model.get_decoder().layers]
    stacks = max(layers, key=lambda stacks: sum(sum(stack.ranks) for stack in stacks))
    return predict_footprint(
        model.config, (blocks, rest + penalty), trained, stacks, BYTES[dtype], config.model.quantize
    )


def _stacks(layer: Any) -> list[Stack]:
    """The adapted linear layers of a block, by their input."""
    modules = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    stacks = []
    for names in LINEARS:
        adapters = [
            (modules[n].lora_A["default"], modules[n].lora_B["default"]) for n in names if hasattr(modules[n], "lora_A")
        ]
        if adapters:
            outputs, ranks = [b.weight.shape[0] for _, b in adapters], [a.weight.shape[0] for a, _ in adapters]
            stacks.append(Stack(adapters[0][0].weight.shape[1], outputs, ranks, len(names)))
    return stacks


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
        if type(shape) not in AutoModelForCausalLM._model_mapping:
            fix = "name a model that continues a text, such as one of type llama"
            raise UserError(f"a model of type {shape.model_type} is no causal language model", "model", fix) from None
        raise UserError(f"no model has this shape: {one_line(error)}", "model", DIVIDE) from None
    return model


def pass_tokens(batch_size: int, cutoff: int, planned: Plan) -> tuple[int, int]:
    """Tokens of a pass that holds a whole optimiser step, at most those of the largest pass, and of a small pass.

    The mean of rows that are not counted is `cutoff`. A row is never divided, so both hold the longest one.
    """
    mean = planned.tokens / planned.rows if planned.rows and planned.tokens else cutoff
    longest = planned.longest or cutoff
    step = max(min(MAX_TOKENS, math.ceil(batch_size * mean)), longest)
    return step, min(step, max(FULL_SPEED, longest))


def _rows(data: Data, cutoff: int, counted: dict[str, int] | None) -> tuple[int | None, int | None, bool]:
    """Rows to train on, their tokens per epoch, and whether the tokens were counted."""
    if counted is not None:
        return counted["rows"], counted["tokens"], True
    total = 0
    for source in data.sources:
        count: int | None
        try:
            local = kind_of_source(source) in ("file", "files", "families")
        except UserError:
            if source.rows is None:
                raise
            local = False
        count = sum(1 for _ in read(source, data.seed)) if local else source.rows
        if count is None:
            return None, None, False
        total += min(count, source.limit or count)
    val = data.val
    rows = max(0, total - int(total * val if val < 1 else val))
    return rows, rows * cutoff, False


def _shape(model: Model) -> Any:
    """The base's transformers config, from the geometry, from its folder, or from the hub (config.json alone)."""
    if model.geometry is not None:
        return geometry_config(model)
    if bases.kind_of(model) == "hub":
        place = model.base
        fix = "check the id, the network, and HF_TOKEN for gated models, or give the shape as model.geometry"
    else:
        place, fix = str(bases.resolve(model).folder), "check that this transformers knows the model"
    try:
        shape = read_shape(place, local=False)
    except UserError as error:
        raise UserError(f"cannot read config.json of {place!r}: {error.what}", "model.base", fix) from None
    if model.rope_scaling and bases.kind_of(model) == "hub":
        scale(shape, model.rope_scaling)
    return shape


def _weight_bytes(model: Any, dtype: str, quantize: str) -> tuple[float, float]:
    """Bytes of the base's weights in the run's types, in the blocks and outside; only linear layers inside the blocks
    are quantised."""
    size, packed = BYTES[dtype], WEIGHT_BYTES[quantize]
    head = model.get_output_embeddings()
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    inside = {id(p) for p in getattr(decoder, "layers", torch.nn.Module()).parameters()}
    blocks = rest = 0.0
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        count = parameter.numel() * (packed if packed and id(parameter) in linear else size)
        blocks, rest = (blocks + count, rest) if id(parameter) in inside else (blocks, rest + count)
    return blocks, rest


def _token_bytes(shape: Any, dtype: str, has_adapters: bool, mask_prompt: bool) -> float:
    """Activations kept for the backward pass, bytes per token: an estimate.

    Per block about ten vectors of the hidden size and four of the MLP's, in the type of the arithmetic, 30 % more with
    adapters; for the head three float32 vectors of the vocabulary's size per labelled token.
    """
    hidden = shape.hidden_size
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    block = (10 * hidden + 4 * inner) * BYTES[dtype] * (1.3 if has_adapters else 1.0)
    return float(shape.num_hidden_layers * block + 12 * shape.vocab_size * (0.4 if mask_prompt else 1.0))


def _recomputed_bytes(shape: Any, dtype: str, has_adapters: bool, mask_prompt: bool) -> float:
    """As `_token_bytes`, where only the inputs of blocks are kept, and one block at a time is computed again."""
    layers = shape.num_hidden_layers
    head = 12 * shape.vocab_size * (0.4 if mask_prompt else 1.0)
    one_block = (_token_bytes(shape, dtype, has_adapters, mask_prompt) - head) / layers
    return float(layers * shape.hidden_size * BYTES[dtype] + one_block + head)
