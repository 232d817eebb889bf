"""Hub data sets and data folders, through the library `datasets`.

`datasets` finds the files of a folder, since it knows the names of splits; they are then read here, so that a bad row
is rejected alone and has a line. It reads only files other than JSON, CSV, Parquet and Arrow. Hub data sets are
downloaded once and then memory-mapped: streaming would fetch them again for each build.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.read.columnar import BATCH, from_batches
from pipeline.dataset.read.row import RawRow
from pipeline.run.errors import UserError, one_line
from pipeline.run.nearest import closest
from pipeline.run.progress import say

OURS = ("json", "csv", "parquet", "arrow")  # loaders of `datasets` whose files are read here
COMMIT = re.compile(r"hf://datasets/[^@]+@([0-9a-f]{40})/")
ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz")


def split_files(source: Source) -> list[Path] | None:
    """The files of the folder that belong to the split, or None if `datasets` must read the folder.

    Raises:
        UserError: the folder holds no data, or not this split.
    """
    folder = Path(source.path)
    if _is_saved(folder):
        return None
    import datasets

    fix = "the folder must hold data files that `datasets.load_dataset` reads"
    # Nothing is cached by this, but the builder needs a folder for its lock.
    with _load_errors(source, fix), tempfile.TemporaryDirectory() as cache:
        builder = datasets.load_dataset_builder(source.path, name=source.subset or None, cache_dir=cache)
    files = builder.config.data_files or {}
    if builder.__class__.__module__.rsplit(".", 1)[-1] not in OURS:
        return None
    _check_split(source, files)
    if builder.config.name == "default":  # otherwise the folder's README says what belongs to what
        in_splits = {Path(str(file)).resolve() for split in files.values() for file in split}
        data = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in ENDINGS and p.resolve() not in in_splits]
        if others := [str(p) for p in data if not p.name.startswith(".")]:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            say(f"data: {folder}: these files belong to no split and are not read: {', '.join(others[:5])}{more}")
    return sorted(Path(str(file)) for file in files[source.split])


def loaded(source: Source, kind: str) -> Iterator[RawRow]:
    """Rows of a hub data set, of a folder written by `save_to_disk`, or of one whose files only `datasets` can read.

    Raises:
        UserError: it cannot be loaded, or has no such split.
    """
    import datasets

    datasets.disable_progress_bars()
    fix = "check the id and the network, or download it and give the file's path"
    if kind == "folder":
        fix = "the folder must hold data files that `datasets.load_dataset` reads"
    with _load_errors(source, fix):
        if kind == "folder" and _is_saved(Path(source.path)):
            data = datasets.load_from_disk(source.path)
        else:
            data = datasets.load_dataset(source.path, name=source.subset or None, revision=source.revision or None)
    if isinstance(data, Mapping):
        _check_split(source, data)
        data = data[source.split]
    name, commit = source.path, _commit(data) if kind == "hub" else ""
    if commit:
        name = f"{name}@{commit[:10]}"
        keep = "" if source.revision else "; `revision:` keeps it"
        say(f"data: {source.path} is read at commit {commit}{keep}")
    # As Arrow: `datasets` would decode pictures and sounds, for which it needs more packages.
    batches = data.with_format("arrow").iter(BATCH)
    try:
        yield from from_batches(batches, list(data.column_names), name, source)
    except OSError as error:
        raise UserError(f"the data set cannot be read: {error}", source.path, fix) from None


def _commit(data: Any) -> str:
    """The commit of the repository, from the addresses of its files; empty if they do not contain it."""
    for address in getattr(data.info, "download_checksums", None) or {}:
        if match := COMMIT.match(str(address)):
            return match[1]
    return ""


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _check_split(source: Source, splits: Mapping[Any, Any]) -> None:
    names = [str(name) for name in splits]
    if source.split not in names:
        near = closest(source.split, names) or names or ["?"]
        fix = f"set split: {near[0]}, or name the files themselves, for instance by a glob"
        raise UserError(f"no split {source.split!r}; there are: {', '.join(names) or 'none'}", source.path, fix)


@contextlib.contextmanager
def _load_errors(source: Source, fix: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises some twenty kinds; all mean that it cannot be loaded
        message = one_line(error)
        if "Config name is missing" in message or "BuilderConfig" in message:
            fix = "name one of them: subset: ..."
        raise UserError(f"cannot load the data set {source.path!r}: {message}", "data.sources", fix) from None
