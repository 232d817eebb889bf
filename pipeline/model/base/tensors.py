"""Tensors in a folder with safetensors, read one at a time with plain reads.

A memory map would be shorter, but its pages count as memory of this process until the kernel drops them, and as
address space under `ulimit -v`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.model.base.folder import weight_files
from pipeline.model.base.safetensors_header import Entry, read_header
from pipeline.run.errors import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LENGTH = 8  # bytes in front of the header


class TensorFiles:
    """The tensors of a folder by name, in however many files they are.

    Attributes:
        entries: type and shape of each.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[Path, int]] = {}  # file, and the byte at which the tensor begins
        for name in weight_files(folder):
            path = folder / name
            try:
                header = read_header(path)
            except (ValueError, OSError) as error:
                raise UserError(f"{name} is damaged: {error}", str(folder), "fetch or make it again") from None
            with open(path, "rb") as file:
                start = LENGTH + int.from_bytes(file.read(LENGTH), "little")
            for tensor, entry in header.items():
                self.entries[tensor], self._places[tensor] = entry, (path, start + entry.begin)

    def read(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, as it is stored.

        Raises:
            UserError: the file became shorter since it was opened.
        """
        entry, (path, start) = self.entries[name], self._places[name]
        data = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        view = memoryview(data.numpy())
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            done = 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise UserError(f"{path.name} ends before its last tensor does", str(self.folder), "fetch it again")
                done += count
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)
