"""Records that are damaged, unreadable or from elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.errors import UserError
from pipeline.store.folder import Store, Unreadable
from pipeline.store.table import detail, table
from pipeline.store.untrusted import inspect
from tests.helpers.stored_adapters import change_record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"method": "lora"}', '{"a": ' * 50_000])
def test_a_damaged_record_hides_no_other(store_copy: Store, text: str) -> None:
    (store_copy.root / "two" / "suri.json").write_text(text)
    with pytest.raises(UserError, match="two is damaged"):
        store_copy.record("two")
    lines = table(store_copy).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["one", "lora"], ["three", "lora"], ["two", "damaged"]]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Rights mean nothing to root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_to_all(lora_store: Store) -> Iterator[Store]:
    """A copy where others may look in, too: pytest's folders are their owner's alone."""
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(Path(shutil.copytree(lora_store.root, folder / "adapters")))
        for path in (folder, store.root, *store.root.iterdir()):
            path.chmod(0o755)
        yield store
        store.root.chmod(0o755)
        (store.root / "one").chmod(0o755)
    finally:
        shutil.rmtree(folder)


def test_what_may_not_be_read(open_to_all: Store) -> None:
    """A folder, a record, weights, the whole store: named, and the rest is as before."""
    store = open_to_all
    (store.root / "one").chmod(0)
    (store.root / "two" / "suri.json").chmod(0)
    (store.root / "three" / "adapter_model.safetensors").chmod(0)
    with as_nobody():
        lines = table(store).splitlines()
        for name in ("one", "two"):
            with pytest.raises(Unreadable, match="Permission denied"):
                detail(store, name)
        with pytest.raises(Unreadable, match="cannot be read"):
            inspect(store.root / "three")
        for use in (lambda: store.remove("one"), lambda: store.add_results("two", "run", {}, {})):
            with pytest.raises(UserError, match=r"no rights|cannot be read|cannot write"):
                use()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["one", "unreadable"],
        ["three", "lora"],
        ["two", "unreadable"],
    ]
    assert lines[4] == "one: cannot be read: Permission denied"
    assert store.names() == ["one", "three", "two"]
    store.root.chmod(0)
    with as_nobody():
        for use in (lambda: table(store), lambda: store.folder("one"), lambda: store.lock().__enter__()):
            with pytest.raises(UserError, match="cannot be read") as caught:
                use()
            assert "ADAPTERS=" in caught.value.fix


def test_a_record_of_many_layers(store_copy: Store) -> None:
    """JSON reads what YAML's printer cannot show."""
    deep: Any = 1
    for _ in range(400):
        deep = {"a": [deep]}
    change_record(store_copy, "one", results=store_copy.record("two"))
    assert "results:" in detail(store_copy, "one")
    path = store_copy.root / "one" / "suri.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "more": deep}))
    with pytest.raises(UserError, match="one is damaged"):
        detail(store_copy, "one")


def test_a_record_from_elsewhere_draws_nothing_on_the_terminal(store_copy: Store) -> None:
    record = store_copy.record("one")
    change_record(store_copy, "one", method="\x1b[2Jlora\u202e", base={**record["base"], "name": "x\n" * 100})
    for text in (table(store_copy), detail(store_copy, "one")):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert table(store_copy).count("\none  ") == 1
