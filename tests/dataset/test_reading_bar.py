"""The bar of a source: its total is estimated from the bytes that were read, and is right at the end."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pipeline.config.schema import Source
from pipeline.dataset import chunk
from pipeline.dataset.chunk import chunks
from pipeline.dataset.reading import expected_rows


def test_the_estimate_follows_what_was_read() -> None:
    assert expected_rows(100, 1000, 5000) == 500
    assert expected_rows(100, 5000, 5000) == 100
    assert expected_rows(100, 0, 5000) is None
    assert expected_rows(100, 6000, 5000) == 100  # never fewer than there are


@pytest.mark.parametrize("kind", ["array", "lines", "indented", "gzip"])
def test_the_bytes_that_were_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Rows become longer in the file: an estimate from the first ones alone would be far too high."""
    monkeypatch.setattr("pipeline.dataset.read.compressed.CHUNK", 1 << 12)
    monkeypatch.setattr("pipeline.dataset.read.json_rows.CHUNK", 1 << 12)
    monkeypatch.setattr(chunk, "ROWS", 100)
    rows = [{"instruction": f"{n} " * (1 + n // 100), "input": "", "output": "yes"} for n in range(1500)]
    text = json.dumps(rows, indent=4 if kind == "indented" else None)
    if kind == "lines":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / "rows.json"
    path.write_bytes(gzip.compress(text.encode()) if kind == "gzip" else text.encode())
    size, seen, estimates = path.stat().st_size, 0, []
    for part in chunks(0, Source(path=str(path)), 1):
        seen += len(part.raws)
        estimates.append(expected_rows(seen, part.read, size))
    assert estimates[-1] == len(rows)
    assert all(e is not None and e >= 100 for e in estimates)
    assert abs((estimates[-2] or 0) - len(rows)) < 150


def test_a_file_that_is_mapped_has_no_estimate(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"instruction": ["a"] * 3, "output": ["b"] * 3}), tmp_path / "rows.parquet")
    assert [part.read for part in chunks(0, Source(path=str(tmp_path / "rows.parquet")), 1)] == [0]
