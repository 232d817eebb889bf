"""`make verify`: the files of a run folder, what they were made from, and its checkpoints, all hashed anew.

Neither times nor hashes of an earlier command are trusted, so a change of one bit is noticed in data and bases too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import byte_bar, read_json, sealed
from pipeline.run.folder import VISIBLE, Run, difference
from pipeline.run.next_command import next_command
from pipeline.run.object_address import is_address
from pipeline.run.object_store import DataFile, described
from pipeline.run.progress import say

Entries = dict[DataFile, dict[str, Any]]  # `bytes` and `sha256` of files


@dataclass
class Item:
    """A stage or a checkpoint.

    own, sources: its files, and those outside the run that it was made from. wrong: a line for each that differs.
    """

    name: str
    own: Entries = field(default_factory=dict)
    sources: Entries = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def size(self) -> int:
        return sum(int(entry["bytes"]) for entry in (*self.own.values(), *self.sources.values()))

    def compare(self, progress: Callable[[int], Any]) -> None:
        """Hashes the files and fills `wrong`."""
        for files in (self.own, self.sources):
            for path, entry in files.items():
                if wrong := difference(path, entry, progress):
                    self.wrong.append(f"{path}: {wrong}")

    def line(self) -> str:
        """The item's line of the output."""
        if not self.own and not self.wrong:
            return f"{self.name:12} {self.note}"
        count = f"{len(self.own)} files, and {len(self.sources)} that they were made from"
        state = f"{len(self.wrong)} CHANGED" if self.wrong else "unchanged"
        return f"{self.name:12} {state} ({count})" + (f"; {self.note}" if self.note else "")


def verify(run: Run, stages: Sequence[tuple[str, str]]) -> None:
    """Prints a line for each stage and each checkpoint.

    Args:
        stages: name and folder of each, in order.

    Raises:
        UserError: nothing was made yet; or files are not what was written, each of which is named.
    """
    items = [_stage(run, name, folder) for name, folder in stages] + list(_checkpoints(run))
    if not any(item.own or item.wrong for item in items):
        fix = f"`{next_command('data')}`, then this command again"
        raise UserError("nothing was made in this run folder yet", str(run.root), fix)
    with byte_bar(sum(item.size for item in items), "verify") as progress:
        for item in items:
            item.compare(progress.update)
    for item in items:
        say("\n    ".join([item.line(), *item.wrong]))
    if wrong := [line for item in items for line in item.wrong]:
        raise UserError(
            f"{len(wrong)} files have changed since the run wrote them:\n  " + "\n  ".join(wrong), str(run.root),
            "put the files back, or remove the folders of the damaged stages and run their commands again; nothing was "
            "removed",
        )  # fmt: skip


def _stage(run: Run, name: str, folder: str) -> Item:
    item, manifest = Item(name), run.manifest(folder)
    if manifest is None:
        item.note = "not made yet"
        if (run.folder(folder) / "manifest.json").is_file():
            item.wrong.append(f"{run.folder(folder) / 'manifest.json'}: damaged, so nothing is known of the others")
        return item
    item.own = {run.folder(folder) / name: entry for name, entry in _entries(manifest["files"]).items()}
    recorded = {**dict(_inputs(manifest["key"])), **_entries(manifest.get("made_from"))}
    for name, entry in recorded.items():
        try:
            item.sources[described(name) if is_address(name) else Path(name)] = entry
        except UserError as error:
            item.wrong.append(f"{name}: {error.what}")
    before = [stage for stage in VISIBLE if isinstance(manifest["key"].get(stage), str)]
    old = [s for s in before if manifest["key"][s] not in (run.result(s), run.content(s))]
    item.note = f"made from another result of {', '.join(old)} than is there now" if old else ""
    return item


def _entries(files: Any) -> dict[str, dict[str, Any]]:
    """Those of a table of files that say size and hash."""
    table = files if isinstance(files, dict) else {}
    return {str(n): e for n, e in table.items() if isinstance(e, dict) and {"bytes", "sha256"} <= e.keys()}


def _inputs(key: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files named under `inputs`, wherever in a stage's key."""
    for name, value in key.items() if isinstance(key, dict) else ():
        yield from _entries(value).items() if name == "inputs" else _inputs(value)


def _checkpoints(run: Run) -> Iterator[Item]:
    """Those whose state.json holds hashes of their files."""
    for path in sorted(run.folder("checkpoints").rglob("step-*/state.json")):
        state = read_json(path)
        files = state.get("files") if isinstance(state, dict) else None
        item = Item(path.parent.name)
        if not isinstance(state, dict) or ("sha256" in state and sealed(state) != state):
            item.wrong.append(f"{path}: damaged")
        for name, digest in files.items() if isinstance(files, dict) else ():
            there = path.parent / name
            item.own[there] = {"bytes": there.stat().st_size if there.is_file() else 0, "sha256": digest}
        item.note = "" if item.own else "a checkpoint without hashes"
        yield item
