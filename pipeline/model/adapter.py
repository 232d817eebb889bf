"""Attaches an adapter to a base and loads a saved one; `pipeline.model.methods` has the methods."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Adapter
from pipeline.model.causal_lm import causal_lm_of
from pipeline.model.methods import BY_NAME
from pipeline.model.methods.full import FULL
from pipeline.model.methods.method import SETTINGS, WEIGHTS, Method
from pipeline.model.methods.through_peft import load_peft
from pipeline.run.errors import UserError
from pipeline.run.files import read_json

__all__ = ["WEIGHTS", "adapter_disabled", "attach", "load", "method_of", "parameter_counts", "trained"]


def method_of(adapter: Adapter) -> Method:
    """The method `adapter.method`."""
    return BY_NAME[adapter.method]


def attach(model: Any, adapter: Adapter, seed: int, added: tuple[int, ...] = ()) -> Any:
    """The model with the method's parameters trainable, in float32, and all others frozen.

    Args:
        seed: of the adapter's random initialisation.
        added: ids of new tokens, whose rows of embedding and head are trained too.

    Raises:
        UserError: the method cannot adapt this base, a target matches no linear layer, a rank is above every layer's.
    """
    model.config.use_cache = False  # a cache costs memory in training and hides the last position from packing
    adapted = method_of(adapter).attach(model, adapter, seed, added)
    adapted.adapted_with = adapter
    return adapted


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def parameter_counts(model: Any) -> tuple[int, int]:
    """Number of trainable parameters, and of all with the adapter; two 4-bit weights in one byte count as two."""
    whole = causal_lm_of(model)
    inside = {id(p) for p in whole.parameters()}
    outside = sum(p.numel() for p in model.parameters() if id(p) not in inside)  # virtual tokens
    return sum(p.numel() for p in trained(model).values()), whole.num_parameters() + outside


def adapter_disabled(model: Any) -> AbstractContextManager[Any] | None:
    """A context in which the model computes as its base; None where the method changed the base's own weights."""
    if getattr(model.adapted_with, "init", "default") != "default" or not hasattr(model, "disable_adapter"):
        return None  # pissa and olora subtract their initial update from the base's weights
    context: AbstractContextManager[Any] = model.disable_adapter()
    return context


def load(model: Any, folder: Path, base_hash: str = "") -> Any:
    """The base with a saved adapter, frozen.

    Args:
        base_hash: `fingerprint` of the base, compared with the one that the adapter records; empty: not compared.

    Raises:
        UserError: the adapter is damaged or belongs to another base.
    """
    fix = "train again, or name the base it was trained on"
    record = read_json(folder / "suri.json")
    wanted = record.get("base_hash", "") if isinstance(record, dict) else ""
    if base_hash and wanted and wanted != base_hash:
        what = f"the adapter belongs to another base: {record.get('base', '?')} ({wanted}), this one is {base_hash}"
        raise UserError(what, str(folder), fix)
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings, dict):
        if (folder / SETTINGS).exists() or not (folder / "config.json").is_file():
            what = f"no adapter: {SETTINGS} is missing or damaged"
            raise UserError(what, str(folder), fix)
        return FULL.load(model, folder)
    name = settings.get("suri_method")
    if name is None:
        return load_peft(model, folder)
    if name not in BY_NAME:
        raise UserError(f"the adapter is of an unknown method {name!r}", str(folder), "train again")
    return BY_NAME[name].load(model, folder)
