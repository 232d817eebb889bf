"""What a run folder holds, at any stage of the run: every part is optional, and nothing is computed but counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.data_report.numbers import gather
from pipeline.model.card import base_name
from pipeline.pages.phrases import Phrase, labelled, phrase
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.yaml_text import parsed
from pipeline.training import metrics

# folder, name, the command that makes it
STAGES = (
    ("dataset", "data", "make data"),
    ("tokens", "tokens", "make data"),
    ("adapter", "training", "make train"),
    ("export", "export, measured", "make export"),
    ("eval", "benchmarks", "make eval"),
    ("compare", "base and tuned side by side", "make compare"),
    ("judge", "answers judged in pairs", "make judge"),
)
COMMANDS = {folder: command for folder, _, command in STAGES}
# The key of a stage holds the result of this earlier stage, under its folder's name.
BEFORE = {"tokens": "dataset", "adapter": "tokens", "export": "adapter", "eval": "export", "compare": "export",
          "judge": "compare"}  # fmt: skip
NUMBERS = ("flow", "sources", "rules", "lengths", "languages", "tasks", "groups", "mix")  # that the page draws


@dataclass(frozen=True)
class Contents:
    """All that the run report shows.

    Attributes:
        config: the run's own; the one given now where the run's file is not `readable`. text: of that file.
        differs: keys whose value in the config given now is another, with (the run's value, the value now).
        data: numbers of the data report. old: reasons by folder, for results of stages that are stale.
    """

    run: Run
    config: Config
    text: str = ""
    readable: bool = True
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    manifests: Mapping[str, Any] = field(default_factory=dict)
    old: Mapping[str, Phrase] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    eval: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)

    def counts(self, folder: str) -> dict[str, Any]:
        """Counts in the manifest of a stage."""
        return dict((self.manifests.get(folder) or {}).get("counts") or {})

    @property
    def base(self) -> str:
        """Name of the base without folders of this machine, also where the base is no longer there."""
        try:
            return base_name(self.config.model) or "random weights"
        except UserError:
            return Path(self.config.model.base).name

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each stage took, as its manifest says. A stage that was stopped and went on counts its last
        call; training counts all steps."""
        known = {folder: (self.manifests.get(folder) or {}).get("seconds") for folder, _, _ in STAGES}
        seconds = {folder: float(value) for folder, value in known.items() if isinstance(value, (int, float))}
        trained = self.counts("adapter").get("train_seconds")
        if "adapter" in seconds and isinstance(trained, (int, float)):
            seconds["adapter"] = max(seconds["adapter"], float(trained))
        return seconds

    def trained_with(self, key: str) -> Any:
        """A value of the section `train` that the adapter was trained with."""
        manifest = self.manifests.get("adapter") or {"key": {}}
        return (manifest["key"].get("train") or {}).get(key)

    def has(self, folder: str) -> bool:
        if folder in ("eval", "judge"):
            return bool(getattr(self, folder))
        return self.manifests.get(folder) is not None or (folder == "compare" and self.run.folder(folder).is_dir())

    @property
    def judged(self) -> dict[str, Any]:
        """The judge's win rate over all questions; empty where there is none."""
        win_rate = self.judge.get("win_rate")
        whole = isinstance(win_rate, dict) and isinstance(win_rate.get("win_rate"), (int, float))
        return win_rate if isinstance(win_rate, dict) and whole else {}

    def missing(self, folder: str, key: str) -> Phrase:
        """The sentence for a result that is not there. key: of the text that begins it."""
        return phrase("not-yet", what=phrase(key), command=f"`{COMMANDS[folder]} CONFIG=...`")


def read(given: Config, run: Run) -> Contents:
    """Reads the run folder.

    Raises:
        UserError: there is no such folder, or nothing in it.
    """
    manifests = {folder: run.manifest(folder) for folder, _, _ in STAGES}
    if not any(manifests.values()):
        fix = f"`{next_command('data')}`, then this command again"
        raise UserError("nothing was made in this run folder yet", str(run.root), fix)
    config, text, readable, differs = _config(given, run)
    return Contents(
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
    value = read_json(run.folder(folder) / name)
    return value if isinstance(value, dict) else {}


def _config(given: Config, run: Run) -> tuple[Config, str, bool, dict[str, tuple[Any, Any]]]:
    """The run's config, its text, whether it can be read, and the keys in which the given one differs."""
    path = run.root / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        written = parsed(text)[1]
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return given, "", False, {}
    try:
        config, readable = load(path, [], False), True
    except UserError:  # written by another version
        config, readable = given, False
    now, then = _flat(given.model_dump(mode="json")), _flat(written if isinstance(written, dict) else {})
    both = [key for key in now if key in then and now[key] != then[key]]
    return config, text, readable, {key: (then[key], now[key]) for key in both}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _data(config: Config, run: Run) -> dict[str, Any]:
    """The numbers of the data report: from its file where it is of these data, else counted now."""
    manifest = run.manifest("report")
    numbers = read_json(run.folder("report") / "report.json")
    is_current = manifest is not None and all(
        manifest["key"].get(folder) == run.content(folder) for folder in ("dataset", "tokens")
    )
    if is_current and isinstance(numbers, dict) and all(name in numbers for name in NUMBERS):
        return numbers
    return gather(run, config.name, config.data.seed, config.prompt.cutoff).numbers


def _old(run: Run, manifests: Mapping[str, Any]) -> dict[str, Phrase]:
    """Reasons for each stage whose key names another result of the stage before it than the present one."""
    reasons: dict[str, Phrase] = {}
    names = {folder: name for folder, name, _ in STAGES}
    for folder, before in BEFORE.items():
        manifest = manifests.get(folder)
        made_from = manifest["key"].get(before) if manifest else None
        if made_from is not None and made_from != run.result(before):
            key = "stale-others" if manifests.get(before) else "stale-gone"
            reasons[folder] = phrase(key, before=labelled(names[before]))
    return reasons
