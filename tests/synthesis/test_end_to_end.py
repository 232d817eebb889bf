"""From a teacher to an export: what is made again when something changes, and where the rows are."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.demo import words
from pipeline.run.folder import Run
from pipeline.synthesis import local_teacher
from pipeline.synthesis.request import Reply, Request
from tests.helpers.tiny import HEAVY

ROOT = Path(__file__).parents[2]
WORDS = sorted(
    {
        word
        for value in vars(words).values()
        if isinstance(value, (tuple, list))
        for word in value
        if isinstance(word, str)
    }
)


def tasks(request: Request) -> str:
    """Two tasks that no other request is answered with."""
    chance = random.Random(request.key)
    made = []
    for _ in range(2):
        chosen = chance.sample(WORDS, 7)
        made.append(
            {"instruction": f"Put the words in order: {', '.join(chosen)}", "input": "", "output": " ".join(chosen)}
        )
    return json.dumps({"tasks": made})


class Scripted:
    """In place of the generation of a local teacher. asked: its requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Request] = []
        monkeypatch.setattr(local_teacher.LocalTeacher, "_answer", lambda _, requests: [*map(self.reply, requests)])

    def reply(self, request: Request) -> Reply:
        self.asked.append(request)
        return Reply(
            tasks(request), model="tiny", prompt_tokens=9, completion_tokens=9, time="2026-01-01T00:00:00+00:00"
        )


def make_config(folder: Path, base: Path, *overrides: str) -> Config:
    seeds = folder / "seeds.jsonl"
    rows = ({"instruction": f"Seed {n}?", "input": "", "output": "Yes.", "task": "chat"} for n in range(4))
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "made.yaml"
    path.write_text(
        f"""
name: made
model: {{base: {base}, dtype: fp32}}
synthesis:
  method: self-instruct
  seeds: [{seeds}]
  rows: 16
  tasks_per_prompt: 2
  teacher: {{kind: local, model: {base}, terms: none, parallel: 4}}
data: {{sources: [{{path: runs/made/generated}}], val: 2}}
prompt: {{template: alpaca-short, cutoff: 200}}
adapter: {{r: 4, alpha: 8, targets: [q_proj, v_proj]}}
train: {{batch_size: 8, max_steps: 4, lr: 5e-2, warmup: 1, tracker: none}}
eval: {{rows: 2, max_new_tokens: 4, prompts: [Say hello.], known: none, general_windows: 2}}
export: {{min_eos: 0}}
"""
    )
    return load(path, overrides)


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setenv("RUNS", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(local_teacher, "TICK", 0.0)
    return Scripted(monkeypatch)


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder("generated") / "rows.jsonl").read_text().splitlines()]


def test_one_config_generates_trains_and_exports(base: Path, tmp_path: Path, teacher: Scripted) -> None:
    config = make_config(tmp_path, base)
    run = Run.of("made")
    assert run.root == tmp_path / "elsewhere" / "made"
    assert stages.stale(config, run) == ["generate", "data", "tokens", "train", "export"]
    stages.bring_up_to_date(config, run, "export")
    rows = rows_of(run)
    assert len({row["instruction"] for row in rows}) == len(rows) == 16
    assert (run.folder("export") / "model.safetensors").is_file()
    counts = (run.manifest("dataset") or {})["counts"]
    assert counts["train"] + counts["val"] == 16
    assert stages.stale(config, run) == []
    _is_up_to_date_without_torch(tmp_path)

    # A key of the generation makes all again; what the journal holds is not asked again.
    asked = len(teacher.asked)
    more = make_config(tmp_path, base, "synthesis.rows=30")
    assert stages.stale(more, run)[0] == "generate"
    stages.bring_up_to_date(more, run, "tokens")
    assert rows_of(run)[:16] == rows
    assert asked < len(teacher.asked) <= asked + 12
    assert len({request.key for request in teacher.asked}) == len(teacher.asked)
    assert stages.stale(more, run) == ["train", "export"] or stages.stale(more, run) == ["train"]

    # The first config again: everything comes from the journal.
    asked = len(teacher.asked)
    stages.bring_up_to_date(config, run, "tokens")
    assert rows_of(run) == rows
    assert len(teacher.asked) == asked
    assert stages.stale(config, run) == []


def test_other_generated_rows_are_other_data(base: Path, tmp_path: Path, teacher: Scripted) -> None:
    run = Run.of("made")
    stages.bring_up_to_date(make_config(tmp_path, base), run, "tokens")
    first = rows_of(run)
    other = make_config(tmp_path, base, "synthesis.seed=7")
    stages.bring_up_to_date(other, run, "tokens")
    assert [row["instruction"] for row in rows_of(run)] != [row["instruction"] for row in first]
    assert stages.stale(other, run, "tokens") == []
    train = (run.folder("dataset") / "train.jsonl").read_text()
    assert not any(row["output"] in train for row in first)


def test_rows_that_do_not_change_make_nothing_again(base: Path, tmp_path: Path, teacher: Scripted) -> None:
    run = Run.of("made")
    stages.bring_up_to_date(make_config(tmp_path, base), run, "train")
    longer = make_config(tmp_path, base, "synthesis.longest=7000")
    asked = len(teacher.asked)
    assert stages.stale(longer, run)[0] == "generate"
    stages.bring_up_to_date(longer, run, "generate")
    assert len(teacher.asked) == asked
    assert stages.stale(longer, run, "train") == []


def _is_up_to_date_without_torch(folder: Path) -> None:
    code = (
        "import sys; from pipeline.cli.main import start\n"
        f"start(['export', {str(folder / 'made.yaml')!r}])\n"
        f"print(sorted({HEAVY | {'openai'}!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.stdout.count("up to date") == 5, done.stderr + done.stdout
    assert done.stdout.endswith("[]\n")
