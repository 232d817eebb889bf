"""Scaled rotary positions (`model.rope_scaling`): the base with other RoPE parameters, and so with a longer context.

    linear      all frequencies divided by the factor                                      (Chen et al. 2023)
    yarn        high frequencies as they are, low ones divided, scores scaled               (Peng et al. 2023)
    llama3      high frequencies as they are, low ones divided, smoothly between            (Llama 3.1)
    dynamic     as the base up to its context; beyond, by the longest row of the batch

Weights do not change, only config.json. So a scaled base is a folder with links to the base's files and a changed
config.json; everything that reads a base reads this folder: training, fingerprint, merge, export.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from pipeline.config.rope import MOST_POSITIONS
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import exclusive, read_json, replace_folder, sha256_json, write_json

KEY = "model.rope_scaling"
OWN_CONTEXT = ("yarn", "llama3")  # types whose parameters hold the context of the base
OTHER_BASE = "remove model.rope_scaling, or name a base with rotary positions"


def scale(shape: Any, scaling: dict[str, Any]) -> None:
    """Puts the parameters into a transformers config, and the context that follows: that of the base times the factor.

    Of type dynamic the context stays that of the base: beyond it how a row is rotated depends on the other rows.

    Raises:
        UserError: the model does not read such parameters, is scaled already, or its context becomes too long.
    """
    kind, rope = shape.model_type, getattr(shape, "rope_parameters", None)
    if not isinstance(rope, dict) or rope.get("rope_theta") is None:
        several = isinstance(rope, dict) and any(isinstance(value, dict) for value in rope.values())
        why = "has other rotary positions in each kind of layer" if several else "has no rotary positions"
        raise UserError(f"a model of type {kind} {why}", KEY, OTHER_BASE)
    context = _own_context(shape, rope, scaling)
    parameters = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if rope.get(key) is not None}
    parameters |= {key: value for key, value in scaling.items() if key != "original_max_position_embeddings"}
    rope_type = scaling["rope_type"]
    if rope_type in OWN_CONTEXT:
        parameters["original_max_position_embeddings"] = context
    longest = int(context * scaling["factor"])
    if longest > MOST_POSITIONS:
        what = f"a context of {context:,} tokens times {scaling['factor']:g} is more than {MOST_POSITIONS:,} tokens"
        raise UserError(what, KEY, "lower factor: it is the longest row divided by the context of the base")
    shape.max_position_embeddings = context if rope_type == "dynamic" else longest
    shape.rope_parameters = parameters
    if why := _refusal(shape, rope_type):
        raise UserError(f"a model of type {kind} cannot be scaled by {rope_type}: {why}", KEY, OTHER_BASE)


def _own_context(shape: Any, rope: dict[str, Any], scaling: dict[str, Any]) -> int:
    """Tokens that the base was trained on before any scaling.

    Raises:
        UserError: its config does not say.
    """
    key = "original_max_position_embeddings"
    own = scaling.get(key) or rope.get(key) or getattr(shape, key, None)
    longest = getattr(shape, "max_position_embeddings", None)
    if own is None and rope.get("rope_type", "default") == "default":
        own = longest
    if own is None:
        what = f"the base is scaled already ({rope.get('rope_type')}, factor {rope.get('factor')})"
        if longest is None:
            what = f"the config of a model of type {shape.model_type} does not say its context"
        raise UserError(what, KEY, f"give {key}, the context before any scaling")
    return int(own)


def _refusal(shape: Any, rope_type: str) -> str:
    """Why no model of this config is rotated so; empty if it is. Builds one block without storage."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    small = copy.deepcopy(shape)
    try:
        ROPE_INIT_FUNCTIONS[rope_type](small)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(small)
    except Exception as error:  # of any class: the code of hundreds of models reads these settings
        return one_line(error)
    if not any(getattr(module, "rope_type", None) == rope_type for module in model.modules()):
        return "its code does not read them"
    return ""


def scaled_folder(folder: Path, scaling: dict[str, Any], root: Path) -> Path:
    """The scaled base: a folder under `root`, made at the first call, with links to the files of `folder`.

    Raises:
        UserError: as `scale`.
    """
    from transformers import AutoConfig

    try:
        shape = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each config class raises its own classes of errors
        fix = "check that this transformers knows the model, or fetch the base again"
        raise UserError(f"cannot read the model's settings: {one_line(error)}", str(folder), fix) from None
    scale(shape, scaling)
    settings = {key: value for key, value in (read_json(folder / "config.json") or {}).items() if key != "rope_scaling"}
    settings |= {"rope_parameters": shape.rope_parameters, "max_position_embeddings": shape.max_position_embeddings}
    linked = {path.name: os.path.abspath(path) for path in sorted(folder.iterdir()) if path.is_file()}
    linked.pop("config.json", None)
    scaled = root / f"{folder.name}-{scaling['rope_type']}-{sha256_json([settings, linked])[:12]}"
    with exclusive(root / ".lock", wait=True):  # two runs may scale the same base
        if not (scaled / "config.json").is_file():
            with replace_folder(scaled) as new:
                for name, target in linked.items():
                    (new / name).symlink_to(target)
                write_json(new / "config.json", settings)
    return scaled
