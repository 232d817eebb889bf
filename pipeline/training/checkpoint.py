"""All that exact resume needs, in safetensors: trained weights, AdamW's moments, and where the run stood.

step-000400/weights.safetensors      trained weights by name
            optimizer.safetensors    NAME|exp_avg, NAME|exp_avg_sq, NAME|step
            state.json               where the run stood; sha256 of both files, and of itself
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline.run.files import disk_errors, read_json, replace_folder, sealed, sha256_file, sha256_json, write_json
from pipeline.run.progress import say

NAME = re.compile(r"^step-(\d{6,})$")
KEY = re.compile(r"^[0-9a-f]{64}$")
WEIGHTS, OPTIMIZER, STATE = FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
SIZES = ("micro_tokens", "checkpointing")  # of `train`: how a step is cut up, which changes the order of its sums
WATCHED = ("graphs", "eval_every", "eval_rows")  # how it is started and looked at
START = {"step": 0, "micro_tokens": 0, "recompute": False, "seconds": 0.0, "learnt": 0}
TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,), "key": (str,), "sizes": (dict,), "micro_tokens": (int,), "recompute": (bool,), "learnt": (int,),
    "seconds": (int, float),
}  # fmt: skip
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def key_of(stage_key: dict[str, Any], commit: str | None) -> tuple[str, dict[str, Any]]:
    """What a checkpoint belongs to, and how steps are to be cut up, which it does not hang on: whoever runs out of
    memory changes just that, and goes on.

    Args:
        stage_key: of the training stage. commit: of the base.
    """
    settings = stage_key["train"]
    bound = {name: value for name, value in settings.items() if name not in (*SIZES, *WATCHED)}
    return sha256_json({**stage_key, "train": bound, "commit": commit}), {name: settings[name] for name in SIZES}


def save(
    root: Path, step: int, weights: dict[str, torch.nn.Parameter], optimizer: Any, state: dict[str, Any], keep: int
) -> None:
    """Writes `root`/step-NNNNNN in one piece, then removes all but the newest `keep`."""
    with replace_folder(folder_of(root, step)) as folder:
        save_file({name: p.detach().cpu().contiguous() for name, p in weights.items()}, folder / WEIGHTS)
        moments = {}
        for name, parameter in weights.items():
            for moment, value in optimizer.state.get(parameter, {}).items():
                moments[f"{name}|{moment}"] = value.detach().cpu().contiguous()
        save_file(moments, folder / OPTIMIZER)
        files = {name: sha256_file(folder / name) for name in (WEIGHTS, OPTIMIZER)}
        write_json(folder / STATE, sealed({"step": step, **state, "files": files}))
    for old in steps(root)[:-keep]:
        remove(folder_of(root, old))


def remove(folder: Path) -> None:
    """In one step, so that a crash leaves no checkpoint with half of its files."""
    gone = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    folder.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def space(root: Path, weights: dict[str, torch.nn.Parameter], keep: int) -> int:
    """Bytes that checkpoints will take beside those of this run that are there: weights and two moments in float32, and
    one checkpoint more than are kept while it is written. Those of other settings stay, so they make no room."""
    one = 12 * sum(p.numel() for p in weights.values())
    there = sum(path.stat().st_size for path in root.glob("step-*/*.safetensors"))
    return max(one, (keep + 1) * one - there)


def steps(root: Path) -> list[int]:
    """Steps of the whole checkpoints there are, ascending."""
    found = [int(m.group(1)) for p in root.glob("step-*") if (m := NAME.match(p.name)) and (p / STATE).is_file()]
    return sorted(found)


def newest(root: Path, key: str, sizes: dict[str, Any], told: bool = True) -> dict[str, Any] | None:
    """The state of the newest checkpoint of this very run.

    Args:
        key, sizes: as `key_of` has them. Where a run's steps were cut up otherwise, that is chosen anew.
        told: whether to say so.
    """
    for step in reversed(steps(root)):
        state = read_json(folder_of(root, step) / STATE)
        if isinstance(state, dict) and state.get("key") == key:
            if state["sizes"] != sizes:
                if told:
                    say("train: steps are cut up otherwise than before, which changes the order of their sums")
                state |= {"micro_tokens": 0, "recompute": False}
            return state
    return None


def damage(root: Path, step: int, weights: dict[str, torch.nn.Parameter] | None = None) -> str:
    """What is wrong with a checkpoint, in words; empty when nothing is.

    Args:
        weights: what is trained; None: look at the state alone.

    Checkpoints of versions that wrote no hashes are compared by names, shapes and types.

    Raises:
        UserError: there are no rights to read it.
    """
    folder = folder_of(root, step)
    with disk_errors(folder):
        try:
            with open(folder / STATE, "rb"):  # no rights are no damage
                state = read_json(folder / STATE)
            if wrong := _wrong_state(state, step):
                return f"{STATE} {wrong}"
            if weights is None:
                return ""
            for name, wanted in (state.get("files") or {}).items():
                if sha256_file(folder / name) != wanted:
                    return f"{name} is not what was written"
            return _wrong_tensors(_tensors(folder / WEIGHTS), _tensors(folder / OPTIMIZER), weights)
        except PermissionError:
            raise
        except (OSError, SafetensorError) as error:
            return f"a file cannot be read ({error})"


def _wrong_state(state: Any, step: int) -> str:
    if not isinstance(state, dict):
        return "cannot be read"
    if ("sha256" in state or "files" in state) and sealed(state) != state:
        return "is not what was written"
    for name, types in TYPES.items():
        if type(state.get(name)) not in types:
            return f"has no fit `{name}`"
    if state["step"] != step:
        return f"is of step {state['step']}"
    return "" if KEY.match(state["key"]) else "has no fit `key`"


Shape = tuple[str, tuple[int, ...]]


def _tensors(path: Path) -> dict[str, Shape]:
    """Type and shape of every tensor of a file."""
    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def _wrong_tensors(saved: dict[str, Shape], moments: dict[str, Shape], weights: dict[str, torch.nn.Parameter]) -> str:
    """What saved weights and moments have that those of the run have not, or the other way round."""
    wanted: dict[str, Shape] = {name: (DTYPES.get(p.dtype, ""), tuple(p.shape)) for name, p in weights.items()}
    if odd := _first_odd(saved, wanted):
        return f"{WEIGHTS} {odd}"
    # A weight that never had a gradient has no moments; any other has all three.
    touched = {name.rsplit("|", 1)[0] for name in moments}
    wanted_moments = {
        f"{name}|{moment}": ("F32", ()) if moment == "step" else wanted.get(name, ("", ()))
        for name in touched
        for moment in MOMENTS
    }
    if saved and not moments:
        return f"{OPTIMIZER} is empty"
    if odd := _first_odd(moments, wanted_moments):
        return f"{OPTIMIZER} {odd}"
    return ""


def _first_odd(found: dict[str, Shape], wanted: dict[str, Shape]) -> str:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            return f"lacks {name}"
        if name not in wanted:
            return f"holds {name}, which is not trained"
        if found[name] != wanted[name]:
            return f"holds {name} as {_spelt(found[name])}, not {_spelt(wanted[name])}"
    return ""


def _spelt(shape: Shape) -> str:
    return f"{shape[0]} {list(shape[1])}"


def restore(root: Path, step: int, weights: dict[str, torch.nn.Parameter], optimizer: Any) -> None:
    """Puts weights and moments back, bit for bit.

    Raises:
        ValueError: the checkpoint holds tensors of other names, shapes or types.
    """
    folder = folder_of(root, step)
    saved, moments = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
    if wrong := _wrong_tensors(_tensors(folder / WEIGHTS), _tensors(folder / OPTIMIZER), weights):
        raise ValueError(f"{folder}: {wrong}")
    fused = any(group.get("fused") for group in optimizer.param_groups)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(saved[name])
            found = {m: moments[f"{name}|{m}"] for m in MOMENTS if f"{name}|{m}" in moments}
            if found:
                # The moments lie beside the weights; AdamW's own step count does so only where its kernel is one.
                beside = {m: v for m, v in found.items() if fused or m != "step"}
                optimizer.state[parameter] = found | {m: v.to(parameter.device) for m, v in beside.items()}
