"""Whether a run's merged model can be written tensor by tensor, and then which files it will have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.model import adapter as adapters
from pipeline.model.base.tensors import TensorFiles
from pipeline.model.load import read_shape
from pipeline.model.methods.full import FULL
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.model.run_base import RunBase
from pipeline.model.skeleton import Names, Skeleton
from pipeline.release.shards.layout import Layout
from pipeline.release.shards.tensors import BaseTensors, MergedTensors


@dataclass(frozen=True)
class Plan:
    """What is written and what it is made of.

    Attributes:
        base: the base's tensors; where every weight was trained, the trained ones. merged: those that are written.
        names: of the tensors in the model, by their names in the files. parameters: number of their numbers.
        rows: of the embedding.
    """

    skeleton: Skeleton
    base: BaseTensors
    merged: MergedTensors
    layout: Layout
    names: dict[str, str]
    parameters: int
    rows: int

    def tensor(self, saved: str) -> torch.Tensor:
        """A tensor of the merged model by its name in the files."""
        return self.merged.merged(self.names[saved])


def plan_of(base: RunBase, adapter: Path, dtype: str) -> Plan | str:
    """The plan, or why the model must be merged in memory.

    Args:
        adapter: folder of the training's result. dtype: of the export.

    Raises:
        UserError: the adapter is damaged or belongs to another base.
    """
    method = adapters.method_of(base.adapter)
    source = adapter if method is FULL else base.files.folder
    if source is None:
        return "a base with random weights is in no file"
    base_dtype = torch.float32 if base.is_float32 else DTYPES[dtype_name(base.model)]
    files = TensorFiles(source)
    skeleton = Skeleton(read_shape(str(source)), base.encoder.tokenizer.size)
    if why := _why_in_memory(skeleton, files, {base_dtype, DTYPES[dtype]}):
        return why
    names = skeleton.names_in(files.entries)
    assert names is not None  # by `_why_in_memory`
    tensors = BaseTensors(skeleton, files, names.stored, base_dtype)
    own, parameters = skeleton.tensors(), skeleton.model.num_parameters()
    rows = skeleton.model.get_input_embeddings().weight.shape[0]
    merged = MergedTensors(skeleton, tensors.read, adapter, method, DTYPES[dtype], base.fingerprint())
    if merged.trained:  # a head that was tied is one more tensor
        own, parameters = skeleton.tensors(), skeleton.model.num_parameters()
    layout = Layout.of(_header(own, names, DTYPES[dtype]), parameters)
    return Plan(
        skeleton, tensors, merged, layout, {names.saved.get(name, name): name for name in own}, parameters, rows
    )


def _why_in_memory(skeleton: Skeleton, files: TensorFiles, dtypes: set[torch.dtype]) -> str:
    names = skeleton.names_in(files.entries)
    kind = skeleton.model.config.model_type
    if names is None:
        return f"transformers splits, joins or renames weights while it loads a model of type {kind}"
    if dtypes != {torch.float32} and (
        getattr(skeleton.model, "_keep_in_fp32_modules", None)
        or getattr(skeleton.model, "_keep_in_fp32_modules_strict", None)
    ):
        return f"transformers keeps some weights of type {kind} in float32"
    buffers, tensors = dict(skeleton.model.named_buffers()), skeleton.tensors()
    for name, stored in names.stored.items():
        if name in buffers:
            continue
        wanted, given = tuple(tensors[name].shape), files.entries[stored].shape
        if given[1:] != wanted[1:] or (given != wanted and not _is_table(skeleton, name, given, wanted)):
            return f"{stored} has the shape {list(given)} in the files and {list(wanted)} in the model"
    for name, kept in skeleton.tied().items():
        if name in files.entries and not _equal(files, name, names.stored[kept]):
            return f"{name} is tied to {kept} by config.json, and differs from it in the files"
    return ""


def _is_table(skeleton: Skeleton, name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor gets rows for new tokens. A head's bias does not: transformers fills it by other rules."""
    return name.rpartition(".")[0] in skeleton.tables and len(wanted) == 2 and given[0] == skeleton.old_rows


def _equal(files: TensorFiles, name: str, other: str) -> bool:
    entry, kept = files.entries[name], files.entries[other]
    return (entry.dtype, entry.shape) == (kept.dtype, kept.shape) and torch.equal(files.read(name), files.read(other))


def _header(own: Mapping[str, torch.Tensor], names: Names, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Type and shape of each tensor by its name in the files. Buffers keep their type."""
    return {
        names.saved.get(name, name): torch.empty(
            t.shape, dtype=dtype if isinstance(t, torch.nn.Parameter) else t.dtype, device="meta"
        )
        for name, t in own.items()
    }
