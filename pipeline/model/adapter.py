"""What is trained on top of a base: put there, saved, put back. How, is up to `pipeline.model.methods`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Adapter
from pipeline.model.methods import BY_NAME
from pipeline.model.methods.full import FULL
from pipeline.model.methods.lora import check_targets
from pipeline.model.methods.method import SETTINGS, WEIGHTS, Method
from pipeline.model.methods.through_peft import load_peft
from pipeline.run.errors import UserError
from pipeline.run.files import read_json

__all__ = ["WEIGHTS", "attach", "check_targets", "load", "method_of", "save", "sizes", "trained", "without"]


def method_of(adapter: Adapter) -> Method:
    """The method that a config names."""
    return BY_NAME[adapter.method]


def attach(model: Any, adapter: Adapter, seed: int, added: tuple[int, ...] = ()) -> Any:
    """Returns the model with exactly the wanted parameters trainable, in float32.

    Args:
        seed: of the adapter's random start.
        added: ids of new tokens, whose rows of the embedding and of the head are trained besides the adapter.

    Raises:
        UserError: a base that the method cannot serve, a target that no linear layer has, a rank above every layer's.
    """
    model.config.use_cache = False  # a cache costs memory in training and hides the last position from packing
    adapted = method_of(adapter).attach(model, adapter, seed, added)
    adapted.adapted_with = adapter
    return adapted


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def sizes(model: Any) -> tuple[int, int]:
    """Numbers that are trained, and all numbers of the model with its adapter; 4-bit weights count as what they say."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    inside = {id(p) for p in whole.parameters()}
    beside = sum(p.numel() for p in model.parameters() if id(p) not in inside)  # virtual tokens
    return sum(p.numel() for p in trained(model).values()), whole.num_parameters() + beside


def without(model: Any) -> AbstractContextManager[Any] | None:
    """A context in which the model is the base that it was made of; None where the base's own weights were changed."""
    if getattr(model.adapted_with, "init", "default") != "default" or not hasattr(model, "disable_adapter"):
        return None  # pissa and olora begin by taking their start out of the base's weights
    held: AbstractContextManager[Any] = model.disable_adapter()
    return held


def save(model: Any, folder: Path, base: str) -> None:
    """Writes what was trained: an adapter, or the whole model when every weight was trained."""
    method_of(model.adapted_with).save(model, folder, base)


def load(model: Any, folder: Path, base_hash: str = "") -> Any:
    """Puts a saved adapter onto a base, frozen.

    Args:
        base_hash: `fingerprint` of the base, to be compared with that of the adapter's own.

    Raises:
        UserError: the adapter is damaged, or of another base.
    """
    fix = "train again, or name the base it was trained on"
    made = read_json(folder / "suri.json")
    wanted = made.get("base_hash", "") if isinstance(made, dict) else ""
    if base_hash and wanted and wanted != base_hash:
        what = f"the adapter belongs to another base: {made.get('base', '?')} ({wanted}), this one is {base_hash}"
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
