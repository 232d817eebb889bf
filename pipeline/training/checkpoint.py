"""Checkpoints for exact resume: trained weights, the optimizer's state, and the state of the run.

step-000400/weights.safetensors      trained weights by name
            optimizer.safetensors    NAME|exp_avg, NAME|exp_avg_sq, NAME|step (of AdamW; optimizer_state.py has others)
            best.safetensors         with `train.best`: weights of the lowest held-out loss so far
            state.json               step, counts, settings' key; sha256 of the files and of itself

Of weights that are sharded over the ranks, `weights/`, `optimizer/` and `best/` hold a file for each (tensor_store.py).
A run goes on from either form, with any number of ranks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.run.files import (  # fmt: skip
    disk_errors,
    read_json,
    replace_folder,
    sealed,
    sha256_file,
    sha256_json,
    temporary_of,
    write_json,
)
from pipeline.run.leftovers import remove_whole
from pipeline.run.progress import say
from pipeline.training import tensor_store
from pipeline.training.optimizer_state import Layout, Shape, put_states, state_tensors
from pipeline.training.processes import join, wait_for_all

NAME = re.compile(r"^step-(\d{6,})$")
KEY = re.compile(r"^[0-9a-f]{64}$")
STATE = "state.json"
WEIGHTS, OPTIMIZER, BEST = "weights", "optimizer", "best"  # names of tensors, see `tensor_store`
SIZES = ("micro_tokens", "checkpointing")  # of `train`: how a step is split, which changes the order of its sums
# Keys of `train` without effect on the weights, unless `early_stop` or `best` is set.
IRRELEVANT = ("graphs", "eval_every", "eval_rows")
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
    measurements_decide = settings.get("early_stop") or settings.get("best")
    left_out = (*SIZES, "graphs") if measurements_decide else (*SIZES, *IRRELEVANT)
    relevant = {name: value for name, value in settings.items() if name not in left_out}
    return sha256_json({**stage_key, "train": relevant, "commit": commit}), {name: settings[name] for name in SIZES}


def save(
    root: Path, step: int, weights: dict[str, torch.nn.Parameter], optimizer: Any, state: dict[str, Any], keep: int,
    accelerator: Any = None,
) -> None:  # fmt: skip
    """Writes `root`/step-NNNNNN atomically, then removes all but the newest `keep`.

    Args:
        state: with `best`, `{"step": N, ...}`, the weights of that step go with the checkpoint: its own, or those that
            the newest checkpoint has. accelerator: with sharded weights, which all ranks write together.
    """
    moments = {}
    for name, parameter in weights.items():
        for moment, value in state_tensors(optimizer, parameter).items():
            moments[f"{name}|{moment}"] = value
    if not tensor_store.is_sharded(weights):
        with replace_folder(folder_of(root, step)) as folder:
            tensor_store.write(folder, WEIGHTS, weights)
            tensor_store.write(folder, OPTIMIZER, moments)
            _complete(folder, root, step, state, {})
    else:
        _save_together(root, step, weights, moments, state, accelerator)
        if not accelerator.is_main_process:
            return
    for old in steps(root)[:-keep]:
        remove_whole(folder_of(root, old))


def _save_together(
    root: Path, step: int, weights: dict[str, torch.nn.Parameter], moments: dict[str, torch.Tensor],
    state: dict[str, Any], accelerator: Any,
) -> None:  # fmt: skip
    """Every rank writes its part into the folder that the first one makes, completes, and puts in place."""
    target, is_main = folder_of(root, step), accelerator.is_main_process
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(replace_folder(target)) if is_main else temporary_of(target)
        if is_main:
            for name in (WEIGHTS, OPTIMIZER):
                (folder / name).mkdir()
        wait_for_all(accelerator)
        with disk_errors(target):
            tensor_store.write(folder, WEIGHTS, weights)
            if moments or is_main:  # before the first update there are none, and an empty file is of one rank
                tensor_store.write(folder, OPTIMIZER, moments)
        wait_for_all(accelerator)
        written = [path for name in (WEIGHTS, OPTIMIZER) for path in tensor_store.files(folder, name)]
        own = written[accelerator.process_index :: accelerator.num_processes]  # hashing 80 GB takes a minute
        hashes = join(accelerator, {str(path.relative_to(folder)): sha256_file(path) for path in own})
        if is_main:
            _complete(folder, root, step, state, hashes)
    wait_for_all(accelerator)


def _complete(folder: Path, root: Path, step: int, state: dict[str, Any], hashes: dict[str, str]) -> None:
    """Adds the best weights, if they are kept, and the state. hashes: of the files, as far as they are known."""
    if best := state.get("best"):
        owner = (folder, WEIGHTS) if best["step"] == step else (folder_of(root, steps(root)[-1]), BEST)
        tensor_store.link(*owner, folder, BEST)
    names = [path for name in (WEIGHTS, OPTIMIZER, BEST) for path in tensor_store.files(folder, name)]
    files = {str(path.relative_to(folder)): path for path in names}
    sums = {name: hashes.get(name) or sha256_file(path) for name, path in files.items()}
    write_json(folder / STATE, sealed({"step": step, **state, "files": sums}))


def space(root: Path, layout: Layout, keep: int) -> int:
    """Bytes that this run's checkpoints still need: `keep` of them and one while it is written, without those that
    exist. Checkpoints of other settings are not replaced."""
    one = layout.bytes
    existing = sum(path.stat().st_size for path in root.glob("step-*/**/*.safetensors"))
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
            saved, moments = tensor_store.shapes(folder, WEIGHTS), tensor_store.shapes(folder, OPTIMIZER)
            all_skipped = (state.get("loss_scale") or {}).get("skipped") == step
            if saved and not moments and state["learnt"] and not all_skipped:  # else there are no moments yet
                return f"{OPTIMIZER} is empty"
            return _tensor_problem(saved, moments, layout)
        except PermissionError:
            raise
        except (OSError, ValueError, SafetensorError) as error:
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
    """Loads weights and the optimizer's state, bit for bit; all ranks must call it.

    Raises:
        ValueError: the checkpoint holds tensors of other names, shapes or types.
    """
    folder = folder_of(root, step)
    moments = tensor_store.shapes(folder, OPTIMIZER)
    if problem := _tensor_problem(tensor_store.shapes(folder, WEIGHTS), moments, layout):
        raise ValueError(f"{folder}: {problem}")
    tensor_store.read(folder, WEIGHTS, weights)
    filled = {key: tensor_store.blank(shape, weights[key.rpartition("|")[0]]) for key, shape in moments.items()}
    tensor_store.read(folder, OPTIMIZER, filled)
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in filled.items():
        name, _, moment = key.rpartition("|")
        states.setdefault(name, {})[moment] = value
    with torch.no_grad():
        put_states(optimizer, weights, states)


def restore_best(root: Path, weights: dict[str, torch.nn.Parameter]) -> None:
    """Loads the weights of the lowest held-out loss, of the newest checkpoint; all ranks must call it."""
    tensor_store.read(folder_of(root, steps(root)[-1]), BEST, weights)
