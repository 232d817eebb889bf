"""The two models that a finished run compares: its base, and what it exported."""

from __future__ import annotations

import gc
from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.base import Base
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import DTYPES, add_tokens, dtype_name, load_base, load_folder
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.run.files import read_json
from pipeline.run.folder import Run


def base_with_tokens(config: Config, base: Base, encoder: Encoder) -> Any:
    """The base with room for the recipe's new tokens, as training had it."""
    model = load_base(config, base)
    add_tokens(model, encoder.tokenizer.size)
    return model


def export_dtype(config: Config) -> str:
    """`bf16`, `fp16` or `fp32`: what the merged weights are in."""
    return dtype_name(config.model) if config.export.dtype == "auto" else config.export.dtype


def holds(run: Run) -> str:
    """`merged`, `adapter` or `nothing`: what the run's export is, as `Method.export` says."""
    made = read_json(run.folder("export") / "suri.json")
    return str(made.get("holds", "merged")) if isinstance(made, dict) else "merged"


def dtype_of_export(config: Config, run: Run) -> str:
    """`bf16`, `fp16` or `fp32`: the type in which a run's export is loaded, whoever asks for it.

    A merged model in the one that it was saved in, since its users load it so; an adapter, or none, as its base.
    """
    return export_dtype(config) if holds(run) == "merged" else dtype_name(config.model)


def exported_model(config: Config, run: Run) -> Any:
    """The merged model, in `dtype_of_export`; or the base, with the exported adapter on it where there is one.

    Raises:
        UserError: base or adapter cannot be loaded, or they do not belong together.
    """
    folder, kind = run.folder("export"), holds(run)
    if kind == "merged":
        return load_folder(folder, DTYPES[dtype_of_export(config, run)], "the export")
    base = bases.resolve(config.model)
    model = base_with_tokens(config, base, encoder_of(config, base.tokenizer))
    return model if kind == "nothing" else adapters.load(model, folder, fingerprint(config, base))


def free_memory() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
