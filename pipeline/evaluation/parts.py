"""Finished pieces of an evaluation, each in a file of its own, so that a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.files import read_json, sha256_json, write_json


class Parts:
    """`folder/NAME.json` holds what was found and all that it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str, key: dict[str, Any]) -> bool:
        """Whether the piece is there and depends on nothing that has changed."""
        return self._read(name).get("key") == sha256_json(key)

    def found(self, name: str) -> dict[str, Any]:
        """What a finished piece holds."""
        return self._read(name)["found"]

    def keep(self, name: str, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
        """Does the work, unless that was done, and writes what it found in one go."""
        if not self.has(name, key):
            found = work()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / f"{name}.json", {"key": sha256_json(key), "found": found})

    def _read(self, name: str) -> dict[str, Any]:
        value = read_json(self.folder / f"{name}.json")
        return value if isinstance(value, dict) and "found" in value else {}
