"""Named tensors of a checkpoint on disk, in one of two forms that hold the same:

    weights.safetensors              whole tensors, written by one process
    weights/shard-00001-....safetensors
            shard-00002-....         a part of each tensor, written by the rank that has it

The second form is written and read by torch.distributed.checkpoint (its HuggingFaceStorageWriter, whose files are
safetensors with the place of each part in their header, so that nothing is unpickled). Either form can be read into
whole tensors, and into sharded ones of any number of ranks.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.model.gathered_save import grouped
from pipeline.model.sharded import local
from pipeline.run.link_file import link_or_copy
from pipeline.training.optimizer_state import DTYPES, Shape

SUFFIX = ".safetensors"
FILE = 2 * 10**9  # bytes of a rank's file at most, if its tensors are smaller
PLACES, START = "DCP_SHARDING_INFO", "saved_offsets"  # in the headers of torch.distributed.checkpoint
Tensors = Mapping[str, torch.Tensor]


def is_sharded(tensors: Tensors) -> bool:
    """Whether tensors are spread over the ranks."""
    return any(hasattr(tensor, "to_local") for tensor in tensors.values())


def write(folder: Path, name: str, tensors: Tensors) -> None:
    """Writes whole tensors, as a file; or sharded ones, into a folder that is there: then all ranks must call it."""
    if not is_sharded(tensors):
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / f"{name}{SUFFIX}"
        )
        return
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    parts = {key: tensor.detach() for key, tensor in tensors.items()}
    # A rank holds a file twice in main memory while it writes it.
    groups = grouped({key: local(part).numel() * part.element_size() for key, part in parts.items()}, FILE)
    number = {key: n for n, group in enumerate(groups, 1) for key in group}
    with _quiet():
        checkpoint.save(
            parts, storage_writer=HuggingFaceStorageWriter(str(folder / name), number, save_distributed=True)
        )


def files(folder: Path, name: str) -> list[Path]:
    """The files of these tensors, sorted; empty if there are none."""
    whole = folder / f"{name}{SUFFIX}"
    return [whole] if whole.is_file() else sorted((folder / name).glob(f"*{SUFFIX}"))


def shapes(folder: Path, name: str) -> dict[str, Shape]:
    """Type and shape of every tensor.

    Raises:
        OSError: there is none. SafetensorError, ValueError: a header is damaged, or parts are missing.
    """
    found: dict[str, Shape] = {}
    numbers: dict[str, int] = {}
    paths = files(folder, name)
    if not paths:
        raise FileNotFoundError(f"no {name}")
    for path in paths:
        with safe_open(path, "pt") as file:
            places = json.loads((file.metadata() or {}).get(PLACES, "{}"))
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                kind, shape = part.get_dtype(), tuple(part.get_shape())
                start = places.get(key, {}).get(START, [0] * len(shape))
                numbers[key] = numbers.get(key, 0) + _count(shape)
                ends = tuple(first + length for first, length in zip(start, shape, strict=True))
                before = found.get(key, (kind, ends))
                found[key] = before[0], tuple(map(max, before[1], ends))
    for key, (_, shape) in found.items():
        if numbers[key] != _count(shape):
            raise ValueError(f"parts of {key} are missing in {name}")
    return found


def read(folder: Path, name: str, into: Tensors) -> None:
    """Fills tensors, bit for bit. They must have the names and shapes of those on disk; all ranks that share a sharded
    tensor must call it."""
    whole = folder / f"{name}{SUFFIX}"
    if whole.is_file():
        with safe_open(whole, "pt") as file, torch.no_grad():
            for key, tensor in into.items():
                tensor.copy_(_spread(file.get_tensor(key), tensor))
        return
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    alone = not is_sharded(into)
    with _quiet(), torch.no_grad():
        targets = {key: tensor.detach() for key, tensor in into.items()}
        reader = HuggingFaceStorageReader(str(folder / name))
        checkpoint.load(targets, storage_reader=reader, no_dist=alone)


def blank(shape: Shape, like: torch.Tensor) -> torch.Tensor:
    """Zeros of a type and shape: sharded and placed as a tensor of the same shape, on the CPU for others."""
    kind = next(dtype for dtype, text in DTYPES.items() if text == shape[0])
    if hasattr(like, "to_local") and tuple(like.shape) == shape[1]:
        return torch.zeros_like(like.detach(), dtype=kind)
    return torch.zeros(shape[1], dtype=kind)


def link(folder: Path, name: str, target: Path, new: str) -> None:
    """Gives tensors on disk a second name, in their form."""
    paths, whole = files(folder, name), folder / f"{name}{SUFFIX}"
    if whole.is_file():
        link_or_copy(whole, target / f"{new}{SUFFIX}")
        return
    shutil.rmtree(target / new, ignore_errors=True)
    (target / new).mkdir()
    for path in paths:
        link_or_copy(path, target / new / path.name)


def _spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, of which every rank has a copy, placed as another one."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    return distribute_tensor(tensor.to(placed.to_local().device), mesh, placed.placements, src_data_rank=None)


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that there are no other processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
