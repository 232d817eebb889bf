"""Checks a base's folder before transformers reads it: it must hold a causal LM in safetensors.

transformers allocates by the numbers in config.json before it opens a weight, follows the file names of an index, and
fills missing tensors with random numbers. The checks here read config files and headers of weights only.
"""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.model.base.safetensors_header import FLOATS, damage, read_header
from pipeline.run.errors import UserError
from pipeline.run.json_file import (  # fmt: skip
    LARGEST_COUNT,
    Kind,
    is_count,
    is_id,
    is_number,
    is_object,
    is_text,
    is_texts,
    read_object,
)
from pipeline.run.terminal import quoted

CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
FIX = "fetch the base again, or name a folder that `save_pretrained` wrote"
LARGEST_INDEX = 64_000_000
MOST_LAYERS = 4096
COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "n_embd", "n_layer", "n_head",
          "d_model", "n_layers", "n_heads", "max_position_embeddings", "n_positions")  # fmt: skip
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
CONFIG: dict[str, Kind] = {
    **dict.fromkeys(COUNTS, is_count), **dict.fromkeys(IDS, is_id),
    "model_type": is_text, "architectures": is_texts, "quantization_config": is_object, "text_config": is_object,
    "torch_dtype": is_text, "dtype": is_text,
}  # fmt: skip
GENERATION: dict[str, Kind] = {
    **dict.fromkeys(IDS, is_id), **dict.fromkeys(("temperature", "top_p", "top_k", "max_length"), is_number),
}  # fmt: skip
# Keys at any depth by which transformers sizes modules and tables.
LAYERS = re.compile(r"(^|_)(n|num)(_\w+)?_(layers?|blocks)$")
SIZES = re.compile(r"_(size|dim|heads?|embd|positions|embeddings|experts|ctx|inner)$|^d_\w+$")
# Older files hold, besides weights, masks that a model makes itself.
MASKS = ("BOOL", "U8", "I64")


def check_folder(folder: Path) -> dict[str, Any]:
    """Checks that the folder holds a causal LM in safetensors; returns its config.json.

    Raises:
        UserError: no config, an adapter, another kind of model, a model type that transformers does not know, sizes
            beyond the weights; remote code; pickled, quantised, integer, damaged or missing weights.
    """
    where = str(folder)
    # transformers would load the base that adapter_config.json names, even where there is a config.json.
    if (folder / "adapter_config.json").is_file():
        raise UserError("this is an adapter, not a base model", where, "name the base that it was trained on")
    if not (folder / "config.json").exists():
        raise UserError("no config.json: not a model folder", where, FIX)
    config = read_object(folder / "config.json", CONFIG, FIX)
    _check_kind(config, where)
    if (folder / "generation_config.json").exists():
        read_object(folder / "generation_config.json", GENERATION, FIX)
    if wrong := too_large(config, _check_weights(folder)):
        raise UserError(f"config.json cannot be used: {wrong}", where, FIX)
    return config


def _check_kind(config: dict[str, Any], where: str) -> None:
    """Raises:
    UserError: not a causal LM whose code and weights can be used here.
    """
    if "auto_map" in config and not _is_own(config):
        fix = "choose a model that transformers itself knows"
        raise UserError("this model needs code from its repository, which is never run here", where, fix)
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation", "transformers_weights"):
        if config.get(key) is not None and (key == "transformers_weights" or "/" in str(config[key])):
            what = f"config.json names other files or code: {key} holds {quoted(str(config[key]))}"
            raise UserError(what, where, f"remove {key} from it")
    names = config.get("architectures") or []
    if names and not any(CAUSAL.search(name) for name in names):
        what = f"not a causal language model: {', '.join(quoted(name)[1:-1] for name in names[:3])}"
        raise UserError(what, where, "choose a ...ForCausalLM model")
    if config.get("quantization_config"):
        how = quoted(str(config["quantization_config"].get("quant_method", "some way")))[1:-1]
        fix = "name the original model; model.quantize=nf4 or int8 quantises it here"
        raise UserError(f"the weights are stored quantised ({how}), so no update could be merged into them", where, fix)
    kind = config.get("model_type")
    if not kind:
        raise UserError("config.json has no model_type, so the architecture is unknown", where, FIX)
    if not is_known(kind):
        what = (
            f"transformers {metadata.version('transformers')}, which is installed, knows no model_type {quoted(kind)}"
        )
        fix = "a newer transformers may know it (pip install -U transformers); or name another base"
        raise UserError(what, where, fix)


def is_known(kind: str) -> bool:
    """Whether the installed transformers knows a model type."""
    if _in_table("auto_mappings.py", f'("{kind}", '):
        return True
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def _is_own(config: dict[str, Any]) -> bool:
    """Whether transformers has this architecture itself, so that the code in the base's repository is not needed.

    Phi-4-mini's config.json names both. `trust_remote_code=False` takes the class of transformers.
    """
    kind, names = config.get("model_type"), config.get("architectures") or []
    return any(_in_table("modeling_auto.py", f'("{kind}", "{name}")') for name in names)


def _in_table(name: str, entry: str) -> bool:
    """Whether a table of transformers holds an entry. Importing transformers takes seconds, so it is read as text."""
    spec = importlib.util.find_spec("transformers")
    tables = [Path(place) / "models" / "auto" / name for place in spec.submodule_search_locations or ()] if spec else []
    return any(table.is_file() and entry in table.read_text(encoding="utf-8") for table in tables)


def too_large(config: Any, tensors: int | None = None) -> str:
    """The key of a config.json, at any depth, whose number is impossible, with the reason; empty when there is none.

    Args:
        tensors: number of tensors in the weights; each layer has at least one.
    """
    most = MOST_LAYERS if tensors is None else min(tensors, MOST_LAYERS)
    why = f"at most {MOST_LAYERS:,} are built" if most == MOST_LAYERS else f"its files hold {most:,} tensors"
    level = [config]
    while level:
        fields = [item for part in level if isinstance(part, dict) for item in part.items()]
        for key, value in fields:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if LAYERS.search(str(key)) and not value <= most:
                    return f"{quoted(str(key))} says {value:,} layers, {why}"
                if SIZES.search(str(key)) and not abs(value) <= LARGEST_COUNT:
                    return f"{quoted(str(key))} holds {value:,}"
        inside = [value for _, value in fields]
        level = inside + [value for part in level if isinstance(part, list) for value in part]
    return ""


def _check_weights(folder: Path) -> int:
    """Checks that all weight files exist, are complete safetensors and hold floating-point weights; counts tensors.

    Raises:
        UserError: naming the first file or tensor that fails.
    """
    where = str(folder)
    files = weight_files(folder)
    if not files:
        pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in sorted(folder.glob(pattern))]
        if pickles:
            fix = (
                "convert them once, on an isolated machine: "
                'python -c "from transformers import AutoModelForCausalLM as M; '
                "M.from_pretrained('FOLDER').save_pretrained('NEW')\", then copy the tokenizer's files over"
            )
            what = f"the weights are pickles ({pickles[0]}), which can run code when they are loaded: refused"
            raise UserError(what, where, fix)
        fix = "fetch the weights (from the hub only safetensors are fetched: a repository may have none)"
        raise UserError("no model.safetensors in the folder, and no index of its parts", where, fix)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        what = f"{len(missing)} of {len(files)} weight files are missing, such as {missing[0]}"
        raise UserError(what, where, "fetch them again")
    tensors = 0
    for name in files:
        try:
            header = read_header(folder / name)
        except ValueError as error:
            fix = "fetch it again (after a git clone: git lfs pull)"
            raise UserError(f"{name} is damaged: {error}", where, fix) from None
        for tensor, entry in header.items():
            if entry.dtype not in FLOATS and (tensor.endswith("weight") or entry.dtype not in MASKS):
                what = f"the weights are not floating-point numbers: {quoted(tensor)} is of type {entry.dtype}"
                raise UserError(what, where, "name the original model, in float32, bf16 or fp16")
        tensors += len(header)
    return tensors


def weight_files(folder: Path) -> list[str]:
    """Names of the files that transformers will read; empty when there are none in safetensors.

    Raises:
        UserError: the index is damaged, or names something other than a file in the same folder.
    """
    if (folder / ONE_FILE).is_file():
        return [ONE_FILE]
    if not (folder / INDEX).exists():
        return []
    index = read_object(folder / INDEX, {"metadata": is_object}, FIX, LARGEST_INDEX)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{INDEX} is damaged: no file for each tensor", str(folder), FIX)
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,200}\.safetensors", name):
            raise UserError(f"{INDEX} names {quoted(str(name))}, which is not a file of the folder", str(folder), FIX)
    return sorted(set(names.values()))


def is_whole(folder: Path) -> bool:
    """Whether the weights are complete by their headers and lengths."""
    try:
        files = weight_files(folder)
        return bool(files) and not any(damage(folder / name) for name in files)
    except (UserError, OSError):
        return False
