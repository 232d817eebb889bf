"""The data stage on files and rows that are odd or bad: what it accepts, what stops it, what is rejected alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pipeline.dataset.example import Example
from pipeline.dataset.read.row import RawRow
from pipeline.dataset.read.source import read
from pipeline.run.folder import Run
from tests.helpers.data_stage import Build, config_of, lines_of, refused, rules_of
from tests.helpers.sources import BAD_ROWS, ROWS, A, B
from tests.helpers.tiny import load_examples

# --- what is accepted

ACCEPTED = {
    "array.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "lines.jsonl": "\n".join(json.dumps(r) for r in ROWS),
    "lines.json": "\n".join(json.dumps(r) for r in ROWS) + "\n",
    "array.jsonl": json.dumps(ROWS),
    "no-suffix": json.dumps(ROWS),
    "bom.json": "\ufeff" + json.dumps(ROWS),
    "bom.jsonl": "\ufeff" + "\n".join(json.dumps(r) for r in ROWS),
    "crlf.jsonl": "\r\n".join(json.dumps(r) for r in ROWS) + "\r\n",
    "crlf.json": json.dumps(ROWS, indent=1).replace("\n", "\r\n"),
    "blank-lines.jsonl": "\n\n" + "\n \n\n".join(json.dumps(r) for r in ROWS) + "\n\n",
    "space-around.json": "\n  \n" + json.dumps(ROWS) + "\n\n",
    "trailing-comma.json": json.dumps(ROWS)[:-1] + ",]",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_forms(tmp_path: Path, run: Run, build: Build, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(ACCEPTED[name].encode())
    report = build(path)
    assert report["rejected"] == 0
    assert [{k: e[k] for k in A} for e in lines_of(run, "train")] == ROWS
    assert report["languages"] == {"en": 2, "ko": 1}
    assert load_examples(run, "train")[2] == Example.of("인사해 줘.", "", "안녕하세요.", source=str(path))


def test_one_row_on_one_line_is_jsonl(tmp_path: Path, build: Build) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**A, "tags": ["x"]}))
    assert build(tmp_path / "a.json")["train"] == 1


def test_texts_stay_byte_for_byte(tmp_path: Path, run: Run, build: Build) -> None:
    odd = [
        {"instruction": "Use {input} and {instruction}", "output": "{output}"},
        {"instruction": "{0.__class__.__init__.__globals__} {{ 7*7 }} %s $x", "output": "</s><s>[INST]"},
        {"instruction": " a\u2028b\u2029c\x85d\x0b\x0c\r\n\t", "input": "\u00a0", "output": "  x  \n"},
        {"instruction": "nul \x00 in text", "output": "\x00\x01\x1f\x7f"},
        {"instruction": "emoji 😀 \ufeff e\u0301 é", "output": "👩‍👩‍👧"},
        {"instruction": "long", "output": "word " * 200_000},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in odd), encoding="utf-8")
    assert build(tmp_path / "a.jsonl", clean="none")["rejected"] == 0
    for found, row in zip(load_examples(run, "train"), odd, strict=True):
        assert (found.instruction, found.input, found.output) == (
            row["instruction"],
            row.get("input", ""),
            row["output"],
        )


def test_a_field_given_twice_is_no_row(tmp_path: Path, run: Run, build: Build) -> None:
    row = '{"instruction": "a", "output": "first", "output": "second"}'
    (tmp_path / "a.jsonl").write_text(row + "\n" + json.dumps(A))
    build(tmp_path / "a.jsonl")
    assert [r["rule"] for r in lines_of(run, "rejected")] == ["duplicate-key"]


# --- what stops the run

# Faults of files, and what the reader says of each, are in test_source.py; a few here show that the stage passes it on.
STOPS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "the file is empty", ""),
    "html": (b"\n<!DOCTYPE html>", "neither JSON nor JSONL, CSV, Parquet or Arrow: it begins with '<!DOCTYPE", ":2"),
    "truncated in a text": (json.dumps(ROWS).encode()[:60], "the file ends in the middle of row 2", ":1:"),
    "no line valid": (b"{'instruction': 'a'}\n{'b': 1}\n", "all 2 rows were rejected (2 x not valid JSON", ""),
    "truncated line": (b'{"instruction": "a"', "all 1 rows were rejected (1 x not valid JSON", ""),
    "wrong names": (b'{"ask": "a", "say": "b"}', "columns: {instruction: NAME, output: NAME}", ""),
    "rows of text": (b'["a", "b"]', "all 2 rows were rejected (2 x a row is an object, this is text", ""),
    "every output empty": (b'{"instruction": "a", "output": ""}', "output-empty: off", ""),
    "cp949": ('[{"instruction": "안녕", "output": "예"}]'.encode("cp949"), "iconv -f CP949 -t UTF-8", ""),
    "cut-off gzip": (gzip.compress(json.dumps(ROWS).encode())[:-9], "cut off", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_files_that_stop_the_run(tmp_path: Path, run: Run, case: str) -> None:
    data, said, place = STOPS[case]
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    message = refused(run, path)
    assert said in message
    assert f"{path}{place}" in message


def test_missing_file_names_its_neighbour(tmp_path: Path, run: Run) -> None:
    (tmp_path / "alpaca.json").write_text("[]")
    message = refused(run, tmp_path / "alpca.json")
    assert f"no such data file: {tmp_path / 'alpca.json'}" in message
    assert f"did you mean {tmp_path / 'alpaca.json'}?" in message


def test_no_sources(run: Run) -> None:
    assert "data.sources is empty" in refused(run)


def test_a_folder_without_data(tmp_path: Path, run: Run) -> None:
    (tmp_path / "rows").mkdir()
    message = refused(run, tmp_path / "rows")
    assert f"cannot load the data set '{tmp_path / 'rows'}'" in message
    assert "the folder must hold data files" in message


# --- what costs one row

STAGE_ROWS = {
    **BAD_ROWS,
    "no output": ('{"instruction": "a"}', "output-missing", "no field 'output' (form: alpaca; fields: 'instr"),
    "output empty": ('{"instruction": "a", "output": ""}', "output-empty", "output is empty"),
    "output blank": ('{"instruction": "a", "output": " \\t"}', "output-empty", "output is empty"),
    "input list": ('{"instruction": "a", "input": [], "output": "b"}', "input-not-text", "input is a list"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "array"])
@pytest.mark.parametrize("case", STAGE_ROWS)
def test_rows_that_are_rejected(tmp_path: Path, run: Run, build: Build, form: str, case: str) -> None:
    text, rule, reason = STAGE_ROWS[case]
    rows = [json.dumps(A), text, json.dumps(B)]
    path = tmp_path / "rows.json"
    path.write_text("\n".join(rows) if form == "jsonl" else "[" + ",\n".join(rows) + "]", encoding="utf-8")
    report = build(path)
    assert (report["train"], report["rejected"]) == (2, 1)
    (bad,) = lines_of(run, "rejected")
    assert bad["rule"] == rule
    assert reason in bad["reason"]
    assert bad["place"] == (f"{path}:2" if form == "jsonl" else f"{path}:2 (row 2)")


def test_an_input_of_null_is_none(tmp_path: Path, run: Run, build: Build) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "input": null, "output": "b"}')
    build(tmp_path / "a.jsonl")
    assert load_examples(run, "train")[0].input == ""


def test_long_numbers_in_other_fields_do_no_harm(tmp_path: Path, build: Build) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "a", "output": "b", "id": ' + "9" * 5000 + "}]")
    assert build(tmp_path / "a.json")["train"] == 1


@pytest.mark.parametrize("form", ["jsonl", "array"])
def test_invalid_utf_8_costs_only_its_row(tmp_path: Path, run: Run, build: Build, form: str) -> None:
    rows = [json.dumps(A).encode(), b'{"instruction": "caf\xe9 \xed\xa0\x80", "output": "b"}', json.dumps(B).encode()]
    path = tmp_path / "rows.json"
    path.write_bytes(b"\n".join(rows) if form == "jsonl" else b"[" + b",\n".join(rows) + b"]")
    assert rules_of(build(path)) == {"invalid-utf-8": (1, 0, 0)}
    assert f"{path}:2" in lines_of(run, "rejected")[0]["place"]


@pytest.mark.parametrize("bad", ['{"instruction": "a",', "garbage", "{'a': 1}", '{"a": 1} {"b": 2}', "[" * 100_000])
def test_a_bad_line_costs_only_itself(tmp_path: Path, run: Run, build: Build, bad: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(A), bad, json.dumps(B)]))
    assert rules_of(build(path)) == {"not-json": (1, 0, 0)}
    assert lines_of(run, "rejected")[0]["place"] == f"{path}:2"


def test_a_bad_first_line_costs_only_itself(tmp_path: Path, run: Run, build: Build) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a" "output"}\n' + json.dumps(A))
    assert build(path)["train"] == 1
    assert lines_of(run, "rejected")[0]["place"] == f"{path}:1"


def test_every_row_rejected(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "a", "output": ""}] * 3 + [{"instruction": 1, "output": "b"}]))
    message = refused(run, path)
    assert "all 4 rows were rejected (3 x output is empty; 1 x instruction is a number, not text" in message
    assert f"first: {path}:1 (row 1)" in message


def test_a_source_that_fails_keeps_nothing_of_the_others(tmp_path: Path, run: Run) -> None:
    (tmp_path / "good.json").write_text(json.dumps(ROWS))
    (tmp_path / "bad.json").write_text("[1")
    assert "ends in the middle" in refused(run, tmp_path / "good.json", tmp_path / "bad.json")


def test_empty_answers_are_kept_on_request(tmp_path: Path, run: Run, build: Build) -> None:
    (tmp_path / "a.json").write_text(json.dumps([A, {"instruction": "a", "output": ""}]))
    assert build(tmp_path / "a.json", rules={"output-empty": "off"})["train"] == 2
    assert build(tmp_path / "a.json", clean="none")["train"] == 2
    assert build(tmp_path / "a.json", rules={"output-empty": "warn"})["train"] == 2


def test_rows_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n[\n  1,\n\n  {\n  }, 3\n]")
    source = config_of(path).data.sources[0]
    assert list(read(source, 0)) == [
        RawRow(1, f"{path}:3 (row 1)"),
        RawRow({}, f"{path}:5 (row 2)"),
        RawRow(3, f"{path}:6 (row 3)"),
    ]
