"""All that exact resume needs, in safetensors: trained weights, AdamW's moments, and where the run stood."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.files import read_json, replace_folder, sha256_json, write_json
from pipeline.progress import say

NAME = re.compile(r"^step-(\d{6,})$")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
SIZES = ("micro_tokens", "checkpointing")  # of `train`: how a step is cut up, which changes the order of its sums
WATCHED = ("graphs", "eval_every", "eval_rows")  # how it is started and looked at


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
        save_file({name: p.detach().cpu().contiguous() for name, p in weights.items()}, folder / "weights.safetensors")
        moments = {}
        for name, parameter in weights.items():
            for moment, value in optimizer.state.get(parameter, {}).items():
                moments[f"{name}|{moment}"] = value.detach().cpu().contiguous()
        save_file(moments, folder / "optimizer.safetensors")
        write_json(folder / "state.json", {"step": step, **state})
    for old in steps(root)[:-keep]:
        shutil.rmtree(folder_of(root, old), ignore_errors=True)


def space(root: Path, weights: dict[str, torch.nn.Parameter], keep: int) -> int:
    """Bytes that checkpoints will take beside those that are there: weights and two moments in float32, and one
    checkpoint more than are kept while it is written."""
    one = 12 * sum(p.numel() for p in weights.values())
    there = sum(path.stat().st_size for path in root.glob("step-*/*.safetensors"))
    return max(one, (keep + 1) * one - there)


def steps(root: Path) -> list[int]:
    """Steps of the whole checkpoints there are, ascending."""
    found = [int(m.group(1)) for p in root.glob("step-*") if (m := NAME.match(p.name)) and (p / "state.json").is_file()]
    return sorted(found)


def newest(root: Path, key: str, sizes: dict[str, Any], clean: bool = True) -> dict[str, Any] | None:
    """The state of the newest checkpoint of this very run; with `clean`, those of other settings are removed.

    Args:
        key, sizes: as `key_of` has them. Where a run's steps were cut up otherwise, that is chosen anew.
    """
    for step in reversed(steps(root)):
        state = read_json(folder_of(root, step) / "state.json")
        if state and state.get("key") == key:
            if state["sizes"] != sizes:
                say("train: steps are cut up otherwise than before, which changes the order of their sums")
                state |= {"micro_tokens": 0, "recompute": False}
            return state
    if clean and steps(root):
        say("train: the checkpoints here belong to other data or settings: starting anew")
        shutil.rmtree(root)
    return None


def restore(root: Path, step: int, weights: dict[str, torch.nn.Parameter], optimizer: Any) -> None:
    """Puts weights and moments back, bit for bit."""
    folder = folder_of(root, step)
    saved, moments = load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors")
    fused = any(group.get("fused") for group in optimizer.param_groups)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(saved[name])
            found = {m: moments[f"{name}|{m}"] for m in MOMENTS if f"{name}|{m}" in moments}
            if found:
                # The moments lie beside the weights; AdamW's own step count does so only where its kernel is one.
                beside = {m: v for m, v in found.items() if fused or m != "step"}
                optimizer.state[parameter] = found | {m: v.to(parameter.device) for m, v in beside.items()}
