"""Checks the folder of an adapter of unknown origin before peft reads it.

Weights must be safetensors, and in `adapter_config.json` only the keys below may differ from peft's defaults. Without
this, peft would import the module that `megatron_core` names, fetch a tokenizer (`tokenizer_kwargs`), use texts of the
file as regular expressions over module names, and allocate memory by its numbers before it reads any weight.
"""

from __future__ import annotations

import dataclasses
import math
import re
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import safe_open

from pipeline.model.adapter import WEIGHTS
from pipeline.model.base.safetensors_header import damage, read_header
from pipeline.run.errors import UserError
from pipeline.run.json_file import Kind, is_flag, is_number, is_whole, read_object
from pipeline.store.folder import readable

CONFIG = "adapter_config.json"
FLOATS = ("F32", "F16", "BF16")
LARGEST_CONFIG = 4_000_000  # bytes
LARGEST_COUNT = 1 << 20
LARGEST_RANK = 1 << 14


def _count(value: Any) -> bool:
    return value is None or (is_whole(value) and 0 <= value < LARGEST_COUNT)


def _rank(value: Any) -> bool:
    return is_whole(value) and 1 <= value <= LARGEST_RANK


def _number(value: Any) -> bool:
    return value is not None and is_number(value) and abs(value) < 1e6


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) < 10_000)


def _word(value: Any) -> bool:
    return value is None or (isinstance(value, str) and re.fullmatch(r"[\w.-]{1,500}", value) is not None)


def _words(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(v, str) and _word(v) for v in value))


def _counts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(v is not None and _count(v) for v in value))


def _by_word(inner: Kind) -> Kind:
    return lambda value: (
        value is None or (isinstance(value, dict) and all(_word(k) and inner(v) for k, v in value.items()))
    )


def _setting(value: Any) -> bool:
    return is_flag(value) or _number(value) or _word(value) or _words(value)


Keys = dict[str, Kind]
ALWAYS: Keys = {
    "base_model_name_or_path": _text, "revision": _word, "peft_version": _text, "task_type": _word,
    "inference_mode": is_flag, "peft_type": _word,
}  # fmt: skip
LAYERS: Keys = {"target_modules": _words, "exclude_modules": _words, "fan_in_fan_out": is_flag}
PROMPTS: Keys = dict.fromkeys(
    ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
     "encoder_hidden_size", "encoder_num_layers"), _count,
)  # fmt: skip
# By peft_type: keys that may differ from peft's defaults, each with a check of its value. Another method of peft is
# another entry.
KINDS: dict[str, Keys] = {
    "LORA": {
        **LAYERS, "r": _rank, "lora_alpha": _number, "lora_dropout": _number, "use_rslora": is_flag,
        "use_dora": is_flag, "rank_pattern": _by_word(_rank), "alpha_pattern": _by_word(_number),
        "layers_to_transform": _counts, "layers_pattern": _word, "trainable_token_indices": _by_word(_counts),
        "modules_to_save": _words,
        # PiSSA, OLoRA, CorDA and LoRA-GA change the base's weights when they are loaded, under every other adapter.
        "init_lora_weights": lambda value: value in (True, False, "gaussian", "orthogonal"),
    },
    "IA3": {**LAYERS, "feedforward_modules": _words, "init_ia3_weights": is_flag},
    "PREFIX_TUNING": {**PROMPTS, "prefix_projection": is_flag, "init_weights": is_flag},
    "PROMPT_TUNING": {
        **PROMPTS, "prompt_tuning_init": _word, "prompt_tuning_init_text": _text, "tokenizer_name_or_path": _text,
    },
    "P_TUNING": {**PROMPTS, "encoder_reparameterization_type": _word, "encoder_dropout": _number},
}  # fmt: skip
# Methods that are not in peft.
OWN: Keys = {
    "suri_method": _word, "base_model_name_or_path": _text,
    "adapter": lambda value: isinstance(value, dict) and all(_word(k) and _setting(v) for k, v in value.items()),
}  # fmt: skip


@readable()
def inspect(folder: Path) -> dict[str, Any]:
    """The adapter's config, after checking that the folder holds only plain data of plausible size.

    Raises:
        UserError: links, pickles; missing, damaged, empty or unreadable files; a method or key not known to be safe.
    """
    fix = "take it from a source that you trust, or train it again"
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path.name} is not a plain file: refused", str(folder), fix)
    weights, pickled = folder / WEIGHTS, sorted(folder.glob("*.bin")) + sorted(folder.glob("*.p[tk]*"))
    if pickled:
        what = f"{pickled[0].name} is a pickle, which can run code when it is loaded: refused"
        raise UserError(what, str(folder), f"only {WEIGHTS} is read; " + fix)
    for path in (weights, folder / CONFIG):
        if not path.is_file() or not path.stat().st_size:
            state = "empty" if path.is_file() else "missing"
            raise UserError(f"{path.name} is {state}, so this is not an adapter", str(folder), fix)
    if wrong := damage(weights):
        raise UserError(f"{weights.name} is damaged: {wrong}", str(folder), fix)
    config = _config(folder, fix)
    _check_sizes(weights, config, fix)
    return config


def _config(folder: Path, fix: str) -> dict[str, Any]:
    path = folder / CONFIG
    config = read_object(path, {}, fix, LARGEST_CONFIG)
    kind = config.get("peft_type")
    if kind is None and "suri_method" in config:
        allowed, defaults = OWN, {}
    elif isinstance(kind, str) and kind in KINDS:
        allowed, defaults = {**ALWAYS, **KINDS[kind]}, _defaults(kind)
    else:
        known = ", ".join(sorted(KINDS))
        raise UserError(f"the adapter is of the kind {str(kind)[:60]!r}, known are {known}", str(path), fix)
    for key, value in config.items():
        if key in allowed:
            if not allowed[key](value):
                what = f"{key} holds {str(value)[:60]!r}, which is not safe to load"
                raise UserError(what, str(path), fix)
        elif value not in (None, False, {}, [], "") and value != defaults.get(key):
            raise UserError(f"it sets {key[:60]!r} to {str(value)[:60]!r}, which is not safe to load", str(path), fix)
    return config


def _defaults(kind: str) -> dict[str, Any]:
    """The values that peft writes for keys left at their defaults, as plain data."""
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind]):
        value = field.default_factory() if callable(field.default_factory) else field.default
        value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
        defaults[field.name] = value.value if isinstance(value, Enum) else value
    return defaults


def _check_sizes(weights: Path, config: dict[str, Any], fix: str) -> None:
    """Checks that the tensors are floats and that the config's sizes, by which peft allocates, do not exceed theirs.

    Raises:
        UserError: they fail.
    """
    header = read_header(weights)
    if not header:
        raise UserError(f"{weights.name} holds no tensors: nothing was trained", str(weights), fix)
    for name, entry in header.items():
        if entry.dtype not in FLOATS:
            raise UserError(f"{name[:80]} is of type {entry.dtype}, not a float", str(weights), fix)
    shapes = {name: entry.shape for name, entry in header.items()}
    wanted, present = 0, 0
    if config.get("peft_type") == "LORA":
        wanted = max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
        present = max([shape[0] for name, shape in shapes.items() if ".lora_A." in name and shape], default=0)
    elif "num_virtual_tokens" in config:
        wanted = (config["num_virtual_tokens"] or 0) * (config.get("token_dim") or 0)
        wanted *= 2 * (config.get("num_layers") or 0) if config.get("peft_type") == "PREFIX_TUNING" else 1
        present = sum(math.prod(shape) for shape in shapes.values())
    if wanted > present:
        what = f"{CONFIG} describes {wanted:,} numbers, {weights.name} has {present:,}"
        raise UserError(what, str(weights), fix)


def check_numbers(folder: Path) -> None:
    """Checks that all tensors are finite and some update is not zero (of a LoRA: A and B of some layer).

    Raises:
        UserError: they fail.
    """
    nonzero = set()
    with safe_open(folder / WEIGHTS, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (no dict)
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                fix = "train again with a lower train.lr"
                raise UserError(f"{name} holds NaN or infinite numbers", str(folder), fix)
            if tensor.any():
                nonzero.add(name)
        b_factors = {name for name in file.keys() if ".lora_B." in name}  # noqa: SIM118
    products = {n for n in b_factors & nonzero if n.replace(".lora_B.", ".lora_A.") in nonzero}
    if not (products if b_factors else nonzero):
        what = "all its updates are zero: nothing was learnt"
        raise UserError(what, str(folder), "raise train.lr or train for more steps")
