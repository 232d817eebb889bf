"""What lies in a run folder, at whatever stage it is: all of it optional, nothing made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.data_report.numbers import gather
from pipeline.release.card import base_name
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.yaml_text import parsed
from pipeline.training import metrics

# folder, what it is, the command that makes it
PARTS = (
    ("dataset", "data", "make data"),
    ("tokens", "tokens", "make data"),
    ("adapter", "training", "make train"),
    ("export", "export, measured", "make export"),
    ("eval", "benchmarks", "make eval"),
    ("compare", "base and tuned side by side", "make compare"),
    ("judge", "answers judged in pairs", "make judge"),
)
COMMANDS = {folder: command for folder, _, command in PARTS}
# A stage's key holds the result of the one before it under this name.
BEFORE = {"tokens": "dataset", "adapter": "tokens", "export": "adapter", "eval": "export", "compare": "export",
          "judge": "compare"}  # fmt: skip
NUMBERS = ("flow", "sources", "rules", "lengths", "languages", "tasks", "groups", "mix")  # that the page draws


@dataclass(frozen=True)
class Parts:
    """config: that the run was made with; where its file is not `readable`, the one given now. text: of that file.
    differs: keys in which the config given now says something else, with both values. data: numbers of the data
    report. old: parts that were made from what is no longer there, with why."""

    run: Run
    config: Config
    text: str = ""
    readable: bool = True
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    manifests: Mapping[str, Any] = field(default_factory=dict)
    old: Mapping[str, str] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    eval: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)

    def counts(self, folder: str) -> dict[str, Any]:
        """Of a stage's manifest."""
        return dict((self.manifests.get(folder) or {}).get("counts") or {})

    @property
    def base(self) -> str:
        """The base as it may be named elsewhere, though it be gone from this machine."""
        try:
            return base_name(self.config) or "random weights"
        except UserError:
            return Path(self.config.model.base).name

    def trained_with(self, key: str) -> Any:
        """A value of the section `train` as the training's manifest has it."""
        manifest = self.manifests.get("adapter") or {"key": {}}
        return (manifest["key"].get("train") or {}).get(key)

    def has(self, folder: str) -> bool:
        if folder in ("eval", "judge"):
            return bool(getattr(self, folder))
        return self.manifests.get(folder) is not None or (folder == "compare" and self.run.folder(folder).is_dir())

    @property
    def judged(self) -> dict[str, Any]:
        """The judge's counts over all questions; empty where there are none."""
        found = self.judge.get("win_rate")
        whole = isinstance(found, dict) and isinstance(found.get("win_rate"), (int, float))
        return found if isinstance(found, dict) and whole else {}

    def missing(self, folder: str, what: str) -> str:
        """The sentence for a part that is not there."""
        return f"{what} yet: <code>{COMMANDS[folder]} CONFIG=...</code> makes this part."


def read(given: Config, run: Run) -> Parts:
    """Reads the run folder.

    Raises:
        UserError: there is no such folder, or nothing in it.
    """
    manifests = {folder: run.manifest(folder) for folder, _, _ in PARTS}
    if not any(manifests.values()):
        raise UserError("nothing was made in this run folder yet", str(run.root), "make data, then make report again")
    config, text, readable, differs = _config(given, run)
    return Parts(
        run=run,
        config=config,
        text=text,
        readable=readable,
        differs=differs,
        data=_data(config, run) if manifests["dataset"] else None,
        manifests=manifests,
        old=_old(run, manifests),
        metrics=metrics.read(run.root / "metrics.jsonl"),
        adapter=_table(run, "adapter", "suri.json"),
        probes=_table(run, "adapter", "probes.json"),
        results=_table(run, "export", "results.json"),
        checks=_table(run, "export", "suri.json").get("checks") or {},
        eval=_table(run, "eval", "eval.json"),
        judge=_table(run, "judge", "judge.json"),
    )


def _table(run: Run, folder: str, name: str) -> dict[str, Any]:
    found = read_json(run.folder(folder) / name)
    return found if isinstance(found, dict) else {}


def _config(given: Config, run: Run) -> tuple[Config, str, bool, dict[str, tuple[Any, Any]]]:
    """The config that the folder was made with, its text, whether it can be read, and in what the given one differs."""
    path = run.root / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        written = parsed(text)[1]
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return given, "", False, {}
    try:
        config, readable = load(path, [], False), True
    except UserError:  # of another version
        config, readable = given, False
    now, then = _flat(given.model_dump(mode="json")), _flat(written if isinstance(written, dict) else {})
    both = [key for key in now if key in then and now[key] != then[key]]
    return config, text, readable, {key: (then[key], now[key]) for key in both}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def _data(config: Config, run: Run) -> dict[str, Any]:
    """The data report's numbers: its own where it is of these data, else counted now."""
    made = run.manifest("report")
    numbers = read_json(run.folder("report") / "report.json")
    same = made is not None and all(made["key"].get(part) == run.content(part) for part in ("dataset", "tokens"))
    if same and isinstance(numbers, dict) and all(name in numbers for name in NUMBERS):
        return numbers
    return gather(config, run).numbers


def _old(run: Run, manifests: Mapping[str, Any]) -> dict[str, str]:
    """Parts whose key names another result of the part before than the one that is there."""
    found = {}
    names = {folder: what for folder, what, _ in PARTS}
    for folder, before in BEFORE.items():
        manifest = manifests.get(folder)
        of = manifest["key"].get(before) if manifest else None
        if of is not None and of != run.result(before):
            there = "others are there now" if manifests.get(before) else "they are gone"
            found[folder] = f"made from an earlier result of {names[before]}; {there}"
    return found
