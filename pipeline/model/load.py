"""Loads the base into torch, in the precision of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Adapter, Model
from pipeline.model import cpu_dtype
from pipeline.model.base import Base
from pipeline.model.base.folder import too_large
from pipeline.model.base.rope_scaling import scale
from pipeline.model.base.tensors import TensorFiles
from pipeline.model.block_stream import BlockStream
from pipeline.model.memory import use_expandable_segments
from pipeline.model.precision import DTYPES, device, dtype_name
from pipeline.model.sharded import FullyShard
from pipeline.model.tensor_loader import check_finite, load_by_tensor
from pipeline.run.errors import UserError, one_line
from pipeline.run.nearest import nearest

Blocks = BlockStream | FullyShard  # what gets the blocks of a decoder while it is loaded
OLDER_KEYS = ("rope_theta", "rope_scaling")  # in every config.json of 2023; transformers 5 keeps them elsewhere
DIVIDE = "sizes must be above 0 and divide: hidden_size by num_attention_heads, that by num_key_value_heads"


def context_length(shape: Any, adapter: Adapter | None = None) -> int | None:
    """Most tokens of a prompt and its answer together; None if the model's config has no such limit.

    Args:
        shape: the model's transformers config. adapter: settings whose virtual tokens, if any, are subtracted.
    """
    length = getattr(shape, "max_position_embeddings", None)
    if length and adapter and "virtual_tokens" in spec_of(adapter).keys:
        return length - adapter.virtual_tokens
    return length or None


def base_shape(model: Model, base: Base) -> Any:
    """The transformers config of the base, from its folder or from `model.geometry`."""
    return geometry_config(model) if base.folder is None else read_shape(str(base.folder))


def read_shape(place: str, local: bool = True) -> Any:
    """The transformers config of a folder, or of a hub id where not `local`.

    Raises:
        UserError: the installed transformers cannot read it, or its sizes are impossible.
    """
    fix = "check that this transformers knows the model, or fetch the base again"
    try:
        shape = AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=local)
        wrong = too_large(shape.to_dict())
    except Exception as error:  # each config class raises its own classes of errors
        raise UserError(f"cannot read the model's settings: {one_line(error)}", f"{place}/config.json", fix) from None
    if wrong:
        raise UserError(f"config.json cannot be used: {wrong}", f"{place}/config.json", fix)
    return shape


def load_base(model: Model, base: Base, seed: int, float32: bool = False, stream: Blocks | None = None) -> Any:
    """The base as a causal LM on the device, in evaluation mode.

    Args:
        seed: of random weights.
        float32: use it instead of `model.dtype`, as methods need that train the base's weights.
        stream: gets the decoder's blocks, which then are on the device only while they compute, or sharded.

    Raises:
        UserError: transformers does not know the model, or weights and config disagree.
    """
    dtype = torch.float32 if float32 else DTYPES[dtype_name(model)]
    if dtype == torch.bfloat16 and not torch.cuda.is_available():
        cpu_dtype.warn_if_slow()
    if stream is not None:
        use_expandable_segments()
    if base.folder is None:
        loaded = _random(model, dtype, seed).to(device()).eval()
    elif model.quantize in ("int8", "nf4"):
        loaded = _quantised(model, base.folder, dtype, stream).eval()
    else:
        loaded = load_folder(base.folder, dtype, "the base", stream)
    if stream is not None:
        _complete(stream, loaded)
    return loaded


def _complete(stream: Blocks, model: Any) -> None:
    """Makes a stream that of the model, and adds the blocks where loading has not done so."""
    if not stream.blocks:
        for layer in _layers(model):
            stream.add(layer)
    if isinstance(stream, BlockStream):
        model.block_stream = stream


def _layers(model: Any) -> Any:
    """The blocks of a decoder; classes have different names for the list."""
    count, decoder = model.config.num_hidden_layers, model.get_decoder()
    lists = [m for m in decoder.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return getattr(decoder, "layers", lists[0] if lists else [])


def load_folder(folder: Path, dtype: torch.dtype, whose: str = "the model", stream: Blocks | None = None) -> Any:
    """A causal LM from a folder with safetensors, on the device, in evaluation mode.

    Args:
        whose: the name of the weights in messages. stream: see `load_base`.

    Raises:
        UserError: transformers does not know the model, weights and config disagree, or weights are not finite.
    """
    if device().type != "cpu" or stream is not None:  # main memory need not hold the model on its way to the card
        on_block = None if stream is None else stream.add
        model = load_by_tensor(TensorFiles(folder), read_shape(str(folder)), dtype, device(), whose, on_block=on_block)
        if model is not None:
            return model
    model = _from_folder(folder, dtype).to(device()).eval()
    _check_finite(model, folder, whose)
    return model


def _check_finite(model: Any, folder: Path, whose: str) -> None:
    """Reads every weight once; of weights in 4 or 8 bits, their scales.

    Raises:
        UserError: naming the first tensor with NaN or infinity.
    """
    weights = dict(model.named_parameters())
    parts = [(name, part) for name, weight in weights.items() for part in _floats(weight)]
    if not parts:
        return
    # A sum needs no copy of the weights. It can overflow where they are finite, so candidates are checked below.
    sums = torch.stack([part.detach().sum(dtype=torch.float32) for _, part in parts])
    for i in (~torch.isfinite(sums)).nonzero().flatten().tolist():
        name, part = parts[i]
        check_finite(part, name, folder, whose)


def _floats(weight: Any) -> list[torch.Tensor]:
    """The floating-point tensors of a parameter: itself, or the scales of a bitsandbytes weight."""
    if weight.is_floating_point():
        return [weight]
    state = getattr(weight, "quant_state", None)
    inner = getattr(state, "state2", None)
    scales = (getattr(weight, "SCB", None), getattr(state, "absmax", None), getattr(state, "offset", None),
              getattr(inner, "absmax", None))  # fmt: skip
    return [t for t in scales if isinstance(t, torch.Tensor) and t.is_floating_point()]


def _from_folder(folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    safe = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    fix = "check that config.json belongs to these weights, and that the installed transformers knows the model"
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, **safe, **options
        )
    except torch.cuda.OutOfMemoryError:
        fix = "set model.quantize=nf4, choose a smaller base, or free the card"
        raise UserError("the model does not fit into the memory of the card", str(folder), fix) from None
    except ImportError as error:
        if "quantization_config" in options:
            raise
        what = f"cannot load the model: it needs a package that is not installed: {one_line(error)}"
        raise UserError(what, str(folder), "install it, or name another base") from None
    except Exception as error:  # of any class: the code of hundreds of models reads settings from outside
        raise UserError(f"cannot load the model: {one_line(error)}", str(folder), fix) from None
    missing = sorted(info["missing_keys"])
    if missing:  # transformers only warns and fills them with random numbers
        what = f"cannot load the model: {len(missing)} tensors are not in its files, such as {missing[0]}"
        raise UserError(what, str(folder), fix)
    vars(model.config).pop("auto_map", None)  # names code in the base's repository, which an export does not have
    return model


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Converts the weights to `dtype` in place, not the buffers; returns the model.

    `model.to` would also round rotary frequencies, which transformers keeps in float32: on a 7B geometry in bf16 that
    alone changed the log-probabilities by 4e-3 nats a token.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def geometry_config(model: Model) -> Any:
    """The transformers config of `model.geometry`.

    Raises:
        UserError: an unknown model type or key, or impossible sizes.
    """
    shape = dict(model.geometry or {})
    kind = shape.pop("model_type", "")
    where, fix = "model.geometry", "use the keys of a config.json of that model_type"
    if kind not in CONFIG_MAPPING:
        raise UserError(f"unknown model_type {kind!r}", where, nearest(str(kind), CONFIG_MAPPING.keys(), fix))
    if wrong := too_large(shape):
        raise UserError(f"no model has this shape: {wrong}", where, fix)
    default = CONFIG_MAPPING[kind]()
    known = {*default.to_dict(), *default.attribute_map, *OLDER_KEYS}
    for key in shape:
        if key not in known:  # a config accepts any key, so a misspelt one would be ignored
            raise UserError(f"unknown key {key!r}", where, nearest(key, known, fix))
    try:
        config = AutoConfig.for_model(kind, **shape)
    except (ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise UserError(f"not a geometry: {one_line(error)}", where, fix) from None
    heads, groups = (getattr(config, name, None) or 1 for name in ("num_attention_heads", "num_key_value_heads"))
    if heads % groups:  # transformers would only notice in the first forward pass
        raise UserError(f"{heads} attention heads do not divide into {groups} key-value heads", where, DIVIDE)
    if model.rope_scaling:
        scale(config, model.rope_scaling)
    return config


def add_tokens(model: Any, size: int) -> None:
    """Resizes the embeddings to `size` ids; new rows are the mean of the old ones, as in stanford_alpaca train.py."""
    old = model.get_input_embeddings().weight.shape[0]
    if size <= old:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for table in {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}.values():
            table.weight[old:] = new_row(table.weight[:old])


def new_row(rows: torch.Tensor) -> torch.Tensor:
    """Where a new token's row of an embedding starts: the mean of the old rows, summed in float32."""
    return rows.float().mean(dim=0).to(rows.dtype)


def _random(model: Model, dtype: torch.dtype, seed: int) -> Any:
    """Random weights from the seed: normal, standard deviation 0.02; norms are one."""
    try:
        with torch.device(device()):  # drawn on the device, since there may be billions
            causal_lm = AutoModelForCausalLM.from_config(geometry_config(model), dtype=dtype)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"no model has this shape: {one_line(error)}", "model.geometry", DIVIDE) from None
    generator = torch.Generator(device()).manual_seed(seed)
    with torch.no_grad():
        for parameter in causal_lm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02, generator=generator)
    return causal_lm


def four_bits(dtype: torch.dtype) -> Any:
    """transformers' settings of `model.quantize: nf4`. dtype: of the arithmetic."""
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(load_in_4bit=True, **nf4)


def _quantised(model: Model, folder: Path, dtype: torch.dtype, stream: Blocks | None = None) -> Any:
    try:
        settings = four_bits(dtype) if model.quantize == "nf4" else BitsAndBytesConfig(load_in_8bit=True)
        on_block = None if stream is None else stream.add
        files, shape = TensorFiles(folder), read_shape(str(folder))
        quantised = load_by_tensor(files, shape, dtype, device(), "the base", settings, on_block)
        if quantised is None:
            quantised = _from_folder(folder, dtype, quantization_config=settings, device_map={"": device()})
            _check_finite(quantised, folder, "the base")
    except ImportError as error:
        fix = ".venv/bin/pip install bitsandbytes, or set model.quantize=none"
        raise UserError(f"bitsandbytes cannot be used: {error}", "model.quantize", fix) from None
    for module in quantised.modules():
        # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer permanently at its first use in evaluation
        # mode. The kernel for that layout has no gradient, so the adapters below it would not learn.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return quantised
