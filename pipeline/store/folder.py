"""The adapter store: many tasks on one base, a folder each.

    adapters/NAME/adapter_model.safetensors, adapter_config.json     PEFT format: stock `peft` loads it
                  tokenizer.json, chat_template.jinja, README.md     for other programs and readers
                  suri.json                                          its record: base, template, method, results

The folder of the store is `adapters`, or what the environment variable ADAPTERS names. An adapter is written into a
folder of its own and renamed into place: no other adapter's file is opened for writing, ever. Whoever writes holds the
store's lock; readers need none. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.adapter_name import check, problem
from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, exclusive, recover, replace_folder, write_json
from pipeline.run.json_file import is_deeper
from pipeline.run.nearest import nearest
from pipeline.run.terminal import quoted

RECORD = "suri.json"
LARGEST_RECORD = 4_000_000  # bytes
DEEPEST_RECORD = 50  # what stands inside what; ours has eight
# What every record holds, and of which kind; the rest may be absent.
FIELDS: dict[str, Any] = {
    "method": str, "rank": (int, type(None)), "trained_parameters": int, "template": dict, "prompt": dict,
    "tokenizer": str, "end_id": int, "base": dict, "files": dict, "kept": str,
}  # fmt: skip


class Unreadable(UserError):
    """There are no rights to read what is there: nothing is known to be wrong with it."""


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raises:
    Unreadable: in place of PermissionError.
    """
    try:
        yield
    except PermissionError as error:
        fix = "change its rights, or choose another store with ADAPTERS=..."
        raise Unreadable(f"cannot be read: {error.strerror}", str(error.filename or ""), fix) from None


@dataclass(frozen=True)
class Store:
    """A store on disk. Nothing is created before the first write."""

    root: Path

    @classmethod
    def here(cls) -> Store:
        """The store under ADAPTERS (default `adapters`)."""
        return cls(Path(os.environ.get("ADAPTERS") or "adapters"))

    @readable()
    def names(self) -> list[str]:
        """Of all adapters, in alphabetical order. What else lies in the folder is not looked at.

        Raises:
            Unreadable: the store.
        """
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if not problem(p.name) and _is_folder(p))

    @readable()
    def folder(self, name: str) -> Path:
        """Where an adapter lies.

        Raises:
            UserError: not a name, no such adapter, or something else than a folder, such as a link out of the store.
        """
        check(name)
        found = self.root / name
        # Read from the listing: a file system that takes no notice of case would also open NAME for name.
        there = {p.name for p in self.root.iterdir()} if self.root.is_dir() else set()
        if name not in there:
            fix = nearest(name, self.names(), "`make adapters` lists what there is")
            raise UserError(f"no adapter is called {name}", str(self.root), fix)
        if not _is_folder(found):
            raise UserError(f"{name} is a link or a file, not a folder", str(found), "remove it: rm " + str(found))
        return found

    @readable()
    def record(self, name: str) -> dict[str, Any]:
        """What is known of an adapter.

        Raises:
            UserError: as `folder`; the record is missing, damaged, or may not be read.
        """
        path = self.folder(name) / RECORD
        fix = "put the adapter in again: make keep ADAPTER=... REPLACE=yes CONFIG=..."
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_RECORD:
            raise UserError(f"the adapter {name} has no record", str(path), fix)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):  # the latter: brackets without end
            found = None
        if (
            not isinstance(found, dict)
            or is_deeper(found, DEEPEST_RECORD)
            or not all(isinstance(found.get(k), kind) for k, kind in FIELDS.items())
        ):
            raise UserError(f"the record of the adapter {name} is damaged", str(path), fix)
        inner = [(found["base"], ("hash", "name")), (found["template"], ("id", "hash"))]
        if not all(isinstance(part.get(key), str) for part, keys in inner for key in keys):
            raise UserError(f"the record of the adapter {name} is damaged", str(path), fix)
        return found

    @readable()
    def size(self, name: str) -> int:
        """Bytes on disk."""
        return sum(p.lstat().st_size for p in self.folder(name).iterdir())

    @contextlib.contextmanager
    def writing(self, name: str, replace: bool = False) -> Iterator[Path]:
        """Yields an empty folder that becomes the adapter `name` when the block ends without an error.

        Raises:
            UserError: not a name, taken already, the store is in use, or the disk is full.
        """
        check(name)
        with self.lock():
            self.check_free(name, replace)
            with _own_words(), replace_folder(self.root / name) as folder:
                yield folder

    def check_free(self, name: str, replace: bool = False) -> None:
        """Raises:
        UserError: the name is taken, also by one in other letter case, and shall not be replaced.
        """
        check(name)
        for other in self.names():
            if other != name and other.lower() == name.lower():
                what = f"the store has {other}, which differs from {name} in letter case alone"
                raise UserError(what, str(self.root), "choose another name: some file systems take the two for one")
        path = self.root / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError(f"{name} is a link or a file, not a folder", str(path), "remove it: rm " + str(path))
        if path.exists() and not replace:
            fix = "choose another name, or put REPLACE=yes behind the command"
            raise UserError(f"the store has an adapter called {name} already", str(path), fix)

    def remove(self, name: str) -> None:
        """Takes an adapter out; the others stay as they are.

        Raises:
            UserError: as `folder`, or the store is in use.
        """
        if not os.access(self.folder(name), os.R_OK | os.W_OK | os.X_OK):  # else half of it would stay behind
            raise Unreadable("no rights to remove it", str(self.root / name), "change its rights")
        with self.lock(), _own_words(), disk_errors(self.root):
            gone = self.root / f".{name}.tmp"
            os.replace(self.folder(name), gone)
            shutil.rmtree(gone)

    def add_results(self, name: str, run: str, found: dict[str, Any], files: dict[str, str]) -> None:
        """Puts what was measured on a run's rows beside the results of other runs.

        Measuring takes minutes, in which another process may replace the adapter or add results of its own, so both
        are looked at under the lock.

        Args:
            files: hashes of the files that were measured, as in the record at that time.

        Raises:
            UserError: as `record`; the adapter is another one by now; the store is in use.
        """
        with self.lock(), _own_words():
            record = self.record(name)
            if record["files"] != files:
                what = f"the adapter {name} was replaced while it was measured: these results are not recorded"
                raise UserError(what, str(self.root / name), f"measure it again: make adapters MEASURE={name}")
            before = record.get("results")
            results = {**(before if isinstance(before, dict) else {}), run: found}
            write_json(self.folder(name) / RECORD, {**record, "results": results})

    def note(self, name: str, **values: Any) -> None:
        """Puts values into an adapter's record in one step; its weights are not touched.

        Raises:
            UserError: as `record`, or the store is in use.
        """
        with self.lock(), _own_words():
            write_json(self.folder(name) / RECORD, {**self.record(name), **values})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the store for this process; the kernel lets go of it however the process ends.

        Raises:
            UserError: another live process holds it, or links are where the store writes.
        """
        with readable():
            there = list(self.root.iterdir()) if self.root.is_dir() else []
            links = [p for p in there if p.name.startswith(".") and p.is_symlink()]
        if links:
            what = f"{quoted(links[0].name)} is a link: writing there would leave the store"
            raise UserError(what, str(self.root), "remove it")
        with contextlib.ExitStack() as held:
            try:
                with _own_words():
                    held.enter_context(exclusive(self.root / ".lock", wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"the adapter store is in use by process {error}", str(self.root),
                    "wait for it or stop it, then run the same command again",
                ) from None  # fmt: skip
            for old in self.root.glob(".*.old"):  # a crash fell between two renames
                recover(old.with_name(old.name[1:-4]))
            for half in self.root.glob(".*.tmp"):  # of a process that was killed
                shutil.rmtree(half, ignore_errors=True)
            yield


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """Errors of the disk name the store's variable, not the run folder's."""
    try:
        yield
    except UserError as error:
        fix = error.fix.replace("run folder", "store").replace("RUNS=", "ADAPTERS=")
        raise UserError(error.what, error.where, fix) from None
