"""Results kept one by one, so that a stopped command continues where it was and no result is computed twice.

A JSONL file. Its first line is the key of all that the results depend on; every other line is `{"name": ..., ...}`.
With another key the file starts again; a line that was cut off by a crash is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.run.files import disk_errors, json_text, make_folder, sha256_json, write_text


class ResultCache:
    """The results in one file.

    Args:
        path: the JSONL file; it is written at the first result.
        key: all that the results depend on, besides their names.

    Attributes:
        results: values by name.

    Raises:
        UserError: the disk is full, or there are no rights to it.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.results: dict[str, dict[str, Any]] = {}
        head = json_text({"key": sha256_json(dict(key))})
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        complete = []
        for line in lines[1:] if lines and lines[0] == head else []:
            row = _parse(line)
            if row is not None:
                self.results[row.pop("name")] = row
                complete.append(line)
        self._text = "\n".join([head, *complete, ""])
        self._is_current = self._text.split("\n") == lines

    def add(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Keeps results by name; they are on the disk when this returns."""
        if not self._is_current:
            make_folder(self.path.parent)
            write_text(self.path, self._text)
            self._is_current = True
        with disk_errors(self.path.parent), open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json_text({"name": name, **values}) + "\n" for name, values in results.items())
            file.flush()
            os.fsync(file.fileno())
        self.results.update({name: dict(values) for name, values in results.items()})


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("name"), str) else None
