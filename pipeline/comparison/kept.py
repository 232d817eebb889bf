"""Results kept one by one while a stage is made, so that a killed stage goes on where it was.

A JSONL file: the first line is the key of all that the results depend on, every other one `{"name": ..., ...}`. With
another key the file is begun anew; a last line that was cut off is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import disk_errors, json_text, make_folder, sha256_json, write_text


class Kept:
    """The results in a file by name.

    Args:
        key: all that they depend on, besides their names.

    Raises:
        UserError: the disk is full, or there are no rights to it.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        head = json_text({"key": sha256_json(dict(key))})
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        whole = []
        for line in lines[1:] if lines and lines[0] == head else []:
            row = _row(line)
            if row is not None:
                self.found[row["name"]] = row
                whole.append(line)
        if [head, *whole, ""] != lines:
            make_folder(path.parent)
            write_text(path, "\n".join([head, *whole, ""]))

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Keeps one result: it is on the disk when this returns."""
        row = {"name": name, **values}
        with disk_errors(self.path.parent), open(self.path, "a", encoding="utf-8") as file:
            file.write(json_text(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.found[name] = row


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("name"), str) else None
