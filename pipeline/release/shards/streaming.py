"""Log-probabilities of a model that does not fit into memory, on the rows by which models are compared."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.dataset.example import Example
from pipeline.model.base.tensors import TensorFiles
from pipeline.model.load import read_shape
from pipeline.model.precision import device
from pipeline.model.skeleton import Skeleton
from pipeline.model.streamed import Read, streamed
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.release import verify
from pipeline.release.shards.tensors import BaseTensors
from pipeline.release.shards.write import content
from pipeline.run.errors import UserError
from pipeline.run.progress import bar


@torch.inference_mode()
def log_probabilities(
    skeleton: Skeleton, model: Any, names: Mapping[int, str], read: Read, rows: Sequence[Sequence[int]]
) -> torch.Tensor:
    """As `verify.log_probabilities`, for a model whose weights are read block by block.

    All rows go through in one batch, since each pass reads all weights. They are padded at the end and need no mask: a
    token attends to those before it only.

    Args:
        model, names, read: as in `streamed`. rows: token ids.
    """
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device())
    with streamed(skeleton, model, names, read):
        logits = model(input_ids=ids, use_cache=False).logits
    parts = [F.log_softmax(logits[i, : len(row)].float(), dim=-1).cpu() for i, row in enumerate(rows)]
    return torch.cat(parts)


class SavedModel(Mapping[str, torch.Tensor]):
    """The weights of a folder by their names in the model; each is read when it is asked for.

    Args:
        size: rows of the embedding with new tokens. dtype: of the weights, as they are loaded.
    """

    def __init__(self, folder: Path, size: int, dtype: torch.dtype) -> None:
        self.skeleton, files = Skeleton(read_shape(str(folder)), size), TensorFiles(folder)
        names = self.skeleton.names_in(files.entries)
        if names is None:
            what = "the weights have other names than the model"
            raise UserError(what, str(folder), "export again; if that fails too, " + verify.REPORT)
        self.tensors = BaseTensors(self.skeleton, files, names.stored, dtype)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.tensors.stored:
            raise KeyError(name)
        return self.tensors.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors.stored)

    def __len__(self) -> int:
        return len(self.tensors.stored)

    def log_probabilities(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """As the function above, of this model."""
        skeleton = self.skeleton
        return log_probabilities(skeleton, skeleton.model, skeleton.names_by_id(), self.tensors.read, rows)


def changed_tensors(folder: Path, sums: Mapping[str, int]) -> list[str]:
    """Names of tensors in a folder whose bytes have another CRC-32 than in `sums`, or that are missing."""
    files = TensorFiles(folder)
    with bar(total=len(sums), what="export: reading the files again", unit="tensor") as progress:
        changed = []
        for name, wanted in sums.items():
            if name not in files.entries or zlib.crc32(content(files.read(name))) != wanted:
                changed.append(name)
            progress.update()
    return changed


def probe_rows(encoder: AnyEncoder, examples: Sequence[Example]) -> list[list[int]]:
    """The ids of the rows of `verify.log_probabilities`."""
    rows = encoder.rows(examples[: verify.PROBE_ROWS])
    return [list(row.ids[: verify.PROBE_TOKENS]) for row in rows if not row.problem]
