"""Sources by path, folder and hub id; Parquet and Arrow."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from pipeline.dataset.read.row import Rejected, check
from pipeline.dataset.read.source import files_of, kind_of
from pipeline.run.errors import UserError
from tests.helpers.sources import (
    ROWS,
    A,
    B,
    C,
    arrow_of,
    parquet_of,
    raws,
    refused,
    source,
    values,
)

# --- Parquet and Arrow

ODD_COLUMNS: dict[str, Any] = {
    "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    "large": pa.array(["a", "b", "a"], pa.large_string()),
    "view": pa.array(["a", "b", "a"], pa.string_view()),
}


@pytest.mark.parametrize("case", ODD_COLUMNS)
def test_columns_of_text(tmp_path: Path, case: str) -> None:
    table = pa.table({"instruction": ODD_COLUMNS[case], "output": ODD_COLUMNS[case]})
    (tmp_path / "a").write_bytes(arrow_of(table, ipc.new_stream))
    assert values(tmp_path / "a") == [{"instruction": x, "output": x} for x in "aba"]


NOT_TEXT: dict[str, tuple[Any, str]] = {
    "null": (pa.array([None], pa.string()), "output is null"),
    "no type": (pa.nulls(1), "output is null"),
    "binary": (pa.array([b"\xff"]), "output is binary data"),
    "decimal": (pa.array([decimal.Decimal("1.5")]), "output is a number"),
    "time": (pa.array([datetime.datetime(2020, 1, 1)]), "output is a date"),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), "output is "),
    "far day": (pa.array([10**9], pa.date32()), "holds a value that cannot be read"),
    "struct": (pa.array([{"role": "user", "content": "x"}]), "output is an object"),
    "list of structs": (pa.array([[{"role": "user", "content": "x"}]]), "output is a list"),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "output is a list"),
}


@pytest.mark.parametrize("case", NOT_TEXT)
def test_columns_of_other_types_end_as_rejections(tmp_path: Path, case: str) -> None:
    column, reason = NOT_TEXT[case]
    (tmp_path / "a").write_bytes(parquet_of(pa.table({"instruction": ["q"], "output": column})))
    (bad,) = (check(raw, source("x")) for raw in raws(tmp_path / "a"))
    assert isinstance(bad, Rejected)
    assert reason in bad.reason


def test_a_text_that_is_not_utf_8_costs_only_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    (tmp_path / "a").write_bytes(arrow_of(pa.table({"instruction": texts, "output": ["x"] * 3}), ipc.new_stream))
    found = raws(tmp_path / "a")
    assert [raw.rule if raw.error else raw.value["instruction"] for raw in found] == ["a", "unreadable-value", "c"]
    assert found[1].place == f"{tmp_path}/a, row 2"


def test_damaged_offsets_do_not_crash_the_process(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 1 << 30, 3)))
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"abc"))
    (tmp_path / "a").write_bytes(arrow_of(pa.table({"instruction": broken, "output": ["x"] * 3}), ipc.new_file))
    assert [raw.rule if raw.error else raw.value["instruction"] for raw in raws(tmp_path / "a")][:2] == [
        "a", "unreadable-value",
    ]  # fmt: skip


def test_batches_of_any_size_are_numbered_through(tmp_path: Path) -> None:
    table = pa.table({"instruction": [str(i) for i in range(2500)], "output": ["x"] * 2500})
    (tmp_path / "a").write_bytes(parquet_of(table, row_group_size=700))
    (tmp_path / "b").write_bytes(arrow_of(table, ipc.new_file))
    for name in "ab":
        found = raws(tmp_path / name)
        assert [raw.value["instruction"] for raw in found] == [str(i) for i in range(2500)]
        assert found[-1].place == f"{tmp_path}/{name}, row 2500"


# --- paths


@pytest.mark.parametrize(
    ("wrong", "near"), [("alpca.json", "alpaca.json"), ("alpca*.json", "alpaca.json"), ("alpaca.jsn", "alpaca.json")]
)
def test_a_missing_file_names_its_neighbour(tmp_path: Path, wrong: str, near: str) -> None:
    (tmp_path / near).write_text("[]")
    message = refused(tmp_path / wrong)
    assert ("no file matches: " if "*" in wrong else "no such data file: ") + str(tmp_path / wrong) in message
    assert f"did you mean {tmp_path / near}?" in message


@pytest.mark.parametrize("path", ["x" * 5000, "a\x00b", "a\x00*", "/nowhere/at/all.json", "/nowhere/*.json", "[{}]"])
def test_paths_that_cannot_be(path: str) -> None:
    assert path in refused(path)


@pytest.mark.parametrize(
    "path",
    [
        "data/missing.json",
        "nowhere/missing.jsonl",
        "nowhere/missing.csv",
        "nowhere/x.parquet",
        "nowhere/x.json.gz",
        "nowhere/*.json.gz",
    ],
)
def test_a_missing_local_file_never_reaches_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert path in refused(path)


def test_what_a_path_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.json").write_text("[1]")
    kinds = {"tatsu-lab/alpaca": "hub", "beomi/KoAlpaca-v1.1a": "hub", "mine": "folder", "families": "families",
             "mine/a.json": "file", "mine/*.json": "files", "*/a.js?n": "files"}  # fmt: skip
    assert {path: kind_of(source(path)) for path in kinds} == kinds
    assert files_of(source("mine")) == files_of(source("mine/*")) == [Path("mine/a.json")]
    assert files_of(source("tatsu-lab/alpaca")) == files_of(source("families")) == []
    with pytest.raises(UserError, match="no such data file"):
        kind_of(source("mine/alpaca"))  # the folder is here, so this is a slip and no hub id


def test_families_that_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def used_up(*_: object) -> None:
        raise ValueError("family 'x' has no more distinct examples after 3 of them")

    assert [raw.place for raw in raws("families", rows=2)] == ["families:1", "families:2"]
    monkeypatch.setattr("pipeline.dataset.read.source.generate", used_up)
    message = refused("families", rows=5)
    assert "no more distinct examples" in message
    assert "ask for fewer rows" in message


# --- folders


def test_the_files_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(A) + "\nbroken\n")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps([B]).encode()))
    (tmp_path / "NOTES.md").write_text("hello")
    found = raws(tmp_path)
    assert [raw.value for raw in found] == [A, None, B]
    assert [raw.place for raw in found] == [
        f"{tmp_path}/{at}" for at in ("a.jsonl:1", "a.jsonl:2", "b.json.gz:1 (row 1)")
    ]
    assert capsys.readouterr().out == ""
    (tmp_path / "test.json").write_text("[1]")  # now `datasets` sees a split, and the others in none
    message = refused(tmp_path)
    assert "no split 'train'; there are: test" in message
    assert "set split: test" in message
    assert values(tmp_path, split="test") == [1]
    assert "a.jsonl" in " ".join(capsys.readouterr().out.split())


def test_a_folder_that_save_to_disk_wrote(tmp_path: Path) -> None:
    import datasets

    rows = [{**A, "messages": [{"role": "user", "content": "x"}]}, {**B, "messages": []}]
    part = datasets.Dataset.from_list([{**C, "messages": []}, *rows]).select([1, 2])
    part.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=part, test=part.select([0])).save_to_disk(tmp_path / "two")
    assert values(tmp_path / "one") == rows
    assert values(tmp_path / "two", split="test") == rows[:1]
    assert [raw.place for raw in raws(tmp_path / "two")] == [f"{tmp_path}/two, row 1", f"{tmp_path}/two, row 2"]
    assert "did you mean" not in refused(tmp_path / "two", split="tset")


def test_folders_without_data(tmp_path: Path) -> None:
    message = refused(tmp_path)
    assert f"cannot load the data set '{tmp_path}'" in message
    assert "the folder must hold data files" in message
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- {config_name: one, data_files: a.csv}\n- {config_name: two, data_files: b.csv}\n---\n"
    )
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"Q,A\n{name},x\n")
    assert "name one of them: subset: ..." in refused(tmp_path)
    assert values(tmp_path, subset="two") == [{"Q": "b", "A": "x"}]


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(path: str, name: str | None, revision: str | None) -> Any:
        asked.append((path, name, revision))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), more=datasets.Dataset.from_list([A]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert values("who/what", subset="s") == ROWS
    assert [raw.place for raw in raws("who/what", split="more")] == ["who/what, row 1"]
    assert asked == [("who/what", "s", None), ("who/what", None, None)]
    assert "no split 'mroe'; there are: train, more" in refused("who/what", split="mroe")


def test_a_hub_data_set_says_its_commit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import datasets

    def load(path: str, name: str | None, revision: str | None) -> Any:
        commit = {"v1": "1" * 40}.get(str(revision), "a" * 40)
        files = {f"hf://datasets/{path}@{commit}/data/train.parquet": {"num_bytes": 9, "checksum": None}}
        return datasets.Dataset.from_list(ROWS, info=datasets.DatasetInfo(download_checksums=files))

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict(train=load(*a, **k)))
    assert raws("who/what")[0].place == "who/what@aaaaaaaaaa, row 1"
    assert f"who/what is read at commit {'a' * 40}; `revision:` keeps it" in " ".join(capsys.readouterr().out.split())
    assert raws("who/what", revision="v1")[0].place == "who/what@1111111111, row 1"
    assert capsys.readouterr().out.endswith(f"is read at commit {'1' * 40}\n")
