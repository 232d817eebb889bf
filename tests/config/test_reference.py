"""docs/config.md says of each key what the schema says, and its example is a config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.config.load import load
from pipeline.config.reference import as_yaml, entries, tables
from pipeline.config.schema import Config
from scripts.config_reference import MARK, PAGE, page

# How the sentence begins that says when to change a key.
ADVICE = re.compile(r"(Set|Raise|Lower|Change|Name|Choose|Replace)\b")
EXAMPLE = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert MARK in text
    assert text == page(text), "run `python -m scripts.config_reference`"


def test_every_key_of_the_schema_is_there_once() -> None:
    def keys(values: dict[str, object], prefix: str = "") -> set[str]:
        dicts = {
            "model.geometry",
            "data.rules",
            "data.groups",
            "data.sources.N.columns",
            "synthesis.rules",
            "synthesis.sources.N.columns",
            "synthesis.teacher.extra",
            "synthesis.judge.extra",
        }  # values, not sections
        found = set()
        for name, value in values.items():
            inner = isinstance(value, dict) and f"{prefix}{name}" not in dicts
            found |= keys(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}  # type: ignore[arg-type]
        return found

    config = Config.model_validate(
        {
            "name": "x",
            "data": {"sources": [{"path": "a"}], "benchmarks": [{"path": "b"}]},
            "synthesis": {"sources": [{"path": "a"}], "benchmarks": [{"path": "b"}]},
        }
    )
    values = config.model_dump(mode="json")
    wanted = keys(values)
    for section in ("data", "synthesis"):
        for name in ("sources", "benchmarks"):
            wanted |= keys(values[section][name][0], f"{section}.{name}.N.")
    listed = [entry.key for table in tables() for entry in table.entries]
    assert sorted(listed) == sorted(wanted)


def test_each_description_ends_with_advice() -> None:
    for table in tables():
        for entry in table.entries:
            assert ADVICE.match(entry.when), f"{entry.key}: {entry.when}"
            assert entry.what.endswith("."), entry.key


def test_each_section_has_a_description() -> None:
    assert [table.place for table in tables() if table.place and not table.about] == []


@pytest.mark.parametrize(
    ("key", "type", "default"),
    [
        ("name", "text of letters, digits, `.`, `_`, `-`", None),
        ("model.dtype", "auto, bf16, fp16 or fp32", "auto"),
        ("model.revision", "text", '""'),
        ("model.geometry", "table of names to values, or null", "null"),
        ("data.val", "a share below 1, or a whole number of rows", "0"),
        ("data.rehearsal", "number, at least 0, below 1", "0.0"),
        ("data.groups", "table of names to lists of texts", "{}"),
        ("data.benchmarks", "list of tables with path, name, field", "[]"),
        ("data.sources.N.limit", "whole number, at least 1, or null", "null"),
        ("data.sources.N.weight", "number, above 0, or null", "null"),
        ("data.duplicates.near", "number, 0 to 1", "0.8"),
        ("adapter.targets", "list of texts", "[all-linear]"),
        ("train.lr", "number, at least 0", "0.0002"),
        ("train.epochs", "number, above 0, at most 1,000,000", "1.0"),
        ("train.seed", "whole number, at least 0", "42"),
        ("train.fast", "true or false", "true"),
        ("judge.key", "the name of an environment variable", '""'),
    ],
)
def test_types_and_defaults(key: str, type: str, default: str | None) -> None:
    entry = next(e for e in entries(key) if e.key == key)
    assert (entry.type, entry.default) == (type, default)


def test_defaults_are_read_back(tmp_path: Path) -> None:
    """Each default as it is printed, given as an override, is the default."""
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nmodel: {base: some/model}\n")
    listed = [e for t in tables() for e in t.entries if e.default is not None and ".N." not in e.key]
    overrides = [f"{e.key}={e.default}" for e in listed if e.key != "model.base"]
    assert len(overrides) > 80
    assert load(path, overrides) == load(path)


def test_entries_of_a_section() -> None:
    names = ("dtype", "merge_into", "min_eos", "formats", "gguf")
    assert [e.key for e in entries("export")] == [f"export.{name}" for name in names]
    assert "data.sources.N.path" in [e.key for e in entries("data")]
    with pytest.raises(KeyError):
        entries("trian")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-4, "0.0002"),
        ("a b", '"a b"'),
        ("10", '"10"'),
        ("null", '"null"'),
        ("", '""'),
        (None, "null"),
        (["a", 1], "[a, 1]"),
    ],
)
def test_values_as_yaml(value: object, text: str) -> None:
    assert as_yaml(value) == text


def test_the_example_loads(tmp_path: Path) -> None:
    assert len(EXAMPLE) == 1
    path = tmp_path / "mine.yaml"
    path.write_text(EXAMPLE[0])
    config = load(path, ["train.lr=1e-4", "data.sources.0.limit=100", "adapter.targets=[q_proj, v_proj]"])
    assert (config.train.lr, config.data.sources[0].limit) == (1e-4, 100)
