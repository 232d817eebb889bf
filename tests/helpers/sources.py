"""Files of every format, and the raw rows that are read from them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from pipeline.config.schema import Source
from pipeline.dataset.read.row import RawRow, Rejected, check
from pipeline.dataset.read.source import read
from pipeline.run.errors import UserError

A = {"instruction": "Add.", "input": "1 2", "output": "3"}
B = {"instruction": "Say hello.", "input": "", "output": "Hello."}
C = {"instruction": "인사해 줘.", "input": "", "output": "안녕하세요."}
ROWS = [A, B, C]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def source(path: object, **more: Any) -> Source:
    return Source.model_validate({"path": str(path), **more})


def raws(path: object, **more: Any) -> list[RawRow]:
    return list(read(source(path, **more), 0))


def values(path: object, **more: Any) -> list[Any]:
    return [raw.value for raw in raws(path, **more)]


def refused(path: object, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        raws(path, **more)
    assert caught.value.where
    assert caught.value.fix
    return str(caught.value)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


def parquet_of(table: Any, **more: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, **more)
    return bytes(sink.getvalue())


def arrow_of(table: Any, new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


TABLE = pa.Table.from_pylist(ROWS)
FILES: dict[str, bytes] = {
    "array": json.dumps(ROWS).encode(),
    "pretty array": json.dumps(ROWS, indent=4, ensure_ascii=False).encode(),
    "lines": LINES,
    "csv": ("instruction,input,output\n" + "".join('{},{},"{}"\n'.format(*r.values()) for r in ROWS)).encode(),
    "tsv": ("instruction\tinput\toutput\r\n" + "".join("\t".join(r.values()) + "\r\n" for r in ROWS)).encode(),
    "parquet": parquet_of(TABLE),
    "arrow file": arrow_of(TABLE, ipc.new_file),
    "arrow stream": arrow_of(TABLE, ipc.new_stream),
}  # fmt: skip

DEEP = "[" * 900 + "]" * 900
BAD_ROWS: dict[str, tuple[str, str, str]] = {
    "no instruction": ('{"output": "b"}', "instruction-missing", "no field 'instruction' (fields: 'output')"),
    "no output": ('{"instruction": "a"}', "output-missing", "no field 'output' (fields: 'instruction')"),
    "no fields": ("{}", "instruction-missing", "fields: none"),
    "instruction null": ('{"instruction": null, "output": "b"}', "instruction-not-text", "instruction is null"),
    "instruction number": ('{"instruction": 1, "output": "b"}', "instruction-not-text", "instruction is a number"),
    "instruction empty": ('{"instruction": "", "output": "b"}', "instruction-empty", "instruction is empty"),
    "instruction blank": ('{"instruction": " \\n\\u3000", "output": "b"}', "instruction-empty", "instruction is empty"),
    "output null": ('{"instruction": "a", "output": null}', "output-not-text", "output is null"),
    "output number": ('{"instruction": "a", "output": 1.5}', "output-not-text", "output is a number"),
    "output not a number": ('{"instruction": "a", "output": NaN}', "output-not-text", "output is a number"),
    "output infinite": ('{"instruction": "a", "output": -Infinity}', "output-not-text", "output is a number"),
    "output list": ('{"instruction": "a", "output": ["b"]}', "output-not-text", "output is a list"),
    "output object": ('{"instruction": "a", "output": {"b": 1}}', "output-not-text", "output is an object"),
    "output switch": ('{"instruction": "a", "output": true}', "output-not-text", "output is true/false"),
    "input number": ('{"instruction": "a", "input": 3, "output": "b"}', "input-not-text", "input is a number"),
    "row is a list": ('["a", "b"]', "not-an-object", "this is a list"),
    "row is text": ('"a"', "not-an-object", "this is text"),
    "row is a number": ("7", "not-an-object", "this is a number"),
    "row is null": ("null", "not-an-object", "this is null"),
    "lone surrogate": ('{"instruction": "a \\ud800", "output": "b"}', "invalid-utf-8", "instruction is not UTF-8"),
    "lone surrogate in a key": ('{"\\ud800": "a", "output": "b"}', "instruction-missing", "'\\ud800'"),
    "lone surrogate in the task": ('{"instruction": "a", "output": "b", "task": "\\ud800"}', "invalid-utf-8", "task"),
    "escape sequence in a key": ('{"\\u001b[31m": 1}', "instruction-missing", "'\\x1b[31m'"),
    "5,000 digits": ('{"instruction": "a", "output": ' + "9" * 5000 + "}", "output-not-text", "output is a number"),
    "deep": ('{"instruction": "a", "output": ' + DEEP + "}", "not-json", "brackets are nested too deeply"),
    "very deep": ('{"a": "]\\"", "b": ' + "[" * 100_000 + "]" * 100_000 + "}", "not-json", "brackets are nested too"),
    "key twice": ('{"instruction": "a", "output": "b", "output": "c"}', "duplicate-key", "the field 'output' occurs"),
    "key twice inside": ('{"instruction": "a", "output": "b", "x": {"y": 1, "y": 2}}', "duplicate-key", "'y'"),
}  # fmt: skip
"""One row each that is rejected: its JSON, the rule, and a part of the reason."""


def only_bad(path: Path, **more: Any) -> Rejected:
    """The one row of three that is rejected; the others must be A and B."""
    found = [check(raw, source(path)) for raw in raws(path, **more)]
    assert [getattr(e, "instruction", "bad") for e in found] == [A["instruction"], "bad", B["instruction"]]
    assert isinstance(found[1], Rejected)
    assert found[1].source == str(path)
    assert repr(pickle.loads(pickle.dumps(raws(path)))) == repr(raws(path))  # rows go to worker processes
    return found[1]
