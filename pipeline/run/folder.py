"""The run folder: the interface between stages, with a manifest for each and one lock for all.

    runs/NAME/config.yaml                     resolved: every value that the run used
      dataset/{train,val,holdout,rejected}.jsonl, report.json
      tokens/{train,val,holdout}.arrow, preview.txt
      checkpoints/step-000400/                all that exact resume needs
      adapter/                                PEFT format; probes.json: what the trained model's answers look like
      metrics.jsonl, loss.png, tracker/
      export/                                 merged model; README.md is the model card
      benchmarks/, eval/                      questions and finished measurements; eval.json, eval.md, eval.png
      compare/, judge/, partial/              answers side by side, verdicts; both as they come
      report.html                             `make report`: all of this on one page, to be forwarded

A stage is up to date when the manifest in its folder carries the same key (config values it depends on, hashes of
its input files, results of the stages before it) and its files are there, with their sizes: asking reads no large
file. Their bytes are compared with the manifest where they are used (`Run.check`), and by `make verify`.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.run.errors import UserError
from pipeline.run.files import (
    exclusive,
    read_json,
    recover,
    replace_folder,
    sealed,
    sha256_file,
    sha256_json,
    write_json,
)
from pipeline.run.leftovers import left_over, remove

LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece", "peft", "accelerate", "datasets", "safetensors")

# What later stages see of a stage: its files (all, where none are named), and what its manifest says and no file holds.
# A stage that was made again with another key and gives all this as before makes none of them stale.
PARTS = ("train", "val", "holdout")
SEEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dataset": (tuple(f"{part}.jsonl" for part in PARTS), ("counts.rehearsal",)),
    # Template, rules and end ids shape prompts that are none of these rows: those of the export and of the chat.
    "tokens": (tuple(f"{part}.arrow" for part in PARTS), (
        "key.dataset", "key.prompt.bos", "key.prompt.join", "counts.template", "counts.tokenizer", "counts.end_id",
        "counts.bos_id",
    )),
    "adapter": ((), ("key.tokens", "key.model", "key.base", "key.adapter", "key.train.seed")),
    "export": ((), ("key.adapter",)),
    "compare": (("answers.jsonl",), ()),
}  # fmt: skip
# For people; and what the key says too (peft writes it from a set, in another order each time).
UNSEEN = ("README.md", "probes.json", "adapter_config.json")


@dataclass(frozen=True)
class Run:
    """A run folder on disk. Nothing is created before the first write.

    sources: files that the next stage is made from, with size and hash; `writing` puts them into its manifest.
    """

    root: Path
    sources: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, name: str) -> Run:
        """The folder of a run, under RUNS (default `runs`)."""
        return cls(Path(os.environ.get("RUNS") or "runs") / name)

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote about itself; None when it has not finished, or when that is damaged."""
        found = read_json(self.folder(stage) / "manifest.json")
        whole = isinstance(found, dict) and isinstance(found.get("key"), dict) and isinstance(found.get("files"), dict)
        return found if whole and ("sha256" not in found or sealed(found) == found) else None

    def written(self, stage: str) -> int:
        """When a stage's manifest was written, in nanoseconds since 1970; 0 when there is none."""
        try:
            return (self.folder(stage) / "manifest.json").stat().st_mtime_ns
        except OSError:
            return 0

    def result(self, stage: str) -> str:
        """One hash over what later stages see of a finished one (`SEEN`)."""
        manifest = self.manifest(stage)
        if manifest is None:
            return "missing"
        names, entries = SEEN.get(stage, ((), ()))
        wanted = [name for name in manifest["files"] if name in names or (not names and name not in UNSEEN)]
        hashes = {name: manifest["files"][name]["sha256"] for name in wanted}
        return sha256_json([hashes, {entry: _entry(manifest, entry) for entry in entries}])

    def content(self, stage: str) -> str:
        """One hash over all files of a finished stage: for those that show its reports too."""
        manifest = self.manifest(stage)
        return sha256_json({n: e["sha256"] for n, e in manifest["files"].items()}) if manifest else "missing"

    def is_current(self, stage: str, key: dict[str, Any]) -> bool:
        manifest = self.manifest(stage)
        # The key went through JSON when it was written, which makes lists of tuples.
        wanted = json.loads(json.dumps(key))
        if manifest is None or (manifest["key"] != wanted and manifest["key"] != self._as_before(wanted)):
            return False
        folder = self.folder(stage)
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )

    def _as_before(self, key: dict[str, Any]) -> dict[str, Any]:
        """A key as earlier versions wrote it, where the result of a stage was one hash over its key and its files: what
        was trained with it is not trained again."""
        found = dict(key)
        for name in SEEN:
            if name in found and found[name] == self.result(name) and (manifest := self.manifest(name)):
                found[name] = sha256_json([manifest["key"], manifest["files"]])
        return found

    def check(self, *stages: str, but: str = "") -> None:
        """Compares every file of finished stages with their manifests, byte for byte, before they are used.

        Args:
            but: ending of files that are not read.

        Raises:
            UserError: a file is damaged, was changed, or is gone. It stays as it is.
        """
        for folder, manifest in ((self.folder(stage), self.manifest(stage)) for stage in stages):
            for name, entry in manifest["files"].items() if manifest else ():
                if (but and name.endswith(but)) or not (wrong := difference(folder / name, entry)):
                    continue
                raise UserError(
                    f"{name} is not what was written: {wrong}", str(folder / name),
                    f"put the file back, or remove {folder} and run the same command again, which makes it anew "
                    "(make verify looks at everything)",
                )  # fmt: skip

    def made_from(self, paths: list[Path]) -> Run:
        """The same run, whose next stage records these files as what it was made from."""
        return replace(self, sources={str(p): {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths})

    @contextlib.contextmanager
    def writing(self, stage: str, key: dict[str, Any]) -> Iterator[StageOutput]:
        """Yields where to write a stage's files; the manifest is written last and the folder swapped in whole."""
        started = time.time()
        with replace_folder(self.folder(stage)) as folder:
            output = StageOutput(folder)
            yield output
            files = {
                str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
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
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive(self.root / ".lock", wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"the run folder is in use by process {error}", str(self.root),
                    'wait for it, stop it, or give this run another name (ARGS="name=other")',
                ) from None  # fmt: skip
            for old in self.root.glob(".*.old"):  # a crash fell between two renames
                recover(old.with_name(old.name[1:-4]))
            for half in left_over(self.root):
                remove(half)
            yield

    def sweep(self) -> None:
        """Removes what a killed process left, unless another one is at work or the folder cannot be written."""
        if left_over(self.root):
            with contextlib.suppress(UserError), self.lock():
                pass


@dataclass
class StageOutput:
    """A stage's new folder, and the counts that go into its manifest."""

    folder: Path
    counts: dict[str, Any] = field(default_factory=dict)


def difference(path: Path, entry: dict[str, Any], tell: Callable[[int], Any] | None = None) -> str:
    """In what a file differs from its entry in a manifest (`bytes`, `sha256`); empty when in nothing.

    Args:
        tell: as `sha256_file` has it.
    """
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{size:,} bytes instead of {entry['bytes']:,}"
        return "" if sha256_file(path, tell) == entry["sha256"] else "its bytes have changed (sha256)"
    except OSError as error:
        return "it is gone" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"


def _entry(manifest: dict[str, Any], path: str) -> Any:
    """What stands under a dotted path; None when nothing does."""
    value: Any = manifest
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


@functools.cache
def commit() -> str:
    """Of the checkout that Suri runs from, with `-dirty` where files differ from it; empty when it is none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=quiet)
    except (OSError, subprocess.SubprocessError):
        return ""
    return made.stdout.strip()


def versions() -> dict[str, str]:
    """Of Suri, Python and the libraries that shape results, without importing them."""
    found = {"suri": __version__} | ({"commit": commit()} if commit() else {}) | {"python": platform.python_version()}
    return found | dict(_libraries())


@functools.cache
def _libraries() -> tuple[tuple[str, str], ...]:
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append((name, metadata.version(name)))
    return tuple(found)


def input_hashes(paths: list[Path], manifest: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Size, time and sha256 of input files; a file that looks untouched since `manifest` is not read again."""
    before = (manifest or {}).get("key", {}).get("inputs", {})
    found = {}
    for path in paths:
        stat = path.stat()
        known = before.get(str(path), {})
        same = known.get("bytes") == stat.st_size and known.get("mtime") == stat.st_mtime_ns
        digest = known["sha256"] if same else sha256_file(path)
        # A file whose bytes are the same keeps its old time in the key: a touch alone makes nothing stale.
        mtime = known["mtime"] if digest == known.get("sha256") else stat.st_mtime_ns
        found[str(path)] = {"bytes": stat.st_size, "mtime": mtime, "sha256": digest}
    return found
