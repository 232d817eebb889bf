"""Which files a checkpoint has, and what is in them: as transformers' `save_pretrained` writes it, to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from pipeline.model.base.folder import INDEX, ONE_FILE
from pipeline.run.files import write_text

LARGEST_FILE = "5GB"
# In the order of safetensors' `Dtype`: within a file the last comes first, so that all tensors are aligned.
TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
ORDER = list(TYPES)


@dataclass(frozen=True)
class File:
    """One file. header: with its length, as it is written. names: of its tensors, in the order of their bytes."""

    name: str
    header: bytes
    names: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Layout:
    """All files of a checkpoint. index: content of the index; empty where there is one file."""

    files: tuple[File, ...]
    index: str

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], parameters: int, largest: str = LARGEST_FILE) -> Layout:
        """The layout of tensors, of which type and shape count (`meta` will do).

        Args:
            parameters: number of the model's parameters, for the index. largest: size of a file at most, as `5GB`.
        """
        empty = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in tensors.items()}
        split = split_torch_state_dict_into_shards(empty, max_shard_size=largest)
        files = tuple(
            _file(name, {key: empty[key] for key in keys}) for name, keys in split.filename_to_tensors.items()
        )
        if not split.is_sharded:
            return cls(files, "")
        index = {
            "metadata": {"total_parameters": parameters, **split.metadata}, "weight_map": split.tensor_to_filename,
        }  # fmt: skip
        return cls(files, json.dumps(index, indent=2, sort_keys=True) + "\n")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files) + len(self.index)

    def write_index(self, folder: Path) -> None:
        """Writes the index, where there are several files, and removes the single one that it replaces."""
        if self.index:
            (folder / ONE_FILE).unlink(missing_ok=True)
            write_text(folder / INDEX, self.index)


def _file(name: str, tensors: dict[str, torch.Tensor]) -> File:
    names = sorted(tensors, key=lambda key: (-ORDER.index(tensors[key].dtype), key))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key in names:
        begin, end = end, end + tensors[key].nbytes
        header[key] = {
            "dtype": TYPES[tensors[key].dtype],
            "shape": list(tensors[key].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return File(name, len(text).to_bytes(8, "little") + text, tuple(names), 8 + len(text) + end)
