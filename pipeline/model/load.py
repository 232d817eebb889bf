"""Loads the base into torch, in the precision of the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from pipeline.config import Config, Model
from pipeline.errors import UserError
from pipeline.model.base import Base
from pipeline.progress import say

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


def dtype_name(model: Model) -> str:
    """`bf16` or `fp32`: what `auto` comes to on this machine."""
    if model.dtype != "auto":
        return model.dtype
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def device() -> torch.device:
    """The card of this process, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def load_base(config: Config, base: Base) -> Any:
    """A causal LM on the device, in evaluation mode, nothing trainable decided yet.

    Weights are float32 when everything is trained (the optimiser needs them), otherwise of the run's dtype.

    Raises:
        UserError: transformers does not know the model, or weights and config disagree.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    name = "fp32" if config.adapter.method == "full" else dtype_name(config.model)
    if config.model.dtype == "bf16" and not torch.cuda.is_available():
        say("model: bf16 on a CPU without bf16 units can be 200 times slower; model.dtype=fp32 is the way here")
    if base.folder is None:
        model = AutoModelForCausalLM.from_config(geometry_config(config.model), dtype=DTYPES[name])
        return _random(model, config.train.seed).to(device()).eval()
    if config.model.quantize != "none":
        return _quantised(config.model, base.folder, DTYPES[name]).eval()
    return load_folder(base.folder, DTYPES[name])


def load_folder(folder: Path, dtype: torch.dtype) -> Any:
    """A causal LM from a folder with safetensors, on the device, in evaluation mode.

    Raises:
        UserError: transformers does not know the model, or weights and config disagree.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **_safe())
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"cannot load the model: {said}", str(folder), "check that config.json and weights belong together"
        ) from None
    return model.to(device()).eval()


def geometry_config(model: Model) -> Any:
    """The transformers config of `model.geometry`.

    Raises:
        UserError: an unknown model type or a shape that cannot be.
    """
    shape = dict(model.geometry or {})
    kind = shape.pop("model_type", "")
    try:
        return AutoConfig.for_model(kind, **shape)
    except (ValueError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"not a geometry: {said}", "model.geometry", "use the keys of a config.json of that model_type"
        ) from None


def add_tokens(model: Any, size: int) -> None:
    """Makes room for ids up to `size`; new rows start at the mean of the old ones, as in stanford_alpaca train.py."""
    old = model.get_input_embeddings().weight.shape[0]
    if size <= old:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for table in {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}.values():
            table.weight[old:] = table.weight[:old].float().mean(dim=0).to(table.weight.dtype)


def _random(model: Any, seed: int) -> Any:
    """Weights that depend on the seed alone: normal, standard deviation 0.02, norms at one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def _quantised(model: Model, folder: Path, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    settings = (
        BitsAndBytesConfig(load_in_8bit=True)
        if model.quantize == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    )
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=settings, device_map={"": device()}, **_safe()
        )
    except ImportError as error:
        raise UserError(
            f"bitsandbytes cannot be used: {error}",
            "model.quantize",
            "pip install bitsandbytes, or set model.quantize=none",
        ) from None


def _safe() -> dict[str, Any]:
    return {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
