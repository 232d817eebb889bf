"""Reading files: what is accepted, what stops the run, what is rejected alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.dataset.read import json_rows
from pipeline.dataset.read.compressed import compression_of
from pipeline.dataset.read.row import RawRow, check
from pipeline.dataset.read.source import files_of, read
from pipeline.run.errors import UserError
from tests.helpers.sources import (
    BAD_ROWS,
    FILES,
    LINES,
    PACK,
    ROWS,
    A,
    B,
    C,
    only_bad,
    parquet_of,
    raws,
    refused,
    source,
    values,
)

# --- what is accepted


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("form", FILES)
def test_every_form_in_every_packing_whatever_its_name(tmp_path: Path, form: str, packing: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(PACK[packing](FILES[form]))
    assert values(path) == ROWS


ODD_TEXTS = {
    "no end of line": LINES[:-1],
    "byte order mark": b"\xef\xbb\xbf" + LINES,
    "byte order mark, array": b"\xef\xbb\xbf" + FILES["array"],
    "byte order mark, csv": b"\xef\xbb\xbf" + FILES["csv"],
    "byte order mark in the middle": LINES.replace(b'{"instruction": "Say', b'\xef\xbb\xbf{"instruction": "Say'),
    "crlf": LINES.replace(b"\n", b"\r\n"),
    "blank lines": b"\n \n" + LINES.replace(b"\n", b"\n\n \t\r\n") + b"\n",
    "blank lines, array": b"\n \n" + json.dumps(ROWS, indent=1).encode() + b"\n\n",
    "blank lines, csv": b"\n\r\n" + FILES["csv"].replace(b"\n", b"\n\n"),
    "comma behind the last row": FILES["array"][:-1] + b",]",
    "semicolons": FILES["csv"].replace(b",", b";"),
    "quoted names": FILES["csv"].replace(b"instruction,input", b'"instruction", input'),
}


@pytest.mark.parametrize("case", ODD_TEXTS)
def test_odd_but_complete_texts(tmp_path: Path, case: str) -> None:
    (tmp_path / "rows").write_bytes(ODD_TEXTS[case])
    assert values(tmp_path / "rows") == ROWS


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_an_array_read_in_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    rows = [12, -1.5e10, 1e5, True, None, 'a\\"b\\ud83d\\ude00é한', [[], {}], {"a": {"b": [1, "]}"]}}, 7, "x" * 300]
    path = tmp_path / "a.json"
    path.write_text("\n[" + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
    found = raws(path)
    assert [raw.value for raw in found] == rows
    assert [raw.place for raw in found] == [f"{path}:{2 + i} (row {1 + i})" for i in range(len(rows))]
    path.write_text('[\n{"a": 1},\n  {"a" 1}]')
    assert f"Expecting ':' delimiter\n  where: {path}:3:8, row 2" in refused(path)


def test_rows_know_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n[\n  1,\n\n  {\n  }, 3\n]")
    (tmp_path / "b.jsonl").write_text('\n{"a": 1}\n\n[]\n')
    (tmp_path / "c.csv").write_text('Q,A\na,"b\nc"\n\nd,e\n')
    (tmp_path / "d").write_bytes(FILES["parquet"])
    at = [raw.place.removeprefix(str(tmp_path)) for name in "abcd" for raw in raws(next(tmp_path.glob(f"{name}*")))]
    assert at[:5] == ["/a.json:3 (row 1)", "/a.json:5 (row 2)", "/a.json:6 (row 3)", "/b.jsonl:2", "/b.jsonl:4"]
    assert at[5:] == ["/c.csv:2", "/c.csv:5", "/d, row 1", "/d, row 2", "/d, row 3"]


def test_one_row_on_one_line_is_jsonl(tmp_path: Path) -> None:
    for row in ({**A, "tags": ["x"]}, {"messages": [{"role": "user", "content": "a"}]}, {**A, "instances": [{}]}):
        (tmp_path / "a.json").write_text(json.dumps(row) + "\n\n")
        assert values(tmp_path / "a.json") == [row]
    for row in ({**A, "refs": [{"url": "u"}]}, {"Q": "q", "A": "a", "turns": [{}]}):  # lists in rows of known forms
        (tmp_path / "a.json").write_text(json.dumps(row))
        assert values(tmp_path / "a.json") == [row]
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "list": [A]}) + "\n\n\n" + json.dumps(A))
    assert len(values(tmp_path / "a.json")) == 2  # not alone: lines, one of them odd


def test_texts_stay_byte_for_byte(tmp_path: Path) -> None:
    odd = [
        {"instruction": "Use {input} and {instruction}", "output": "{output}"},
        {"instruction": "{0.__class__.__init__.__globals__} {{ 7*7 }} %s $x", "output": "</s><s>[INST]"},
        {"instruction": " a\u2028b\u2029c\x85d\x0b\x0c\r\n\t", "output": "  x  \n"},
        {"instruction": "nul \x00 in text", "output": "\x00\x01\x1f\x7f"},
        {"instruction": "\u202eright to left\u202c \u200f \u0627", "output": "emoji 😀 \ufeff e\u0301 é 👩‍👩‍👧"},
    ]
    (tmp_path / "a").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in odd), encoding="utf-8")
    (tmp_path / "b").write_text(json.dumps(odd, ensure_ascii=False), encoding="utf-8")
    cells = "".join('"{instruction}","{output}"\n'.format(**row) for row in odd)
    (tmp_path / "c").write_bytes(f"instruction,output\n{cells}".encode())
    (tmp_path / "d").write_bytes(parquet_of(pa.Table.from_pylist(odd)))
    for name in "abcd":
        examples = [check(raw, source("x")) for raw in raws(tmp_path / name)]
        assert [{"instruction": e.instruction, "output": e.output} for e in examples] == odd  # type: ignore[union-attr]


def test_a_glob_reads_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("c.jsonl", "a.jsonl", "in/b.jsonl", "x.txt")):
        (tmp_path / name).write_text(json.dumps({"n": i}))
    assert [raw.place for raw in raws(tmp_path / "*.jsonl")] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/c.jsonl:1"]
    assert values(tmp_path / "**" / "*.jsonl") == [{"n": 1}, {"n": 0}, {"n": 2}]
    assert files_of(source(tmp_path / "*.jsonl")) == [tmp_path / "a.jsonl", tmp_path / "c.jsonl"]
    (tmp_path / "odd[1].jsonl").write_text("[5]")
    assert values(tmp_path / "odd[1].jsonl") == [5]  # a file that is there wins over the glob
    (tmp_path / "d.jsonl").write_text("")
    assert f"the file is empty\n  where: {tmp_path}/d.jsonl" in refused(tmp_path / "*.jsonl")


# --- what stops the run

MARKED = json.dumps(ROWS).encode("utf-16")
PRETTY = {"instruction": "a", "output": "b"}
STOPS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "the file is empty", ""),
    "white space": (b" \n\t\r\n ", "the file is empty", ""),
    "bom only": (b"\xef\xbb\xbf", "the file is empty", ""),
    "empty gzip": (gzip.compress(b""), "the file is empty", ""),
    "empty array": (b"[ ]", "the array is empty", ""),
    "one column": (b"instruction\nabc\n", "neither JSON nor JSONL, CSV, Parquet or Arrow: it begins with 'instr", ":1"),
    "html": (b"\n<!DOCTYPE html>, <a>", "it begins with '<!DOCTYPE", ":2"),
    "no-break space": ("\u00a0[]".encode(), "it begins with '\\xa0[]'", ":1"),
    "truncated in a text": (json.dumps(ROWS).encode()[:60], "the file ends in the middle of row 2", ":1:"),
    "truncated between fields": (b'[{"instruction": "a",', "the file ends in the middle of row 1", ":1:"),
    "truncated behind a row": (b'[\n{"instruction": "a", "output": "b"}\n', "ends in the middle, after row 1", ":3"),
    "truncated behind a comma": (b'[\n{"instruction": "a", "output": "b"},\n', "ends in the middle of row 2", ":3:"),
    "garbage after the array": (b'[{"instruction": "a", "output": "b"}]\n\n[]', "follows the array: '[]'", ":3"),
    "no comma": (b'[{"instruction": "a", "output": "b"}\n{}]', "expected , or ] after row 1, found '{'", ":2"),
    "bad row in an array": (b'[\n{"instruction": "a", "output": "b"},\n{"a" 1}]', "Expecting ':'", ":3:6, row 2"),
    "raw line break in a text": (b'[{"instruction": "a\nb", "output": "b"}]', "Invalid control character", ":1:"),
    "nested without an end": (b"[" * 100_000, "brackets are nested too deeply", ":1, row 1"),
    "pretty object": (json.dumps(PRETTY, indent=1).encode(), "a JSON object instead of an array", ":1"),
    "pretty list inside": (
        json.dumps({"data": [PRETTY, PRETTY]}, indent=1).encode(), "keep the list under 'data'", ":1",
    ),
    # Its last row is valid JSON on a line of its own, which must not pass for a data set of one row.
    "rows inside": (
        b'{"data": [\n' + json.dumps(A).encode() + b",\n" + json.dumps(B).encode() + b"\n]}\n\n",
        "a JSON object instead of an array of rows (its keys: 'data')", ":1",
    ),
    "long object": (b'{"data": [' + b'\n"abcdefgh",' * 500_000 + b"\n1]}", "goes on for more than 4 MB", ":1"),
    "long list inside": (
        b'{"version": "1", "data": [' + b'\n{"a": "abcdefgh"},' * 300_000 + b"\n{}]}",
        "save the list under 'data'", ":1",
    ),
    "one-line list inside": (json.dumps({"version": 1, "data": ROWS}).encode(), "keep the list under 'data'", ":1"),
    "described rows": (json.dumps({"instruction": "x", "data": ROWS}).encode(), "keep the list under 'data'", ":1"),
    "pretty objects one by one": (
        "\n".join(json.dumps(r, indent=1) for r in ROWS).encode(), "JSON objects over several lines each", ":1",
    ),
    "utf-16 le": (MARKED, "the file is UTF-16, not UTF-8", ""),
    "utf-16 be": (b"\xfe\xff" + json.dumps(ROWS).encode("utf-16-be"), "the file is UTF-16, not UTF-8", ""),
    "utf-16 le, no mark": (json.dumps(ROWS).encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8", ""),
    "utf-16 be, no mark": (json.dumps(ROWS).encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8", ""),
    "utf-16 in gzip": (gzip.compress(MARKED), "the file is UTF-16, not UTF-8", ""),
    "utf-32": (json.dumps(ROWS).encode("utf-32"), "the file is UTF-32", ""),
    "zip": (b"PK\x03\x04rest", "the file is a zip archive", ""),
    "parquet that is none": (b"PAR1rest", "the Parquet file is damaged or cut off", ""),
    "parquet cut off": (FILES["parquet"][:-20], "the Parquet file is damaged or cut off", ""),
    "arrow file cut off": (FILES["arrow file"][:-20], "the Arrow file is damaged or cut off", ""),
    "arrow stream cut off": (FILES["arrow stream"][:-8], "the Arrow stream is cut off: its end mark", ""),
    "arrow stream broken": (FILES["arrow stream"][:200] + FILES["arrow stream"][-8:], "the Arrow file is damaged", ""),
    "csv without the columns": (
        b"Titel,Antwort,Response\na,b,c\n",
        "no column holds a known question or instruction; the columns are: 'Titel', 'Antwort', 'Response'", ":1",
    ),
    "csv without its answer": (b"question,anser,n\na,b,c\n", "columns: {instruction: question, output: anser}", ":1"),
    "csv without a header": ("안녕,네 안녕하세요\n".encode() * 3, "columns: {instruction: 안녕, output: 네", ":1"),
    "jsonl in cp949": (f"{json.dumps(A)}\n{json.dumps(C, ensure_ascii=False)}\n".encode("cp949") * 2 + json.dumps(
        C, ensure_ascii=False).encode("cp949"), "the file is CP949, not UTF-8", ":2"),
    "csv with cp949 names": ("질문,답변\n안녕,예\n".encode("cp949"), "iconv -f CP949 -t UTF-8", ":1"),
    "csv with a column twice": (b"Q,A,A\na,b,c\n", "two columns are called 'A'", ":1"),
    "csv with an open quote": (b'Q,A\na,b\nc,"d\ne,f\n', "a quotation mark that is opened in this row", ":3"),
    "parquet without the columns": (parquet_of(pa.table({"a": ["x"], "b": ["y"]})), "columns: {instruction: a, ", ""),
    "parquet of texts": (parquet_of(pa.table({"text": ["x"]})), "the columns are: 'text'", ""),
    "parquet with a column twice": (
        parquet_of(pa.Table.from_arrays([pa.array(["x"])] * 2, ["a", "a"])), "two columns are called 'a'", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_files_that_stop_the_run(tmp_path: Path, case: str) -> None:
    data, said, place = STOPS[case]
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    message = refused(path)
    assert said in message
    assert f"{path}{place}" in message


@pytest.mark.parametrize("packing", ["gzip", "zstd", "bzip2", "xz"])
def test_packed_data_that_is_cut_off(tmp_path: Path, packing: str) -> None:
    rows = [{"instruction": f"{i * i} {i**7}", "output": f"{i**9}"} for i in range(4_000)]
    packed = PACK[packing]("\n".join(json.dumps(row) for row in rows).encode())
    path = tmp_path / "rows"
    for data in (packed[: len(packed) // 2], packed[:-1], packed[:40]):
        path.write_bytes(data)
        found: list[RawRow] = []
        with pytest.raises(UserError) as caught:
            found.extend(read(source(path), 0))
        assert [raw.value for raw in found] == rows[: len(found)]
        assert f"the {packing} data is damaged or cut off" in caught.value.what
        assert f"after {len(found):,} rows" in caught.value.what


@pytest.mark.parametrize("packing", ["gzip", "zstd", "bzip2", "xz"])
def test_packed_files_one_behind_the_other(tmp_path: Path, packing: str) -> None:
    (tmp_path / "a").write_bytes(PACK[packing](LINES) + PACK[packing](LINES))
    assert values(tmp_path / "a") == ROWS + ROWS


def test_a_csv_row_may_begin_like_a_packed_file() -> None:
    assert [compression_of(head) for head in (b"BZh,b", b"PK,a", b"(\xb5", b"[1]", b"")] == [""] * 5


def test_a_file_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("[1]")

    def no_rights(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.dataset.read.source.opened", no_rights)
    assert "cannot be read: Permission denied" in refused(tmp_path / "a.json")


# --- what costs one row


@pytest.mark.parametrize("form", ["jsonl", "array"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_are_rejected(tmp_path: Path, form: str, case: str) -> None:
    text, rule, reason = BAD_ROWS[case]
    rows = [json.dumps(A), text, json.dumps(B)]
    path = tmp_path / "rows.json"
    path.write_text("\n".join(rows) if form == "jsonl" else "[" + ",\n".join(rows) + "]", encoding="utf-8")
    bad = only_bad(path)
    assert bad.rule == rule
    assert reason in bad.reason
    assert bad.place == (f"{path}:2" if form == "jsonl" else f"{path}:2 (row 2)")


@pytest.mark.parametrize(
    "row",
    [
        '{"instruction": "a", "output": "b", "output": "b"}',
        '{"instruction": "a", "output": "b", "id": ' + "9" * 5000 + "}",
        '{"instruction": "a", "input": null, "output": "b"}',
        '{"instruction": "a", "output": "b", "tree": ' + "[" * 150 + "]" * 150 + "}",
        '{"instruction": "a", "output": "b", "flat": [' + "[]," * 1000 + "{}]}",
    ],
)
def test_oddities_that_do_no_harm(tmp_path: Path, row: str) -> None:
    (tmp_path / "a").write_text(row)
    (example,) = (check(raw, source("x")) for raw in raws(tmp_path / "a"))
    assert (example.instruction, example.input, example.output) == ("a", "", "b")  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["jsonl", "array", "csv"])
def test_invalid_utf_8_costs_only_its_row(tmp_path: Path, form: str) -> None:
    rows = [json.dumps(A).encode(), b'{"instruction": "caf\xe9 \xed\xa0\x80", "output": "b"}', json.dumps(B).encode()]
    data = {"jsonl": b"\n".join(rows), "array": b"[" + b",\n".join(rows) + b"]",
            "csv": b"instruction,output\nAdd.,3\ncaf\xe9,b\nSay hello.,c"}[form]  # fmt: skip
    path = tmp_path / "rows"
    path.write_bytes(data)
    assert only_bad(path).rule == "invalid-utf-8"


@pytest.mark.parametrize("bad", ['{"instruction": "a",', "garbage", "{'a': 1}", '{"a": 1} {"b": 2}', "[" * 100_000])
def test_a_bad_line_costs_only_itself(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(A), bad, json.dumps(B)]))
    found = only_bad(path)
    assert (found.rule, found.place) == ("not-json", f"{path}:2")


@pytest.mark.parametrize("bad", ['{"instruction": "a" "output"}', '{"instruction": "a",', '{"a": [', "{", '{"a": "'])
def test_a_bad_first_line_costs_only_itself(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{bad}\n{json.dumps(A)}\n{json.dumps(B)}\n")
    found = raws(path)
    assert [raw.value for raw in found] == [None, A, B]
    assert (found[0].place, found[0].rule) == (f"{path}:1", "not-json")


BAD_CELLS = {
    "too few": ("only one", "ragged", "1 cells where the header has 3"),
    "too many": ("a,b,c,d", "ragged", "4 cells where the header has 3"),
    "stray quote": ('"a "quoted" word",b,c', "not-csv", "inside quotes a quotation mark is written twice"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_csv_rows_that_are_rejected(tmp_path: Path, case: str) -> None:
    row, rule, reason = BAD_CELLS[case]
    path = tmp_path / "rows.csv"
    path.write_text(f"instruction,input,output\nAdd.,1 2,3\n{row}\nSay hello.,,Hello.\n")
    bad = only_bad(path)
    assert (bad.rule, bad.place) == (rule, f"{path}:3")
    assert reason in bad.reason


def test_csv_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b',Q,A\n0,"a ""b"", c","d\r\ne"\r\n1,"","x \x00 y"\r2,c,d\n')
    assert values(path) == [
        {"Q": 'a "b", c', "A": "d\r\ne"},
        {"Q": "", "A": "x \x00 y"},
        {"Q": "c", "A": "d"},
    ]
