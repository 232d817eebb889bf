"""The documentation: links that resolve, commands and keys that exist, messages that are really printed."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.dataset.stage import key as dataset_key
from pipeline.prompt.template import load as load_template
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.docs_pages import CODE, ROOT, Block, anchors, blocks, links, name_of, pages, prose
from tests.helpers.messages import GOLDEN

SECTIONS = "|".join(name for name in Config.model_fields if name != "name")
KEY = re.compile(rf"^({SECTIONS})((?:\.[a-z0-9_]+(?:\[\])?)+)(?:(?:=|: ).*)?$")
FILES = (
    "md",
    "json",
    "jsonl",
    "png",
    "py",
    "html",
    "yaml",
    "csv",
    "safetensors",
    "arrow",
    "txt",
)  # `train.jsonl` is no key
MAKE = re.compile(r"\bmake +([a-z][a-z-]*)(?=[\s`;,.)]|$)")
ALL = [pytest.param(page, id=name_of(page)) for page in pages()]
HISTORY = {"docs/LOG.md", "docs/benchmarks-earlier.md"}  # say what was typed then
PATH = re.compile(r"^((?:pipeline|configs|tests|scripts|data|docs)/[\w./*-]+)")
INVENTED = {"configs/mine.yaml"}  # the user's own
TABLES = ("data.rules.", "data.groups.", "model.geometry.")  # their keys are the user's own


@pytest.mark.parametrize("page", ALL)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_the_index_links_every_page() -> None:
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in links(ROOT / "docs" / "index.md")}
    missing = [name_of(page) for page in pages() if page not in linked and page.name != "index.md"]
    assert missing == []


def test_readme_is_short_and_begins_with_the_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    begins = {line.split("#")[0].strip() for line in lines[:15]}
    assert {"make export", "make test"} <= begins


def test_both_readmes_have_the_same_numbers() -> None:
    """The table of the demo is the only place of its numbers in each of the two."""
    tables = []
    for name in ("README.md", "docs/README.ko.md"):
        rows = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in row.strip("|").split("|")[1:]] for row in rows]
        tables.append([row for row in cells if row and re.match(r"[\d.]+", row[0])])
    assert len(tables[0]) == 4
    assert tables[0] == tables[1]


@functools.cache
def targets() -> set[str]:
    """What the Makefile can make by name."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    return {name for line in re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE) for name in line.split()}


@pytest.mark.parametrize("page", ALL)
def test_targets_exist(page: Path) -> None:
    code = "\n".join([*CODE.findall(prose(page)), *(block.text for block in blocks(page))])
    named = {name for line in code.splitlines() for name in MAKE.findall(line.partition(" #")[0])}
    assert named - targets() == set()


@pytest.mark.parametrize("page", [page for page in ALL if page.id not in HISTORY])
def test_paths_exist(page: Path) -> None:
    """Files of the repository that are named in backticks, and scripts in any command."""
    missing = {
        word
        for word in CODE.findall(prose(page))
        if (match := PATH.match(word)) and not list(ROOT.glob(match[1].replace("NAME", "*"))) and word not in INVENTED
    }
    scripts = {name.rstrip(".") for name in re.findall(r"\bscripts((?:\.[a-z_]+)+)", page.read_text())}
    missing |= {name for name in scripts if not (ROOT / "scripts" / f"{name[1:].replace('.', '/')}.py").is_file()}
    assert missing == set()


@functools.cache
def keys() -> set[str]:
    """Every key of the schema, `[]` for an item of a list."""
    return set(_keys(Config, ""))


def _keys(section: type[BaseModel], prefix: str) -> list[str]:
    result = []
    for name, info in section.model_fields.items():
        result.append(f"{prefix}{name}")
        for inner in _models(info.annotation):
            result += _keys(inner, f"{prefix}{name}.")
    return result


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


@pytest.mark.parametrize("page", [page for page in ALL if page.id not in HISTORY])
def test_keys_exist(page: Path) -> None:
    unknown = set()
    for word in CODE.findall(prose(page)):
        match = KEY.match(word.strip())
        if match and match[2].rpartition(".")[2] not in FILES:
            key = re.sub(r"\.\d+(?=\.|$)|\[\]", "", match[1] + match[2])
            if key not in keys() and not key.startswith(TABLES):
                unknown.add(word)
    assert unknown == set()


def _yaml_blocks() -> list[Any]:
    found = [block for page in pages() for block in blocks(page) if block.language == "yaml"]
    return [pytest.param(block, id=f"{block.page}-{n}") for n, block in enumerate(found)]


@pytest.mark.parametrize("block", _yaml_blocks())
def test_yaml_examples_are_valid(block: Block, tmp_path: Path) -> None:
    """A template loads; a config is accepted, or refused with the message that the page shows next."""
    values = yaml.safe_load(block.text)
    file = tmp_path / "example.yaml"
    file.write_text(block.text)
    if "prompt_input" in values:
        assert load_template(str(file)).prompt("a", "b") != load_template(str(file)).prompt("a")
        return
    if block.text in {wrong for wrong, _ in _wrong_configs()}:
        return
    if "name" not in values:
        file.write_text(f"name: example\n{block.text}")
    load(file, model=False)


def _wrong_configs() -> list[tuple[str, str]]:
    """Configs of the page on troubleshooting, each with the message quoted after it."""
    found = blocks(ROOT / "docs" / "troubleshooting.md")
    return [(a.text, b.text) for a, b in itertools.pairwise(found)
            if a.language == "yaml" and b.language == "message"]  # fmt: skip


def test_messages_on_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    assert _wrong_configs()
    for text, message in _wrong_configs():
        Path("configs/mine.yaml").write_text(text)
        with pytest.raises(UserError) as error:
            load("configs/mine.yaml")
        assert f"suri: {error.value}" == message.rstrip()


def test_message_on_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("support.csv").touch()
    Path("mine.yaml").write_text("name: mine\ndata: {sources: [{path: suport.csv}]}\n")
    with pytest.raises(UserError) as error:
        dataset_key(load("mine.yaml", model=False), Run.of("mine"))
    quoted = [block.text.rstrip() for block in blocks(ROOT / "docs" / "troubleshooting.md")]
    assert f"suri: {error.value}" in quoted


def _quoted() -> list[Any]:
    found = [block for page in pages() for block in blocks(page) if block.language == "message"]
    found = [
        block for block in found if not re.match(r"suri: (\d+ problems? in the config|no such data file):", block.text)
    ]
    return [pytest.param(block.text, id=block.text.split("\n")[0][6:60]) for block in found]


@pytest.mark.parametrize("message", _quoted())
def test_messages_are_those_of_the_program(message: str) -> None:
    """What is wrong and what to do are in the golden file or in the sources, with any values in the placeholders."""
    what, *more = message.rstrip().split("\n")
    parts = dict(line.strip().split(":", 1) for line in more)
    assert set(parts) <= {"where", "fix"}
    for part in (what.removeprefix("suri: "), parts["fix"].strip()):
        literal, patterns = _templates()
        assert part in literal or any(pattern.fullmatch(part) for pattern in patterns), part


@functools.cache
def _templates() -> tuple[set[str], list[re.Pattern[str]]]:
    """Messages without placeholders, and those with some as regular expressions.

    Templates with hardly a letter of their own are left out: they would match anything.
    """
    golden = [line.partition(":")[2].strip() for line in GOLDEN.read_text().splitlines()]
    templates = {text for line in golden for text in line.split(" | ")} | _texts_in_sources()
    templates = {text for text in templates if len(re.sub(r"\{\}|\W", "", text)) >= 7}
    patterns = [re.escape(text).replace(r"\{\}", ".+?") for text in templates if "{}" in text]
    return {text for text in templates if "{}" not in text}, [re.compile(p, re.DOTALL) for p in patterns]


def _texts_in_sources() -> set[str]:
    """Every text in the sources, what an f-string fills in as `{}`."""
    texts = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.add("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 500:
                texts.add(node.value)
    return texts
