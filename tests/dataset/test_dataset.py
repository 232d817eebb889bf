"""The data stage: what it accepts, what it refuses and how it says so, and what it leaves on disk."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.dataset import stage
from pipeline.dataset.example import Example
from pipeline.dataset.read.row import RawRow
from pipeline.dataset.read.source import kind_of, read
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.tiny import load_examples

A = {"instruction": "Add.", "input": "1 2", "output": "3"}
B = {"instruction": "Say hello.", "input": "", "output": "Hello."}
C = {"instruction": "인사해 줘.", "input": "", "output": "안녕하세요."}
ROWS = [A, B, C]
Build = Callable[..., dict[str, Any]]


def config_of(*paths: object, **data: Any) -> Config:
    sources = [_source(path) for path in paths]
    return Config.model_validate({"name": "t", "model": {"base": "x"}, "data": {"sources": sources, **data}})


def _source(path: object) -> dict[str, Any]:
    return path if isinstance(path, dict) else {"path": str(path)}


def lines_of(run: Run, part: str) -> list[dict[str, Any]]:
    text = (run.folder("dataset") / f"{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "t")


@pytest.fixture
def build(run: Run) -> Build:
    """Builds the data stage and checks what must hold after every build."""

    def building(*paths: object, **data: Any) -> dict[str, Any]:
        stage.build(config_of(*paths, **data), run)
        report: dict[str, Any] = json.loads((run.folder("dataset") / "report.json").read_text(encoding="utf-8"))
        for source in report["sources"]:
            assert source["read"] == source["kept"] + source["rejected"]
            assert source["kept"] == source["train"] + source["val"] + source["holdout"]
        for name in ("read", "kept", "rejected", "train", "val", "holdout"):
            assert sum(source[name] for source in report["sources"]) == report[name]
        repeats = {source["path"]: source.get("repeat", 1) for source in map(_source, paths)}
        for part in ("train", "val", "holdout", "rejected"):
            lines = lines_of(run, part)
            share = [1 / repeats[line["source"]] if part == "train" else 1 for line in lines]
            assert sum(share) == pytest.approx(report[part])
        assert sum(rule["rejected"] for rule in report["rules"]) == report["rejected"]
        assert all(line["reason"] and line["place"] for line in lines_of(run, "rejected"))
        assert [p.name for p in run.root.iterdir()] == ["dataset"]
        return report

    return building


def refused(run: Run, *paths: object, **data: Any) -> str:
    """The message that stops this build; nothing may be left behind."""
    with pytest.raises(UserError) as caught:
        stage.build(config_of(*paths, **data), run)
    assert caught.value.where
    assert caught.value.fix
    assert not run.root.exists() or list(run.root.iterdir()) == []
    return str(caught.value)


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

PRETTY = {"instruction": "a", "output": "b"}
STOPS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "the file is empty", ""),
    "white space": (b" \n\t\r\n ", "the file is empty", ""),
    "bom only": (b"\xef\xbb\xbf", "the file is empty", ""),
    "empty array": (b"[ ]", "the array is empty", ""),
    "html": (b"\n<!DOCTYPE html>", "neither JSON nor JSONL, CSV, Parquet or Arrow: it begins with '<!DOCTYPE", ":2"),
    "no-break space": ("\u00a0[]".encode(), "Parquet or Arrow: it begins with '\\xa0[]'", ":1"),
    "truncated in a text": (json.dumps(ROWS).encode()[:60], "the file ends in the middle of row 2", ":1:"),
    "truncated between fields": (b'[{"instruction": "a",', "the file ends in the middle of row 1", ":1:"),
    "truncated behind a row": (b'[\n{"instruction": "a", "output": "b"}\n', "ends in the middle, after row 1", ":3"),
    "truncated behind a comma": (b'[\n{"instruction": "a", "output": "b"},\n', "ends in the middle of row 2", ":3:"),
    "garbage after the array": (b'[{"instruction": "a", "output": "b"}]\n\n[]', "follows the array: '[]'", ":3"),
    "no comma": (b'[{"instruction": "a", "output": "b"}\n{}]', "expected , or ] after row 1, found '{'", ":2"),
    "bad row in an array": (b'[\n{"instruction": "a", "output": "b"},\n{"a" 1}]', "Expecting ':'", ":3:6, row 2"),
    "raw line break in a text": (b'[{"instruction": "a\nb", "output": "b"}]', "Invalid control character", ":1:"),
    "nested too deeply": (b"[" * 100_000, "brackets are nested too deeply", ":1, row 1"),
    "pretty object": (json.dumps(PRETTY, indent=1).encode(), "a JSON object instead of an array", ":1"),
    "pretty list inside": (
        json.dumps({"data": [PRETTY, PRETTY]}, indent=1).encode(), "keep the list under 'data'", ":1",
    ),
    # Its last row is valid JSON on a line of its own, which must not pass for a data set of one row.
    "rows inside": (
        b'{"data": [\n' + json.dumps(A).encode() + b",\n" + json.dumps(B).encode() + b"\n]}",
        "a JSON object instead of an array of rows (its keys: 'data')", ":1",
    ),
    "one-line list inside": (json.dumps({"version": 1, "data": ROWS}).encode(), "keep the list under 'data'", ":1"),
    "pretty objects one by one": (
        "\n".join(json.dumps(r, indent=1) for r in ROWS).encode(), "JSON objects over several lines each", ":1",
    ),
    "no line valid": (b"{'instruction': 'a'}\n{'b': 1}\n", "the 2 rows was rejected (2 x not valid JSON", ""),
    "truncated line": (b'{"instruction": "a"', "every one of the 1 rows was rejected (1 x not valid JSON", ""),
    "wrong names": (b'{"ask": "a", "say": "b"}', "columns: {instruction: NAME, output: NAME}", ""),
    "rows of text": (b'["a", "b"]', "every one of the 2 rows was rejected (2 x a row is an object, this is text", ""),
    "every output empty": (b'{"instruction": "a", "output": ""}', "output-empty: off", ""),
    "cp949": ('[{"instruction": "안녕", "output": "예"}]'.encode("cp949"), "iconv -f CP949 -t UTF-8", ""),
    "utf-16 le": (json.dumps(ROWS).encode("utf-16"), "the file is UTF-16, not UTF-8", ""),
    "utf-16 be": (b"\xfe\xff" + json.dumps(ROWS).encode("utf-16-be"), "the file is UTF-16, not UTF-8", ""),
    "utf-16 le, no mark": (json.dumps(ROWS).encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8", ""),
    "utf-16 be, no mark": (json.dumps(ROWS).encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8", ""),
    "utf-32": (json.dumps(ROWS).encode("utf-32"), "the file is UTF-32", ""),
    "cut-off gzip": (gzip.compress(json.dumps(ROWS).encode())[:-9], "cut off", ""),
    "zip": (b"PK\x03\x04rest", "the file is a zip archive", ""),
    "parquet": (b"PAR1rest", "the Parquet file is damaged or cut off", ""),
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


@pytest.mark.parametrize("path", ["x" * 5000, "a\x00b", "/nowhere/at/all.json"])
def test_paths_that_cannot_be(run: Run, path: str) -> None:
    assert "no such data file" in refused(run, path)


def test_no_sources(run: Run) -> None:
    assert "data.sources is empty" in refused(run)


@pytest.mark.parametrize(
    "path",
    ["data/missing.json", "nowhere/missing.jsonl", "nowhere/missing.csv", "nowhere/x.parquet", "nowhere/x.json.gz"],
)
def test_a_missing_local_file_never_reaches_the_network(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert f"no such data file: {path}" in refused(run, path)


def test_what_a_path_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    def kind(path: str) -> str:
        return kind_of(config_of(path).data.sources[0])

    assert kind("tatsu-lab/alpaca") == "hub"
    assert kind("beomi/KoAlpaca-v1.1a") == "hub"
    assert kind("mine") == "folder"
    assert kind("families") == "families"
    with pytest.raises(UserError, match="no such data file"):
        kind("mine/alpaca")  # the folder is here, so this is a slip and no hub id


def test_a_folder_without_data(tmp_path: Path, run: Run) -> None:
    (tmp_path / "rows").mkdir()
    message = refused(run, tmp_path / "rows")
    assert f"cannot load the data set '{tmp_path / 'rows'}'" in message
    assert "the folder must hold data files" in message


def test_families_that_run_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def used_up(*_: object) -> None:
        raise ValueError("family 'x' has no more distinct examples after 3 of them")

    monkeypatch.setattr("pipeline.dataset.read.source.generate", used_up)
    message = refused(run, {"path": "families", "rows": 5})
    assert "no more distinct examples" in message
    assert "ask for fewer rows" in message


# --- what costs one row

DEEP = "[" * 900 + "]" * 900
BAD_ROWS: dict[str, tuple[str, str, str]] = {
    "no instruction": ('{"output": "b"}', "instruction-missing", "no field 'instruction' (fields: 'output')"),
    "no output": ('{"instruction": "a"}', "output-missing", "no field 'output' (form: alpaca; fields: 'instr"),
    "no fields": ("{}", "instruction-missing", "fields: none"),
    "instruction null": ('{"instruction": null, "output": "b"}', "instruction-not-text", "instruction is null"),
    "instruction number": ('{"instruction": 1, "output": "b"}', "instruction-not-text", "instruction is a number"),
    "instruction empty": ('{"instruction": "", "output": "b"}', "instruction-empty", "instruction is empty"),
    "instruction blank": ('{"instruction": " \\n\\u3000", "output": "b"}', "instruction-empty", "instruction is empty"),
    "output null": ('{"instruction": "a", "output": null}', "output-not-text", "output is null"),
    "output number": ('{"instruction": "a", "output": 1.5}', "output-not-text", "output is a number"),
    "output not a number": ('{"instruction": "a", "output": NaN}', "output-not-text", "output is a number"),
    "output list": ('{"instruction": "a", "output": ["b"]}', "output-not-text", "output is a list"),
    "output object": ('{"instruction": "a", "output": {"b": 1}}', "output-not-text", "output is an object"),
    "output switch": ('{"instruction": "a", "output": true}', "output-not-text", "output is true/false"),
    "output empty": ('{"instruction": "a", "output": ""}', "output-empty", "output is empty"),
    "output blank": ('{"instruction": "a", "output": " \\t"}', "output-empty", "output is empty"),
    "input number": ('{"instruction": "a", "input": 3, "output": "b"}', "input-not-text", "input is a number"),
    "input list": ('{"instruction": "a", "input": [], "output": "b"}', "input-not-text", "input is a list"),
    "row is a list": ('["a", "b"]', "not-an-object", "this is a list"),
    "row is text": ('"a"', "not-an-object", "this is text"),
    "row is a number": ("7", "not-an-object", "this is a number"),
    "row is null": ("null", "not-an-object", "this is null"),
    "lone surrogate": ('{"instruction": "a \\ud800", "output": "b"}', "invalid-utf-8", "instruction is not UTF-8"),
    "lone surrogate in a key": ('{"\\ud800": "a", "output": "b"}', "instruction-missing", "'\\ud800'"),
    "lone surrogate in the task": ('{"instruction": "a", "output": "b", "task": "\\ud800"}', "invalid-utf-8", "task"),
    "escape sequence in a key": ('{"\\u001b[31m": 1}', "instruction-missing", "'\\x1b[31m'"),
    "5,000 digits": ('{"instruction": "a", "output": ' + "9" * 5000 + "}", "output-not-text", "output is a number"),
    "deep output": ('{"instruction": "a", "output": ' + DEEP + "}", "not-json", "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "array"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_are_rejected(tmp_path: Path, run: Run, build: Build, form: str, case: str) -> None:
    text, rule, reason = BAD_ROWS[case]
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
    assert "every one of the 4 rows was rejected (3 x output is empty; 1 x instruction is a number, not text" in message
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


# --- limit, held-out tasks, exact


def test_limit_depends_on_content_alone(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.json").write_text(json.dumps(rows[::-1]))
    report = build({"path": str(tmp_path / "a.json"), "limit": 5})
    assert report["sources"][0]["left_out"] == report["rejected"] == 15
    first = [e.id for e in load_examples(run, "train")]
    build({"path": str(tmp_path / "b.json"), "limit": 5})
    assert [e.id for e in load_examples(run, "train")] == first[::-1]
    assert build({"path": str(tmp_path / "a.json"), "limit": 50})["train"] == 20


def test_all_tasks_held_out_leaves_nothing_to_learn(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{**A, "task": "t"}]))
    assert "no row is left to train on" in refused(run, tmp_path / "a.json", holdout=["t"])


def test_generated_families_are_exact(run: Run, build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    report = build({"path": "families", "rows": 40}, tmp_path / "a.json", val=5, val_exact_only=True)
    assert report["train"] == 38
    assert [e.exact for e in load_examples(run, "val")] == [True] * 5
    assert [e.exact for e in load_examples(run, "train")[-3:]] == [False] * 3
    assert all(e.task for e in load_examples(run, "val"))


def test_exact_flag_of_a_source(tmp_path: Path, run: Run, build: Build) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    build({"path": str(tmp_path / "a.json"), "exact": True})
    assert all(e.exact for e in load_examples(run, "train"))


# --- up to date


def is_current(run: Run, config: Config) -> bool:
    return run.is_current("dataset", stage.key(config, run))


def test_up_to_date(tmp_path: Path, run: Run, build: Build) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    assert not is_current(run, config_of(path))
    build(path)
    assert is_current(run, config_of(path))
    assert not is_current(run, config_of(path, seed=7))
    os.utime(path, ns=(1, 1))
    assert is_current(run, config_of(path))
    path.write_text(json.dumps(ROWS[::-1]))
    assert not is_current(run, config_of(path))
    build(path)
    assert is_current(run, config_of(path))
    (run.folder("dataset") / "val.jsonl").unlink()
    assert not is_current(run, config_of(path))


def test_same_data_same_bytes(tmp_path: Path, run: Run, build: Build) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    build(tmp_path / "a.json", val=1)
    first = run.result("dataset")
    build(tmp_path / "a.json", val=1)
    assert run.result("dataset") == first


def test_a_failed_build_leaves_the_old_result(tmp_path: Path, run: Run, build: Build) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    build(path)
    path.write_text("[")
    with pytest.raises(UserError):
        stage.build(config_of(path), run)
    assert len(load_examples(run, "train")) == 3
    assert [p.name for p in run.root.iterdir()] == ["dataset"]


# --- duplicates, contamination, mixture


def rules_of(report: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {r["rule"]: (r["rejected"], r["fixed"], r["flagged"]) for r in report["rules"]}


def story(number: int, words: int = 30) -> dict[str, str]:
    return {"instruction": f"Tell story {number}.", "output": " ".join(f"word{number}x{i}" for i in range(words))}


def test_duplicates_and_their_clusters(tmp_path: Path, run: Run, build: Build) -> None:
    near = {**story(1), "output": story(1)["output"] + " and more"}
    rows = [story(1), story(2), {**story(1), "instruction": "TELL  story\t1."}, near, {**near, "input": ""}, story(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json")
    assert rules_of(report) == {"duplicate": (2, 0, 0), "near-duplicate": (1, 0, 0)}
    (cluster,) = lines_of(run, "duplicates")
    assert cluster["kept"]["place"].endswith("(row 1)")
    assert [(r["place"][-7:], r["kind"]) for r in cluster["rows"]] == [
        ("(row 3)", "exact"), ("(row 4)", "near"), ("(row 5)", "exact"),
    ]  # fmt: skip
    assert cluster["rows"][2]["through"].endswith("(row 4)")
    assert report["duplicates"]["clusters"] == 1
    assert report["duplicates"]["largest"][0]["size"] == 4
    assert build(tmp_path / "a.json", duplicates={"exact": False, "near": 0})["train"] == 6
    assert rules_of(build(tmp_path / "a.json", duplicates={"near": 0})) == {"duplicate": (2, 0, 0)}
    assert rules_of(build(tmp_path / "a.json", duplicates={"exact": False})) == {"near-duplicate": (3, 0, 0)}


def test_no_near_duplicate_straddles_the_split(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{**story(n), "output": story(n)["output"] + extra} for n in range(60) for extra in ("", " more", " x y")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    build(tmp_path / "a.json", val=0.5)
    sides = [{e.instruction for e in load_examples(run, part)} for part in ("train", "val")]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_novelty_is_the_last_of_the_comparisons(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [
        {"instruction": "Write a poem about the sea.", "output": "Blue."},
        {"instruction": "Write a poem about the sky.", "output": "Wide and bright above the town."},
        {"instruction": "Name a city.", "output": "Rome."},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert build(tmp_path / "a.json")["train"] == 3
    report = build(tmp_path / "a.json", duplicates={"novelty": 0.7})
    assert rules_of(report) == {"not-novel": (1, 0, 0)}
    assert lines_of(run, "duplicates")[0]["rows"][0]["similarity"] == pytest.approx(10 / 12, abs=1e-4)


def test_contaminated_rows_are_shown_with_the_question(tmp_path: Path, run: Run, build: Build) -> None:
    question = "Which gas do green plants take from the air when they make sugar with the help of sunlight?"
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"query": question, "choices": ["CO2", "O2"], "gold": 0}))
    rows = [{"instruction": f"Answer: {question}", "output": "Carbon dioxide."}, {**A}, {**B}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json", benchmarks=[{"path": str(tmp_path / "quiz.jsonl")}])
    assert rules_of(report) == {"contaminated": (1, 0, 0)}
    (hit,) = lines_of(run, "contaminated")
    assert (hit["benchmark"], hit["question"]) == ("quiz", question)
    assert report["contamination"]["table"] == {"quiz": {str(tmp_path / "a.json"): 1}}
    assert "quiz" in lines_of(run, "rejected")[0]["reason"]
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"query": "What is the airspeed velocity of an unladen swallow?"}))
    config = config_of(tmp_path / "a.json", benchmarks=[{"path": str(tmp_path / "quiz.jsonl")}])
    assert not is_current(run, config)


def test_repeats_weights_and_rehearsal(tmp_path: Path, run: Run, build: Build) -> None:
    for name, first in (("a", 0), ("b", 100), ("c", 200)):
        (tmp_path / f"{name}.json").write_text(json.dumps([story(first + i) for i in range(20)]))
    report = build(
        {"path": str(tmp_path / "a.json"), "weight": 2, "repeat": 2},
        {"path": str(tmp_path / "b.json"), "weight": 1},
        {"path": str(tmp_path / "c.json"), "rehearsal": True},
        rehearsal=0.2,
    )
    assert [s["taken"] for s in report["mix"]] == [20, 20, 15]
    assert [s["train"] for s in report["sources"]] == [20, 20, 15]
    assert len(lines_of(run, "train")) == 75
    assert {line["rule"] for line in lines_of(run, "rejected")} == {"rehearsal"}
    assert report["left_out"] == 5


def test_repeats_that_fill_the_disk_are_told_before(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text(json.dumps([story(i) for i in range(20)]))
    config = config_of({"path": str(tmp_path / "a.json"), "repeat": 1_000_000})
    monkeypatch.setattr("pipeline.run.files.shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match=r"with 20,000,000 rows.* needs .* GB of disk"):
        stage.build(config, run)
    assert not list(run.root.glob("*"))


def test_rules_fix_flag_and_reject(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{**A, "input": "<noinput>"}, {**B, "output": "Mail me: jo.bloggs@gmail.com"}, {**C, "output": ""}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json")
    assert rules_of(report) == {
        "no-input-spelling": (0, 1, 0), "output-empty": (1, 0, 0), "personal-data": (0, 0, 1),
    }  # fmt: skip
    fixed, flagged = lines_of(run, "changes")
    assert (fixed["before"], fixed["after"], fixed["action"]) == ({"input": "<noinput>"}, {"input": ""}, "fixed")
    assert fixed["id"] == load_examples(run, "train")[0].id
    assert flagged["action"] == "flagged"
    assert "no such cleaning rule: 'output-emty'" in refused_rules(tmp_path)


def refused_rules(tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        stage.build(config_of(tmp_path / "a.json", rules={"output-emty": "off"}), Run(tmp_path / "other"))
    return str(caught.value)


def test_rows_by_the_thousand_go_through_processes_unchanged(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{**story(i, 4), "note": "x"} for i in range(5200)]
    rows[17] = rows[4017] = {**story(17), "output": ""}
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json")
    assert report["rejected"] == 2
    assert [e.instruction for e in load_examples(run, "train")] == [r["instruction"] for r in rows if r["output"]]
