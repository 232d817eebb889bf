"""The two models of a finished run: its base and its export."""

from __future__ import annotations

import gc
from typing import Any

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.base import Base
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.load import DTYPES, add_tokens, dtype_name, load_base, load_folder
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.run.files import read_json
from pipeline.run.folder import Run


def base_with_tokens(config: Config, base: Base, encoder: Encoder) -> Any:
    """The base with embeddings for the config's new tokens, as training had it."""
    model = load_base(config.model, base, config.train.seed, spec_of(config.adapter).float32)
    add_tokens(model, encoder.tokenizer.size)
    return model


def export_dtype(config: Config) -> str:
    """`bf16`, `fp16` or `fp32`: the type of the merged weights."""
    return dtype_name(config.model) if config.export.dtype == "auto" else config.export.dtype


def export_kind(run: Run) -> str:
    """`merged`, `adapter` or `nothing`: what the run's export holds, see `MethodSpec.export`."""
    record = read_json(run.folder("export") / "suri.json")
    return str(record.get("holds", "merged")) if isinstance(record, dict) else "merged"


def exported_model(config: Config, run: Run) -> Any:
    """The model that the run exported: the merged one, in the type that it was saved in; or the base, in its own type,
    with the exported adapter where there is one.

    Raises:
        UserError: base or adapter cannot be loaded, or the adapter belongs to another base.
    """
    folder, kind = run.folder("export"), export_kind(run)
    if kind == "merged":
        return load_folder(folder, DTYPES[export_dtype(config)], "the export")
    base = bases.resolve(config.model)
    model = base_with_tokens(config, base, encoder_of(config, base.tokenizer))
    if kind == "nothing":
        return model
    return adapters.load(model, folder, fingerprint(config.model, base, config.train.seed))


def free_memory() -> None:
    """Frees memory of deleted models: Python's reference cycles, then torch's cache on the card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
