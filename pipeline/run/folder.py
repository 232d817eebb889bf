"""The run folder: the interface between stages, with a manifest for each and one lock for all.

    runs/NAME/config.yaml                     resolved: every value that the run used
      cpu_dtype.json                          the type that model.dtype=auto became on a CPU
      dataset/{train,val,holdout,rejected}.jsonl, report.json
      tokens/{train,val,holdout}.arrow, preview.txt
      checkpoints/step-000400/                all that exact resume needs
      adapter/                                PEFT format; probes.json: what the trained model's answers look like
      metrics.jsonl, loss.png, tracker/
      export/                                 merged model; README.md is the model card; adapter/, gguf/ if asked for
      diff/                                   `make diff`: the merged model minus its base
      benchmarks/, eval/                      questions and finished measurements; eval.json, eval.md, eval.png
      compare/, judge/, partial/              answers side by side, verdicts; both as they come
      report/data_report.html                 the data on one page
      run_report.html, run_report.md          `make report`: all of this on one page, and in short as Markdown

A stage is up to date when the manifest in its folder holds the same key (config values it depends on, hashes of its
input files, results of the stages before it) and its files are there with their sizes: asking reads no large file.
Their bytes are compared with the manifest before they are used (`Run.check`), and by `make verify`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.run.errors import UserError
from pipeline.run.files import read_json, replace_folder, sealed, sha256_file, sha256_json, write_json
from pipeline.run.hash_cache import cached_sha256
from pipeline.run.leftovers import half_written, locked
from pipeline.run.next_command import next_command
from pipeline.run.object_store import DataFile, Object, size_of
from pipeline.run.versions import versions

SPLITS = ("train", "val", "holdout")
HELD_OUT = {"val": "held-out rows", "holdout": "tasks never trained on"}  # as tables call them


class Visible(NamedTuple):
    """The part of a stage's result that later stages read.

    files: their names; none = all but `NOT_READ`. facts: dotted paths of manifest entries that no file holds.
    """

    files: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


# By folder. A stage that was made again with another key makes later ones stale only when something of this differs.
VISIBLE = {
    "dataset": Visible(tuple(f"{split}.jsonl" for split in SPLITS), ("counts.rehearsal",)),
    # Template, rules and end ids shape prompts that are none of these rows: those of the export and of the chat.
    "tokens": Visible(tuple(f"{split}.arrow" for split in SPLITS), (
        "key.dataset", "key.prompt.bos", "key.prompt.join", "counts.template", "counts.tokenizer", "counts.end_id",
        "counts.bos_id",
    )),
    "adapter": Visible(facts=("key.tokens", "key.model", "key.base", "key.adapter", "key.train.seed")),
    "export": Visible(facts=("key.adapter",)),
    "compare": Visible(("answers.jsonl",)),
}  # fmt: skip
# Read by people only; adapter_config.json says what the key says (peft writes its sets in another order each time).
NOT_READ = ("README.md", "probes.json", "adapter_config.json")


def runs_folder() -> Path:
    """RUNS (default `runs`), which holds the run folders."""
    return Path(os.environ.get("RUNS") or "runs")


@dataclass(frozen=True)
class Run:
    """A run folder on disk. Nothing is created before the first write.

    sources: files that the next stage is made from, with size and hash; `writing` puts them into its manifest.
    started: when that stage began, in seconds since 1970; its manifest says how long it took. 0: not known.
    """

    root: Path
    sources: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)
    started: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, name: str) -> Run:
        """The folder of a run, under `runs_folder`."""
        return cls(runs_folder() / name)

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote about itself; None when it has not finished, or when that is damaged."""
        value = read_json(self.folder(stage) / "manifest.json")
        whole = isinstance(value, dict) and isinstance(value.get("key"), dict) and isinstance(value.get("files"), dict)
        return value if whole and ("sha256" not in value or sealed(value) == value) else None

    def written(self, stage: str) -> int:
        """When a stage's manifest was written, in nanoseconds since 1970; 0 when there is none."""
        try:
            return (self.folder(stage) / "manifest.json").stat().st_mtime_ns
        except OSError:
            return 0

    def result(self, stage: str) -> str:
        """One hash over what later stages read of a finished one (`VISIBLE`); `missing` when it has not finished."""
        manifest = self.manifest(stage)
        if manifest is None:
            return "missing"
        visible = VISIBLE.get(stage, Visible())
        names = visible.files or [name for name in manifest["files"] if name not in NOT_READ]
        hashes = {name: entry["sha256"] for name, entry in manifest["files"].items() if name in names}
        return sha256_json([hashes, {path: _entry(manifest, path) for path in visible.facts}])

    def content(self, stage: str) -> str:
        """One hash over all files of a finished stage, for stages that show its reports too."""
        manifest = self.manifest(stage)
        return sha256_json({n: e["sha256"] for n, e in manifest["files"].items()}) if manifest else "missing"

    def whole(self, stage: str) -> str:
        """One hash over the key and the files of a finished stage: what keys of the first versions hold of it."""
        manifest = self.manifest(stage)
        return sha256_json([manifest["key"], manifest["files"]]) if manifest else "missing"

    def is_current(self, stage: str, key: dict[str, Any]) -> bool:
        """Whether a stage was made with this key, or with the key that an earlier version wrote for the same inputs,
        and its files are there with their sizes."""
        manifest = self.manifest(stage)
        wanted = _comparable(json.loads(json.dumps(key)))  # as it is read from the manifest: lists, no tuples
        if manifest is None or _comparable(manifest["key"]) not in (wanted, self._with_whole_results(wanted)):
            return False
        folder = self.folder(stage)
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )

    def _with_whole_results(self, key: dict[str, Any]) -> dict[str, Any]:
        """A key as earlier versions wrote it, with `whole` where today's has `result`."""
        results = {name: self.result(name) for name in VISIBLE if name in key}
        return {**key, **{name: self.whole(name) for name, result in results.items() if key[name] == result}}

    def check(self, *stages: str, but: str = "") -> None:
        """Compares every file of finished stages with their manifests, byte for byte, before they are used.

        Args:
            but: ending of files that are not read.

        Raises:
            UserError: a file is damaged, was changed, or is gone. It stays as it is.
        """
        for stage in stages:
            folder, manifest = self.folder(stage), self.manifest(stage)
            for name, entry in manifest["files"].items() if manifest else ():
                if not (but and name.endswith(but)) and (wrong := difference(folder / name, entry)):
                    raise UserError(
                        f"{name} has changed since it was written: {wrong}", str(folder / name),
                        f"put the file back, or remove {folder} and run the same command again, which makes it anew; "
                        f"`{next_command('verify')}` checks all files",
                    )  # fmt: skip

    def made_from(self, paths: list[Path]) -> Run:
        """The same run, whose next stage begins now and records these files as what it was made from."""
        now = time.time()
        return replace(self, sources={str(path): _described(path, sha256_file) for path in paths}, started=now)

    @contextlib.contextmanager
    def writing(self, stage: str, key: dict[str, Any]) -> Iterator[StageOutput]:
        """Yields where to write a stage's files; the manifest is written last and the folder swapped in whole."""
        started = self.started or time.time()
        with replace_folder(self.folder(stage)) as folder:
            output = StageOutput(folder)
            yield output
            files = {
                str(path.relative_to(folder)): _described(path, sha256_file)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            write_json(
                folder / "manifest.json",
                sealed({
                    "stage": stage,
                    "key": key,
                    "counts": output.counts,
                    "files": files,
                    "made_from": self.sources,
                    "seconds": round(time.time() - started, 2),
                    "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "versions": versions(),
                }),
            )  # fmt: skip

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; the kernel lets go of it however the process ends.

        Raises:
            UserError: another live process holds it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.root))
            except BlockingIOError as error:
                fix = "wait for it, stop it, or give this run another name (name=other)"
                raise UserError(f"the run folder is in use by process {error}", str(self.root), fix) from None
            yield

    def sweep(self) -> None:
        """Removes what a killed process left, unless another one is at work or the folder cannot be written."""
        if half_written(self.root):
            with contextlib.suppress(UserError), self.lock():
                pass


@dataclass
class StageOutput:
    """A stage's new folder, and the counts that go into its manifest."""

    folder: Path
    counts: dict[str, Any] = field(default_factory=dict)


def difference(path: DataFile, entry: dict[str, Any], progress: Callable[[int], Any] | None = None) -> str:
    """In what a file or object differs from its entry in a manifest (`bytes`, `sha256`); empty when in nothing.

    Args:
        progress: as for `sha256_file`.
    """
    try:
        size = size_of(path)
        if size != entry["bytes"]:
            return f"{size:,} bytes instead of {entry['bytes']:,}"
        digest = path.sha256(progress) if isinstance(path, Object) else sha256_file(path, progress)
        return "" if digest == entry["sha256"] else "its bytes have changed (sha256)"
    except OSError as error:
        return "it is gone" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"


def _entry(manifest: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; None when there is none."""
    value: Any = manifest
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def input_hashes(paths: Sequence[DataFile]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of input files, for a stage's key; a file that has not changed is not read again."""
    return {str(path): {"bytes": size_of(path), "sha256": cached_sha256(path)} for path in paths}


def _described(path: Path, sha256: Callable[[Path], str]) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _comparable(key: Any) -> Any:
    """A key without the files' times that earlier versions wrote into it."""
    if isinstance(key, dict):
        return {name: _comparable(value) for name, value in key.items() if name != "mtime"}
    return [_comparable(value) for value in key] if isinstance(key, list) else key
