"""Writing to the store: complete or not at all, one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from pipeline.store.folder import Store
from tests.helpers.store_files import filled

ROOT = Path(__file__).parents[2]


def test_writing_is_whole_or_nothing(store: Store) -> None:
    filled(store, "one")
    with pytest.raises(ZeroDivisionError), store.writing("two") as folder:
        (folder / "weights").write_text(f"half{1 / 0}")
    with pytest.raises(UserError, match="one") as caught:
        filled(store, "one")
    assert "REPLACE" in caught.value.fix
    with pytest.raises(ZeroDivisionError), store.writing("one", replace=True) as folder:
        (folder / "weights").write_text(f"half{1 / 0}")
    assert (store.folder("one") / "weights").read_text() == "one"
    with store.writing("one", replace=True) as folder:
        (folder / "weights").write_text("new")
    assert (store.folder("one") / "weights").read_text() == "new"
    assert {p.name for p in store.root.iterdir()} == {"one", ".lock"}
    store.remove("one")
    assert store.names() == []


def test_what_a_crash_leaves_is_put_right(store: Store) -> None:
    filled(store, "one", "two")
    os.replace(store.root / "one", store.root / ".one.old")  # killed between the two renames
    (store.root / ".three.tmp").mkdir()  # killed while writing
    with store.lock():
        pass
    assert store.names() == ["one", "two"]
    assert not (store.root / ".three.tmp").exists()


def test_store_in_use(store: Store, tmp_path: Path) -> None:
    filled(store, "one")
    with store.lock():
        made = subprocess.run(
            [sys.executable, "-m", "scripts.adapters", "remove", "one"],
            capture_output=True, text=True, cwd=ROOT, env={**os.environ, "ADAPTERS": str(store.root)},
        )  # fmt: skip
        assert made.returncode == 2
        assert f"the adapter store is in use by process {os.getpid()}" in made.stderr
        assert "Traceback" not in made.stderr
        for use in (
            lambda: filled(store, "two"),
            lambda: store.remove("one"),
            lambda: store.add_results("one", "run", {}, {}),
        ):
            with pytest.raises(UserError, match="in use"):
                use()
        assert store.names() == ["one"]  # who reads need not wait
    store.remove("one")


def test_a_place_that_cannot_be_written_names_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file") as caught:
        filled(Store(tmp_path / "file" / "adapters"), "one")
    assert "ADAPTERS=" in caught.value.fix
