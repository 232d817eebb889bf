"""The checkpoints of a run folder: those of the settings at hand, and those of others, which are set aside.

    checkpoints/step-000400/              of the settings at hand
                0123456789abcdef/         of others, by their key: step-NNNNNN/, and what lay beside them in the run
                damaged/step-000500/      could not be read; for the user to look at, or to delete

Whoever goes back to earlier settings goes on from their newest checkpoint. Every move is a rename, and a process that
is killed between two of them leaves what the next one finishes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.run.files import disk_errors, folder_size, make_folder, need_space, read_json, readable_size
from pipeline.run.progress import say
from pipeline.training import checkpoint

ASIDE = 3  # other settings whose checkpoints are kept
NAME = re.compile(r"^[0-9a-f]{16}$")


def open_checkpoints(
    root: Path, key: str, sizes: dict[str, Any], weights: dict[str, torch.nn.Parameter], keep: int,
    beside: Sequence[Path], accelerator: Any,
) -> dict[str, Any]:  # fmt: skip
    """Where a run stands: the state of its newest checkpoint that is whole, or of its start.

    Args:
        key, sizes: as `checkpoint.key_of` has them. keep: `train.keep`.
        beside: files of the run folder that belong to the checkpoints: they are set aside and come back with them.

    Raises:
        UserError: not enough disk, or no rights.
    """
    if accelerator.is_main_process:
        with disk_errors(root):
            settle(root, key, weights, beside)
        aside = sum(p.stat().st_size for p in root.glob("*/step-*/*.safetensors"))
        more = f" (beside {readable_size(aside)} of other settings in {root})" if aside else ""
        need_space(root, checkpoint.space(root, weights, keep), f"checkpoints{more}")
    accelerator.wait_for_everyone()  # no rank may look before the first one has moved what is to be moved
    return checkpoint.newest(root, key, sizes, accelerator.is_main_process) or dict(checkpoint.START)


def settle(root: Path, key: str, weights: dict[str, torch.nn.Parameter], beside: Sequence[Path]) -> None:
    """Leaves in `root` the checkpoints of `key` alone, the newest of them whole."""
    for left in root.glob(".*.tmp"):  # of a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    others: dict[str, list[int]] = {}
    for step in checkpoint.steps(root):
        if wrong := checkpoint.damage(root, step):
            _put_away(root, step, wrong)
        elif (owner := read_json(checkpoint.folder_of(root, step) / checkpoint.STATE)["key"]) != key:
            others.setdefault(owner, []).append(step)
    for owner, steps in others.items():
        _set_aside(root, owner, steps, beside)
    _bring_back(root, key, beside)
    _drop_oldest(root)
    while steps := checkpoint.steps(root):
        if not (wrong := checkpoint.damage(root, steps[-1], weights)):
            break
        _put_away(root, steps[-1], wrong)


def _put_away(root: Path, step: int, wrong: str) -> None:
    folder, target = checkpoint.folder_of(root, step), checkpoint.folder_of(root / "damaged", step)
    make_folder(target.parent)
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)
    before = [n for n in checkpoint.steps(root) if n < step]
    then = f"trying step {before[-1]}" if before else "no other is left, so training starts anew"
    say(f"train: the checkpoint of step {step} is damaged: {wrong}; moved to {target}; {then}")


def _set_aside(root: Path, owner: str, steps: list[int], beside: Sequence[Path]) -> None:
    folder = root / owner[:16]
    make_folder(folder)
    for path in beside:
        if path.is_file():
            _copy(path, folder / path.name)
    for step in steps:
        target = checkpoint.folder_of(folder, step)
        if target.exists():  # the same step of the same run: the same bits
            shutil.rmtree(target)
        os.replace(checkpoint.folder_of(root, step), target)
    size = folder_size(folder)
    named = f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"
    told = f"{named}, {readable_size(size)}"
    say(f"train: the checkpoints here belong to other data, settings or another version ({told}): "
        f"set aside in {folder}; going back to those settings goes on from them")  # fmt: skip


def _bring_back(root: Path, key: str, beside: Sequence[Path]) -> None:
    folder = root / key[:16]
    if not folder.is_dir():
        return
    if not checkpoint.steps(root) and checkpoint.steps(folder):
        for path in beside:
            if (folder / path.name).is_file():
                _copy(folder / path.name, path)
    for step in checkpoint.steps(folder):
        if not checkpoint.folder_of(root, step).exists():
            os.replace(checkpoint.folder_of(folder, step), checkpoint.folder_of(root, step))
    shutil.rmtree(folder)


def _drop_oldest(root: Path) -> None:
    aside = sorted((p for p in root.glob("*") if NAME.match(p.name) and p.is_dir()), key=lambda p: p.stat().st_mtime_ns)
    for folder in aside[:-ASIDE]:
        say(f"train: checkpoints of {ASIDE} other settings are kept: those of the oldest are deleted ({folder})")
        checkpoint.remove(folder)


def _copy(path: Path, target: Path) -> None:
    """In one step; as a second name of the same file where the disk has such, since both are only ever replaced."""
    temporary = target.with_name(f".{target.name}.aside.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copy2(path, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # a rename does nothing where both are names of one file
