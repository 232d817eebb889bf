"""The two models that a finished run compares: its base, and what it exported."""

from __future__ import annotations

import gc
from typing import Any

import torch

from pipeline.config import Config
from pipeline.files import read_json
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import DTYPES, add_tokens, dtype_name, load_base, load_folder
from pipeline.prompt.encode import Encoder
from pipeline.run import Run


def base_with_tokens(config: Config, base: Base, encoder: Encoder) -> Any:
    """The base with room for the recipe's new tokens, as training had it."""
    model = load_base(config, base)
    add_tokens(model, encoder.tokenizer.size)
    return model


def export_dtype(config: Config) -> str:
    """`bf16`, `fp16` or `fp32`: what the merged weights are in."""
    return dtype_name(config.model) if config.export.dtype == "auto" else config.export.dtype


def exported(config: Config, run: Run, base: Base, encoder: Encoder) -> Any:
    """What `make export` made, loaded: merged weights as they are, an adapter on its base; without training the base.

    Raises:
        UserError: it is damaged, or belongs to another base.
    """
    holds = (read_json(run.folder("export") / "suri.json") or {}).get("holds", "merged")
    if holds == "merged":
        return load_folder(run.folder("export"), DTYPES[export_dtype(config)])
    model = base_with_tokens(config, base, encoder)
    return model if holds == "nothing" else adapters.load(model, run.folder("adapter"), fingerprint(config, base))


def free_memory() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
