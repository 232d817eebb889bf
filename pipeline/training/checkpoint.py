"""Checkpoints for exact resume: trained weights, the optimizer's state, and the state of the run.

step-000400/weights.safetensors      trained weights by name
            optimizer.safetensors    NAME|exp_avg, NAME|exp_avg_sq, NAME|step (of AdamW; optimizer_state.py has others)
            best.safetensors         with `train.best`: weights of the lowest held-out loss so far
            state.json               step, counts, settings' key; sha256 of the files and of itself
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline.run.files import (  # fmt: skip
    disk_errors,
    read_json,
    replace_folder,
    sealed,
    sha256_file,
    sha256_json,
    write_json,
)
from pipeline.run.leftovers import remove_whole
from pipeline.run.link_file import link_or_copy
from pipeline.run.progress import say
from pipeline.training.optimizer_state import Layout, Shape, put_states, state_tensors

NAME = re.compile(r"^step-(\d{6,})$")
KEY = re.compile(r"^[0-9a-f]{64}$")
WEIGHTS, OPTIMIZER, STATE = FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
BEST = "best.safetensors"
SIZES = ("micro_tokens", "checkpointing")  # of `train`: how a step is split, which changes the order of its sums
IRRELEVANT = ("graphs", "eval_every", "eval_rows")  # of `train`: no effect on the weights; unless looks decide
START = {"step": 0, "micro_tokens": 0, "recompute": False, "graphs": None, "seconds": 0.0, "learnt": 0}
TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,), "key": (str,), "sizes": (dict,), "micro_tokens": (int,), "recompute": (bool,), "learnt": (int,),
    "seconds": (int, float),
}  # fmt: skip


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def key_of(stage_key: dict[str, Any], commit: str | None) -> tuple[str, dict[str, Any]]:
    """The key of a run's checkpoints, and its settings `SIZES`, which are not in the key: after running out of memory,
    a run can be resumed with other sizes.

    Args:
        stage_key: of the training stage. commit: of the base.
    """
    settings = stage_key["train"]
    looks_decide = settings.get("early_stop") or settings.get("best")
    left_out = (*SIZES, "graphs") if looks_decide else (*SIZES, *IRRELEVANT)
    relevant = {name: value for name, value in settings.items() if name not in left_out}
    return sha256_json({**stage_key, "train": relevant, "commit": commit}), {name: settings[name] for name in SIZES}


def save(
    root: Path, step: int, weights: dict[str, torch.nn.Parameter], optimizer: Any, state: dict[str, Any], keep: int
) -> None:
    """Writes `root`/step-NNNNNN atomically, then removes all but the newest `keep`.

    Args:
        state: with `best`, `{"step": N, ...}`, the weights of that step go with the checkpoint: its own, or those that
            the newest checkpoint has.
    """
    with replace_folder(folder_of(root, step)) as folder:
        save_file({name: p.detach().cpu().contiguous() for name, p in weights.items()}, folder / WEIGHTS)
        moments = {}
        for name, parameter in weights.items():
            for moment, value in state_tensors(optimizer, parameter).items():
                moments[f"{name}|{moment}"] = value
        save_file(moments, folder / OPTIMIZER)
        names = [WEIGHTS, OPTIMIZER]
        if best := state.get("best"):
            is_own = best["step"] == step
            link_or_copy(folder / WEIGHTS if is_own else folder_of(root, steps(root)[-1]) / BEST, folder / BEST)
            names.append(BEST)
        files = {name: sha256_file(folder / name) for name in names}
        write_json(folder / STATE, sealed({"step": step, **state, "files": files}))
    for old in steps(root)[:-keep]:
        remove_whole(folder_of(root, old))


def space(root: Path, layout: Layout, keep: int) -> int:
    """Bytes that this run's checkpoints still need: `keep` of them and one while it is written, without those that
    exist. Checkpoints of other settings are not replaced."""
    one = layout.bytes
    existing = sum(path.stat().st_size for path in root.glob("step-*/*.safetensors"))
    return max(one, (keep + 1) * one - existing)


def steps(root: Path) -> list[int]:
    """Steps of the checkpoints in `root`, ascending."""
    return sorted(int(m[1]) for p in root.glob("step-*") if (m := NAME.match(p.name)) and (p / STATE).is_file())


def newest(root: Path, key: str, sizes: dict[str, Any], verbose: bool = True) -> dict[str, Any] | None:
    """The state of the newest checkpoint with this key.

    Args:
        key, sizes: from `key_of`. With other sizes the state's `micro_tokens`, `recompute` and `graphs` are reset.
    """
    for step in reversed(steps(root)):
        state = read_json(folder_of(root, step) / STATE)
        if isinstance(state, dict) and state.get("key") == key:
            if state["sizes"] != sizes:
                if verbose:
                    say("train: micro-batches are split anew, so the run may differ slightly from an uninterrupted one")
                state |= {"micro_tokens": 0, "recompute": False, "graphs": None}
            return state
    return None


def earlier_placement(root: Path, key: str, sizes: dict[str, Any]) -> str:
    """`train.checkpointing` as it was decided for the newest checkpoint of these settings; empty if there is none."""
    for step in reversed(steps(root)):
        state = read_json(folder_of(root, step) / STATE)
        if isinstance(state, dict) and state.get("key") == key and state.get("sizes") == sizes:
            placement = state.get("checkpointing", "")
            return placement if isinstance(placement, str) else ""
    return ""


def tell_other_world(state: dict[str, Any], world: int) -> None:
    """Says what another number of processes than the checkpoint's keeps and what it does not."""
    before = state.get("processes", world)
    if before != world:
        say(
            f"train: the checkpoint is of {before} process{'es' if before > 1 else ''}, and this run has {world}: the "
            "rows of each step stay the same; dropout draws other masks, and sums are rounded in another order"
        )


def damage(root: Path, step: int, layout: Layout | None = None) -> str:
    """Why a checkpoint cannot be used; empty if it can.

    Args:
        layout: of its tensors; None: check the state only.

    Checkpoints of versions without hashes are compared by names, shapes and types.

    Raises:
        UserError: no permission to read it.
    """
    folder = folder_of(root, step)
    with disk_errors(folder):
        try:
            with open(folder / STATE, "rb"):  # a missing permission is no damage
                state = read_json(folder / STATE)
            if problem := _state_problem(state, step):
                return f"{STATE} {problem}"
            if layout is None:
                return ""
            for name, wanted in (state.get("files") or {}).items():
                if sha256_file(folder / name) != wanted:
                    return f"{name} is not what was written"
            saved, moments = _tensors(folder / WEIGHTS), _tensors(folder / OPTIMIZER)
            all_skipped = (state.get("loss_scale") or {}).get("skipped") == step  # then there are no moments yet
            if saved and not moments and not all_skipped:
                return f"{OPTIMIZER} is empty"
            return _tensor_problem(saved, moments, layout)
        except PermissionError:
            raise
        except (OSError, SafetensorError) as error:
            return f"a file cannot be read ({error})"


def _state_problem(state: Any, step: int) -> str:
    if not isinstance(state, dict):
        return "cannot be read"
    if ("sha256" in state or "files" in state) and sealed(state) != state:
        return "is not what was written"
    for name, types in TYPES.items():
        if type(state.get(name)) not in types:
            return f"has no valid `{name}`"
    if state["step"] != step:
        return f"is of step {state['step']}"
    return "" if KEY.match(state["key"]) else "has no valid `key`"


def _tensors(path: Path) -> dict[str, Shape]:
    """Type and shape of every tensor of a file."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in slices.items()}


def _tensor_problem(saved: dict[str, Shape], moments: dict[str, Shape], layout: Layout) -> str:
    """The first difference between saved tensors and those of the run; empty if there is none."""
    if difference := _first_difference(saved, layout.weights):
        return f"{WEIGHTS} {difference}"
    # A weight without a gradient so far has no moments; any other has all.
    with_moments = {name.rsplit("|", 1)[0] for name in moments}
    wanted_moments = {
        f"{name}|{moment}": shape for name in with_moments for moment, shape in layout.moments.get(name, {}).items()
    }
    if difference := _first_difference(moments, wanted_moments):
        return f"{OPTIMIZER} {difference}"
    return ""


def _first_difference(saved: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in saved:
            return f"lacks {name}"
        if name not in wanted:
            return f"holds {name}, which is not trained"
        if saved[name] != wanted[name]:
            return f"holds {name} as {_text(saved[name])}, not {_text(wanted[name])}"
    return ""


def _text(shape: Shape) -> str:
    return f"{shape[0]} {list(shape[1])}"


def restore(root: Path, step: int, weights: dict[str, torch.nn.Parameter], optimizer: Any, layout: Layout) -> None:
    """Loads weights and the optimizer's state, bit for bit.

    Raises:
        ValueError: the checkpoint holds tensors of other names, shapes or types.
    """
    folder = folder_of(root, step)
    saved, moments = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
    if problem := _tensor_problem(_tensors(folder / WEIGHTS), _tensors(folder / OPTIMIZER), layout):
        raise ValueError(f"{folder}: {problem}")
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("|")
        states.setdefault(name, {})[moment] = value
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(saved[name])
        put_states(optimizer, weights, states)


def restore_best(root: Path, weights: dict[str, torch.nn.Parameter]) -> None:
    """Loads the weights of the lowest held-out loss, of the newest checkpoint."""
    saved = load_file(folder_of(root, steps(root)[-1]) / BEST)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(saved[name])
