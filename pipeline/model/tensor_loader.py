"""Loads a base tensor by tensor, so that neither the computer nor the card ever holds all of its 16-bit weights.

    disk --read--> tensor --move--> device --cast, check, quantise--> parameter        then the next one

The model begins as a `Skeleton`. Its linear layers are exchanged and its weights quantised by transformers' own
functions, so the quantised bytes are those that `from_pretrained` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig
from transformers.quantizers import AutoHfQuantizer

from pipeline.model.base.safetensors_header import Entry
from pipeline.model.base.tensors import DTYPES
from pipeline.model.skeleton import Skeleton
from pipeline.run.errors import UserError

Loaded = Callable[[Any], None]  # gets a block of the decoder with its weights


class Tensors(Protocol):
    """Weights by name that are read one at a time; `TensorFiles`, or random ones."""

    folder: Path
    entries: dict[str, Entry]

    def read(self, name: str) -> torch.Tensor: ...


def load_by_tensor(
    files: Tensors, shape: Any, dtype: torch.dtype, device: torch.device, whose: str, quantization: Any = None,
    on_block: Loaded | None = None,
) -> Any | None:  # fmt: skip
    """The causal LM with these weights, on `device`, in evaluation mode; None where their names are not those of the
    model, which transformers translates for some types of models.

    Args:
        shape: its transformers config. whose: name of the weights in messages.
        quantization: a BitsAndBytesConfig; None for weights in `dtype`.
        on_block: is called with each block of the decoder as soon as its weights are there.

    Raises:
        UserError: a file is damaged, or a weight is not finite.
        ImportError: bitsandbytes is not installed.
    """
    skeleton, folder = Skeleton(shape, dtype=dtype), files.folder
    names = skeleton.names_in(files.entries)
    model = skeleton.model
    if names is None or _has_types_of_its_own(model) or not _fits(skeleton, files, names.stored):
        return None
    computed, aliases = set(dict(model.named_buffers())), skeleton.tied()
    stored = {name: source for name, source in names.stored.items() if source in files.entries or name not in computed}
    quantizer = None if quantization is None else _prepare(model, quantization, dtype, device)
    last = {block: name for name in stored for block in [_block_of(name, skeleton.blocks)]}  # the last of each block
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    for name, source in stored.items():
        tensor = files.read(source).to(device)
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
            check_finite(tensor, name, folder, whose)
        _put(model, name, tensor, quantizer)
        del tensor
        block = _block_of(name, skeleton.blocks)
        if on_block is not None and last[block] == name and _is_in_list(model, block):
            on_block(model.get_submodule(block))
    for alias, name in aliases.items():
        _set(model, alias, model.get_parameter(name))
    if quantizer is not None:
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
    if (folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def check_finite(tensor: torch.Tensor, name: str, folder: Path, whose: str) -> None:
    """Raises:
    UserError: NaN or infinity in a weight of the model `whose`.
    """
    # A sum needs no copy of the weights. It can overflow where they are finite.
    if torch.isfinite(tensor.detach().sum(dtype=torch.float32)) or torch.isfinite(tensor).all():
        return
    kind = "NaN" if torch.isnan(tensor).any() else "infinity"
    fix = "train and export again"
    if whose == "the base":
        fix = "fetch it again or use another base: no setting makes it trainable"
    raise UserError(f"{whose} has {kind} in the tensor {name}", str(folder), fix)


def _has_types_of_its_own(model: Any) -> bool:
    """Whether some layers stay in float32 in a model of another type; transformers knows which."""
    return any(getattr(model, f"_keep_in_fp32_modules{kind}", None) for kind in ("", "_strict"))


def _fits(skeleton: Skeleton, files: Tensors, stored: dict[str, str]) -> bool:
    """Whether each tensor of the files has the model's shape and a type that can be read."""
    own = skeleton.tensors()
    entries = {name: files.entries[source] for name, source in stored.items() if source in files.entries}
    return all(entry.shape == tuple(own[name].shape) and entry.dtype in DTYPES for name, entry in entries.items())


def _prepare(model: Any, quantization: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Exchanges the linear layers that are quantised; returns transformers' quantizer."""
    model.config.quantization_config = quantization
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    quantizer.validate_environment(device_map={"": device}, weights_only=True)
    quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": device})
    return quantizer


def _put(model: Any, name: str, tensor: torch.Tensor, quantizer: Any) -> None:
    """Makes a tensor the parameter or buffer of that name, quantised where its layer is."""
    if quantizer is not None and quantizer.param_needs_quantization(model, name):
        made = quantizer.get_quantize_ops().convert({name: tensor}, full_layer_name=name, model=model)
        _set(model, name, made[name])
        return
    module, _, last = name.rpartition(".")
    if last in model.get_submodule(module)._buffers:
        model.get_submodule(module)._buffers[last] = tensor
        return
    _set(model, name, torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def _set(model: Any, name: str, parameter: torch.nn.Parameter) -> None:
    module, _, last = name.rpartition(".")
    model.get_submodule(module)._parameters[last] = parameter


def _block_of(name: str, blocks: list[str]) -> str:
    """The block that a parameter belongs to; empty for none."""
    return next((block for block in blocks if name.startswith(f"{block}.")), "")


def _is_in_list(model: Any, block: str) -> bool:
    """Whether it is one of the decoder's blocks, not the embedding, the last norm or the head."""
    parent = block.rpartition(".")[0]
    return bool(parent) and isinstance(model.get_submodule(parent), torch.nn.ModuleList)
