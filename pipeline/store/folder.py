"""The adapter store: one folder per adapter.

    adapters/NAME/adapter_model.safetensors, adapter_config.json     PEFT format: stock `peft` loads it
                  tokenizer.json, chat_template.jinja, README.md     for other programs and readers
                  suri.json                                          the record: base, template, method, results

The store is the folder `adapters`, or the one in the environment variable ADAPTERS. An adapter is written into a
temporary folder that is then renamed, so no file of another adapter is opened for writing. Writers hold the store's
lock; readers need none. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.adapter_name import check, problem
from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, replace_folder, write_json
from pipeline.run.json_file import is_deeper
from pipeline.run.leftovers import locked, remove_whole
from pipeline.run.nearest import nearest
from pipeline.run.next_command import is_suri, program
from pipeline.run.terminal import quoted

RECORD = "suri.json"
LARGEST_RECORD = 4_000_000  # bytes
DEEPEST_RECORD = 50  # levels of nesting; our records have eight
# Keys of every record with their types; other keys are optional.
FIELDS: dict[str, Any] = {
    "method": str, "rank": (int, type(None)), "trained_parameters": int, "template": dict, "prompt": dict,
    "tokenizer": str, "end_id": int, "base": dict, "files": dict, "kept": str,
}  # fmt: skip


def put_in_again(name: str) -> str:
    """The fix where what is stored of an adapter cannot be used."""
    return f"store it again with the config that trained it: make keep ADAPTER={name} REPLACE=yes CONFIG=FILE"


class Unreadable(UserError):
    """The process has no permission to read an adapter, which may be undamaged."""


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
    """A store on disk. The folder is created at the first write."""

    root: Path

    @classmethod
    def here(cls) -> Store:
        """The store under ADAPTERS (default `adapters`)."""
        return cls(Path(os.environ.get("ADAPTERS") or "adapters"))

    @readable()
    def names(self) -> list[str]:
        """Names of all adapters, sorted. Other files in the folder are ignored.

        Raises:
            Unreadable: the store cannot be read.
        """
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if not problem(p.name) and _is_folder(p))

    @readable()
    def folder(self, name: str) -> Path:
        """The folder of an adapter.

        Raises:
            UserError: not a valid name, no such adapter, or not a folder, such as a link out of the store.
        """
        check(name)
        folder = self.root / name
        # Compared with the listing, since a file system that ignores case would also open NAME for name.
        present = {p.name for p in self.root.iterdir()} if self.root.is_dir() else set()
        if name not in present:
            fix = nearest(name, self.names(), f"`{program()} adapters` lists what there is")
            raise UserError(f"no adapter is called {name}", str(self.root), fix)
        if not _is_folder(folder):
            raise UserError(f"{name} is a link or a file, not a folder", str(folder), "remove it: rm " + str(folder))
        return folder

    @readable()
    def record(self, name: str) -> dict[str, Any]:
        """The record of an adapter.

        Raises:
            UserError: as `folder`; the record is missing, damaged, or may not be read.
        """
        path = self.folder(name) / RECORD
        fix = put_in_again(name)
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_RECORD:
            raise UserError(f"the adapter {name} has no record", str(path), fix)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):  # the latter from deep nesting
            record = None
        if not _is_record(record):
            raise UserError(f"the record of the adapter {name} is damaged", str(path), fix)
        return record

    @readable()
    def size(self, name: str) -> int:
        """Bytes on disk."""
        return sum(p.lstat().st_size for p in self.folder(name).iterdir())

    @contextlib.contextmanager
    def writing(self, name: str, replace: bool = False) -> Iterator[Path]:
        """Yields an empty folder that becomes the adapter `name` if the block ends without an error.

        Raises:
            UserError: not a valid name, taken already, the store is in use, or the disk is full.
        """
        check(name)
        with self.lock():
            self.check_free(name, replace)
            with _naming_the_store(), replace_folder(self.root / name) as folder:
                yield folder

    def check_free(self, name: str, replace: bool = False) -> None:
        """Raises:
        UserError: the name is taken, also in other letter case, and `replace` is not set.
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
            fix = f"choose another name, or replace it with {'--replace' if is_suri() else 'REPLACE=yes'}"
            raise UserError(f"the store has an adapter called {name} already", str(path), fix)

    def remove(self, name: str) -> None:
        """Deletes an adapter.

        Raises:
            UserError: as `folder`, or the store is in use.
        """
        if not os.access(self.folder(name), os.R_OK | os.W_OK | os.X_OK):  # before any of its files is deleted
            raise Unreadable("no rights to remove it", str(self.root / name), "change its rights")
        with self.lock(), _naming_the_store(), disk_errors(self.root):
            remove_whole(self.folder(name))

    def add_results(self, name: str, run: str, results: dict[str, Any], files: dict[str, str]) -> None:
        """Adds results on a run's rows to the record; those of other runs stay.

        Measuring takes minutes, in which another process may replace the adapter or add results, so the record is
        read again under the lock.

        Args:
            files: hashes of the measured files, from the record before measuring.

        Raises:
            UserError: as `record`; the adapter was replaced meanwhile; the store is in use.
        """
        with self.lock(), _naming_the_store():
            record = self.record(name)
            if record["files"] != files:
                what = f"the adapter {name} was replaced while it was measured: these results are not recorded"
                raise UserError(what, str(self.root / name), "measure it again: run the same command")
            earlier = record.get("results")
            all_results = {**(earlier if isinstance(earlier, dict) else {}), run: results}
            write_json(self.folder(name) / RECORD, {**record, "results": all_results})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the store for this process; the kernel releases the lock when the process ends.

        Raises:
            UserError: another process holds the lock, or a link is where the store writes.
        """
        with readable():
            entries = list(self.root.iterdir()) if self.root.is_dir() else []
            links = [p for p in entries if p.name.startswith(".") and p.is_symlink()]
        if links:
            what = f"{quoted(links[0].name)} is a link: writing there would leave the store"
            raise UserError(what, str(self.root), "remove it")
        with contextlib.ExitStack() as stack:
            try:
                with _naming_the_store():
                    stack.enter_context(locked(self.root))
            except BlockingIOError as error:
                fix = "wait for it or stop it, then run the same command again"
                raise UserError(f"the adapter store is in use by process {error}", str(self.root), fix) from None
            yield


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or is_deeper(record, DEEPEST_RECORD):
        return False
    if not all(isinstance(record.get(key), kind) for key, kind in FIELDS.items()):
        return False
    texts = [(record["base"], ("hash", "name")), (record["template"], ("id", "hash"))]
    return all(isinstance(part.get(key), str) for part, keys in texts for key in keys)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@contextlib.contextmanager
def _naming_the_store() -> Iterator[None]:
    """Disk errors name ADAPTERS, the variable of the store, instead of RUNS."""
    try:
        yield
    except UserError as error:
        fix = error.fix.replace("run folder", "store").replace("RUNS=", "ADAPTERS=")
        raise UserError(error.what, error.where, fix) from None
