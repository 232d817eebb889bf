"""The data stage in tests: configs, builds that check what must hold after each, and the lines they write."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.dataset import stage
from pipeline.run.errors import UserError
from pipeline.run.folder import Run

Build = Callable[..., dict[str, Any]]


def config_of(*paths: object, template: str = "alpaca", **data: Any) -> Config:
    sources = [_source(path) for path in paths]
    prompt = {"template": template}
    config = {"name": "t", "model": {"base": "x"}, "prompt": prompt, "data": {"sources": sources, **data}}
    return Config.model_validate(config)


def _source(path: object) -> dict[str, Any]:
    return path if isinstance(path, dict) else {"path": str(path)}


def lines_of(run: Run, split: str) -> list[dict[str, Any]]:
    text = (run.folder("dataset") / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "t")


@pytest.fixture
def build(run: Run) -> Build:
    """Builds the data stage and checks what must hold after every build."""

    def building(*paths: object, **data: Any) -> dict[str, Any]:
        stage.build(config_of(*paths, **data), run)
        report: dict[str, Any] = json.loads((run.folder("dataset") / "report.json").read_text(encoding="utf-8"))
        for source in report["sources"]:
            assert source["read"] == source["kept"] + source["rejected"]
            assert source["kept"] == source["train"] + source["val"] + source["holdout"]
        for name in ("read", "kept", "rejected", "train", "val", "holdout"):
            assert sum(source[name] for source in report["sources"]) == report[name]
        repeats = {source["path"]: source.get("repeat", 1) for source in map(_source, paths)}
        for split in ("train", "val", "holdout", "rejected"):
            lines = lines_of(run, split)
            share = [1 / repeats[line["source"]] if split == "train" else 1 for line in lines]
            assert sum(share) == pytest.approx(report[split])
        assert sum(rule["rejected"] for rule in report["rules"]) == report["rejected"]
        assert all(line["reason"] and line["place"] for line in lines_of(run, "rejected"))
        assert [p.name for p in run.root.iterdir()] == ["dataset"]
        return report

    return building


def refused(run: Run, *paths: object, **data: Any) -> str:
    """The message that stops this build; nothing may be left behind."""
    with pytest.raises(UserError) as caught:
        stage.build(config_of(*paths, **data), run)
    assert caught.value.where
    assert caught.value.fix
    assert not run.root.exists() or list(run.root.iterdir()) == []
    return str(caught.value)


def rules_of(report: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {r["rule"]: (r["rejected"], r["fixed"], r["flagged"]) for r in report["rules"]}


def story(number: int, words: int = 30) -> dict[str, str]:
    return {"instruction": f"Tell story {number}.", "output": " ".join(f"word{number}x{i}" for i in range(words))}


class Shift:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 7:
            time.sleep(0.05)  # a slow item must not be overtaken
        if item == 99:
            raise UserError("no 99", "item 99", "leave it out")
        if item == 66:
            os.kill(os.getpid(), signal.SIGKILL)
        return item + self.by, os.getpid()
