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
its input files, results of the stages before it) and its files are there.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.files import (
    exclusive,
    read_json,
    recover,
    replace_folder,
    sha256_file,
    sha256_json,
    write_json,
)

LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece", "peft", "accelerate", "datasets", "safetensors")


@dataclass(frozen=True)
class Run:
    """A run folder on disk. Nothing is created before the first write."""

    root: Path

    @classmethod
    def of(cls, name: str) -> Run:
        """The folder of a run, under RUNS (default `runs`)."""
        return cls(Path(os.environ.get("RUNS") or "runs") / name)

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote about itself; None when it has not finished."""
        found = read_json(self.folder(stage) / "manifest.json")
        whole = isinstance(found, dict) and isinstance(found.get("key"), dict) and isinstance(found.get("files"), dict)
        return found if whole else None

    def result(self, stage: str) -> str:
        """One hash over all that a finished stage produced."""
        manifest = self.manifest(stage)
        return sha256_json([manifest["key"], manifest["files"]]) if manifest else "missing"

    def is_current(self, stage: str, key: dict[str, Any]) -> bool:
        manifest = self.manifest(stage)
        # The key went through JSON when it was written, which makes lists of tuples.
        if manifest is None or manifest["key"] != json.loads(json.dumps(key)):
            return False
        folder = self.folder(stage)
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )

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
                {
                    "stage": stage,
                    "key": key,
                    "counts": output.counts,
                    "files": files,
                    "seconds": round(time.time() - started, 2),
                    "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "versions": versions(),
                },
            )

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
            yield


@dataclass
class StageOutput:
    """A stage's new folder, and the counts that go into its manifest."""

    folder: Path
    counts: dict[str, Any] = field(default_factory=dict)


@functools.cache
def commit() -> str:
    """Of the checkout that Suri runs from, with `-dirty` where files differ from it; empty when it is none."""
    root = Path(__file__).parents[1]
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
