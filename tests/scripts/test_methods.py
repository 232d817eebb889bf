"""`make methods`: the table of methods, run after run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.benchmarks import methods as script
from tests.helpers.tiny import make_config


def test_the_table_goes_on_where_it_was_stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make methods`: a finished variant is not started again, a failed one is left out, and the time is said."""
    monkeypatch.setenv("RUNS", str(tmp_path))
    finished, code = {"ia3"}, {"norms": 1}
    configs = {name: make_config(tmp_path, base, f"name={name}") for name in ("lora", "ia3", "norms")}
    monkeypatch.setattr(script, "stale", lambda config, _: [] if config.name in finished else ["train"])
    started: list[str] = []

    def process(command: list[str], check: bool) -> Any:
        started.append(command[0])
        finished.add(command[0])
        return SimpleNamespace(returncode=code.get(command[0], 0))

    monkeypatch.setattr(script.subprocess, "run", process)
    runs = script.run_all(configs, {name: [name] for name in configs})
    assert started == ["lora", "norms"]
    assert list(runs) == ["lora", "ia3"]
    said = capsys.readouterr().out
    assert "finished before: ia3\n--- lora, 1 of 2\n--- lora: 0 s; the other 1: about 0 min\n" in said
    assert "norms failed" in said
