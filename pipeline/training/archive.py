"""The checkpoints of a run folder: those of the present settings, and an archive of those of earlier settings.

    checkpoints/step-000400/              of the present settings
                0123456789abcdef/         of other settings, by key: step-NNNNNN/, and their metrics.jsonl
                damaged/step-000500/      cannot be read; kept for the user

A run with earlier settings resumes from their newest checkpoint. Every move is a rename; if a process is killed between
two of them, the next one finishes the work.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.run.files import disk_errors, folder_size, make_folder, need_space, read_json, readable_size
from pipeline.run.leftovers import remove_whole
from pipeline.run.link_file import link_or_copy
from pipeline.run.progress import say
from pipeline.training import checkpoint
from pipeline.training.optimizer_state import Layout
from pipeline.training.processes import wait_for_all

MAX_ARCHIVED = 3  # other settings whose checkpoints are kept
NAME = re.compile(r"^[0-9a-f]{16}$")


def open_checkpoints(
    root: Path, key: str, sizes: dict[str, Any], layout: Layout, keep: int,
    files: Sequence[Path], accelerator: Any,
) -> dict[str, Any]:  # fmt: skip
    """The state of the newest intact checkpoint of these settings, or `checkpoint.START`.

    Args:
        key, sizes: as `checkpoint.key_of` has them. layout: of its tensors. keep: `train.keep`.
        files: of the run folder that belong to the checkpoints; they are archived and restored with them.

    Raises:
        UserError: not enough disk space, or no permission.
    """
    if accelerator.is_main_process:
        with disk_errors(root):
            settle(root, key, layout, files)
        archived = sum(p.stat().st_size for p in root.glob("*/step-*/**/*.safetensors"))
        note = f" (besides {readable_size(archived)} of other settings in {root})" if archived else ""
        need_space(root, checkpoint.space(root, layout, keep), f"checkpoints{note}")
    wait_for_all(accelerator)  # no rank may read before the first one has moved everything
    return checkpoint.newest(root, key, sizes, accelerator.is_main_process) or dict(checkpoint.START)


def settle(root: Path, key: str, layout: Layout, files: Sequence[Path]) -> None:
    """Moves checkpoints, so that `root` has only those of `key`, the newest of them intact."""
    for partial in root.glob(".*.tmp"):  # of a process that was killed while writing
        shutil.rmtree(partial, ignore_errors=True)
    others: dict[str, list[int]] = {}
    for step in checkpoint.steps(root):
        if damage := checkpoint.damage(root, step):
            _move_damaged(root, step, damage)
        elif (owner := read_json(checkpoint.folder_of(root, step) / checkpoint.STATE)["key"]) != key:
            others.setdefault(owner, []).append(step)
    for owner, steps in others.items():
        _archive(root, owner, steps, files)
    _restore(root, key, files)
    _remove_oldest(root)
    while steps := checkpoint.steps(root):
        if not (damage := checkpoint.damage(root, steps[-1], layout)):
            break
        _move_damaged(root, steps[-1], damage)


def _move_damaged(root: Path, step: int, damage: str) -> None:
    folder, target = checkpoint.folder_of(root, step), checkpoint.folder_of(root / "damaged", step)
    make_folder(target.parent)
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)
    before = [n for n in checkpoint.steps(root) if n < step]
    next_try = f"step {before[-1]} is tried" if before else "there is no other: training starts from the beginning"
    say(f"train: the checkpoint of step {step} is damaged ({damage}) and was moved to {target}; {next_try}")


def _archive(root: Path, owner: str, steps: list[int], files: Sequence[Path]) -> None:
    folder = root / owner[:16]
    make_folder(folder)
    for path in files:
        if path.is_file():
            link_or_copy(path, folder / path.name)
    for step in steps:
        target = checkpoint.folder_of(folder, step)
        if target.exists():  # the same step of the same run: the same bits
            shutil.rmtree(target)
        os.replace(checkpoint.folder_of(root, step), target)
    size = folder_size(folder)
    which = f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"
    say(f"train: the checkpoints ({which}, {readable_size(size)}) belong to other data or settings. They are set aside "
        f"in {folder}; a run with those settings resumes from them")  # fmt: skip


def _restore(root: Path, key: str, files: Sequence[Path]) -> None:
    folder = root / key[:16]
    if not folder.is_dir():
        return
    if not checkpoint.steps(root) and checkpoint.steps(folder):
        for path in files:
            if (folder / path.name).is_file():
                link_or_copy(folder / path.name, path)
    for step in checkpoint.steps(folder):
        if not checkpoint.folder_of(root, step).exists():
            os.replace(checkpoint.folder_of(folder, step), checkpoint.folder_of(root, step))
    shutil.rmtree(folder)


def _remove_oldest(root: Path) -> None:
    archived = sorted(
        (p for p in root.glob("*") if NAME.match(p.name) and p.is_dir()), key=lambda p: p.stat().st_mtime_ns
    )
    for folder in archived[:-MAX_ARCHIVED]:
        say(f"train: removed the oldest checkpoints of other settings ({folder}); those of {MAX_ARCHIVED} are kept")
        remove_whole(folder)
