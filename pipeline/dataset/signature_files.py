"""Signatures of all rows in temporary files, one for each field, mapped into memory when all rows were read.

They are most of what is compared of rows: 526 bytes of an Alpaca row. Mapped pages belong to files, so that
the system drops them instead of failing when memory is short.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.select.duplicates import Sets, Signatures

FIELDS = ("shingles", "shingle_ends", "own", "own_ends", "minima", "bands")


class SignatureFiles:
    """Collects signatures. path: beginning of the names of the files, which exist once there is something in them."""

    def __init__(self, path: Path) -> None:
        self._paths = {name: path.with_name(f"{path.name}.{name}") for name in FIELDS}
        self._files: dict[str, Any] = {}
        self._sizes = dict.fromkeys(("shingles", "own"), 0)  # values in the flat arrays so far
        self._shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def add(self, rows: Signatures) -> None:
        """Appends the signatures of a chunk."""
        for name, sets in (("shingles", rows.shingles), ("own", rows.own)):
            self._append(name, sets.flat)
            self._append(f"{name.removesuffix('s')}_ends", sets.ends + self._sizes[name])
            self._sizes[name] += len(sets.flat)
        self._append("minima", rows.minima)
        self._append("bands", rows.bands)

    def _append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self._files:
            self._files[name] = open(self._paths[name], "wb")  # noqa: SIM115  (closed by `mapped` or `close`)
            self._shapes[name] = values.dtype, values.shape[1:]
        self._files[name].write(np.ascontiguousarray(values).data)

    def mapped(self) -> Signatures | None:
        """All signatures; None if there are none. Nothing is added after this."""
        if not self._files:
            return None
        for file in self._files.values():
            file.close()
        return Signatures(
            Sets(self._map("shingles"), self._map("shingle_ends")), Sets(self._map("own"), self._map("own_ends")),
            self._map("minima"), self._map("bands"),
        )  # fmt: skip

    def _map(self, name: str) -> NDArray[Any]:
        dtype, shape = self._shapes[name]
        if not self._paths[name].stat().st_size:  # an empty file cannot be mapped
            return np.zeros((0, *shape), dtype)
        # As a plain array: slices of np.memmap are slow to make.
        return np.asarray(np.memmap(self._paths[name], dtype, "r")).reshape(-1, *shape)

    def close(self) -> None:
        """Deletes the files; what was mapped stays valid."""
        for name, file in self._files.items():
            file.close()
            self._paths[name].unlink()
