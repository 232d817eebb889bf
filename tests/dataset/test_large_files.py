"""Large files and rows, and files that grow when they are decompressed: memory stays bounded."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.dataset.read import columnar, compressed
from pipeline.dataset.read.source import read
from tests.helpers.sources import (
    PACK,
    A,
    B,
    parquet_of,
    raws,
    refused,
    source,
    values,
)

# --- large things, scaled down


@pytest.mark.parametrize("form", ["jsonl", "array", "csv"])
def test_a_row_of_five_megabytes(tmp_path: Path, form: str) -> None:
    row = {"instruction": "long", "output": 'word "x" \\ \n' * 400_000}
    one = json.dumps(row)
    data = {"jsonl": f"{json.dumps(A)}\n{one}\n{json.dumps(B)}", "array": f"[{json.dumps(A)},{one},{json.dumps(B)}]",
            "csv": 'instruction,output\nlong,"' + row["output"].replace('"', '""') + '"\n'}[form]  # fmt: skip
    (tmp_path / "a").write_text(data, newline="")
    found = values(tmp_path / "a")
    assert found == ([row] if form == "csv" else [A, row, B])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(size: int, form: str) -> int:
        row = json.dumps({"instruction": "q" * 400, "output": "a" * 600})
        path = tmp_path / "a"
        path.write_text("\n".join([row] * size) if form == "jsonl" else "[" + ",\n".join([row] * size) + "]")
        tracemalloc.start()
        try:
            assert sum(1 for _ in read(source(path), 0)) == size
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for form in ("jsonl", "array"):
        assert peak(6_000, form) < peak(3_000, form) * 1.2 + 1_000_000


def test_many_blank_lines_and_empty_rows(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("\n" * 100_000 + "{}\n" * 20_000 + "\n" * 100_000)
    found = raws(tmp_path / "a")
    assert len(found) == 20_000
    assert found[0].place == f"{tmp_path}/a:100001"


# --- files that grow


@pytest.mark.parametrize("packing", ["gzip", "zstd", "bzip2", "xz"])
def test_a_file_that_unpacks_to_far_more_than_data_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    monkeypatch.setattr(compressed, "HARMLESS", 1 << 20)
    path = tmp_path / "a.jsonl"
    row = json.dumps(A).encode() + b"\n"
    path.write_bytes(PACK[packing](row * ((8 << 20) // len(row))))
    assert "unpacks to more than" in refused(path)
    path.write_bytes(PACK[packing](row * ((1 << 20) // len(row))))
    assert len(values(path)) == (1 << 20) // len(row)


def test_parquet_of_more_rows_than_its_size_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "HARMLESS", 1000)
    monkeypatch.setattr(columnar, "MOST_GROWTH", 1)
    monkeypatch.setattr(compressed, "MOST_GROWTH", 1)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_of(pa.table({"instruction": ["x"] * 100_000, "output": ["y"] * 100_000})))
    assert "100,000 rows" in refused(path)


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_whose_dictionary_holds_one_long_text_for_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    monkeypatch.setattr(compressed, "HARMLESS", 1 << 20)
    text = pa.dictionary(pa.int32(), pa.string())
    long = pa.array([["x" * 4000] if nested else "x" * 4000] * 1000, pa.list_(text) if nested else text)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_of(pa.table({"instruction": long, "output": ["y"] * 1000})))
    assert path.stat().st_size < 20_000
    assert "far more than the file" in refused(path)
