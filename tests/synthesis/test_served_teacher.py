"""`make generate` against a real server: transformers serve with SmolLM2-135M, on this machine.

Its traps: requests must name the model by the server's own path; /v1/models needs the hub's cache folder; temperature
counts only with `do_sample`; `response_format` is accepted and ignored, so the form is asked for as text.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.config.load import load
from pipeline.config.schema import Config, Model
from pipeline.demo.base_model import FILE
from pipeline.model.base import resolve
from pipeline.run.folder import Run

ROOT = Path(__file__).parents[2]
PACKAGES = ("fastapi", "uvicorn", "openai")
PATIENCE = 180  # seconds until the server must be up; 20 on two cores that do nothing else
SERVE = "from transformers.cli.transformers import main; main()"

pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs the extra `serving`"),
    pytest.mark.skipif(not (ROOT / FILE).is_file(), reason="needs the demo's base, which `make test-all` fetches"),
]


@pytest.fixture(scope="module")
def teacher() -> Path:
    """The demo's base as a folder."""
    folder = resolve(Model(base=str(ROOT / FILE))).folder
    assert folder is not None
    return folder.absolute()


@pytest.fixture(scope="module")
def server(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server."""
    home = tmp_path_factory.mktemp("home")
    (home / ".cache" / "huggingface" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(teacher), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = home / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *words], stdout=file, stderr=file,
            env={**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},  # beside other tests
        )  # fmt: skip
    try:
        _await(port, process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")


def make_config(folder: Path, base: Path, teacher: Path, server: str, *overrides: str) -> Config:
    """Few and short seeds, since the server reads some hundred tokens a second."""
    lines = (ROOT / "data" / "seed_tasks.en.jsonl").read_text().splitlines()
    seeds = folder / "seeds.jsonl"
    seeds.write_text("".join(line + "\n" for line in sorted(lines, key=len)[:40]))
    path = folder / "served.yaml"
    path.write_text(
        f"""
name: served
model: {{base: {base}, dtype: fp32}}
synthesis:
  method: self-instruct
  seeds: [{seeds}]
  rows: 6
  seeds_per_prompt: 2
  tasks_per_prompt: 2
  teacher:
    model: {teacher}
    base_url: {server}
    terms: Apache-2.0
    json_mode: text
    max_tokens: 80
    parallel: 4
    timeout: 300
    extra: {{generation_config: '{{"do_sample": true, "temperature": 0.7}}'}}
data: {{sources: [{{path: runs/served/generated}}], val: 2}}
prompt: {{template: alpaca-short, cutoff: 400}}
"""
    )
    return load(path, overrides)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_a_real_server(
    base: Path, teacher: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path))
    run = Run.of("served")
    config = make_config(tmp_path, base, teacher, server)
    stages.bring_up_to_date(config, run, "generate")
    rows, journal = lines_of(run.folder("generated") / "rows.jsonl"), run.root / "journal" / "journal.jsonl"
    assert len(rows) == 6
    assert len({(row["instruction"], row["input"]) for row in rows}) == 6
    replies = [entry for entry in lines_of(journal) if "reply" in entry]
    keys = [entry["reply"] for entry in replies]
    assert len(set(keys)) == len(keys)
    assert all(set(row["generated"]["requests"]) <= set(keys) for row in rows)
    assert all(entry["prompt_tokens"] > 50 and 0 < entry["completion_tokens"] <= 80 for entry in replies)
    assert all(entry["model"].startswith(str(teacher)) for entry in replies)

    # More rows: the first ones stay, and only new requests are sent.
    stages.bring_up_to_date(make_config(tmp_path, base, teacher, server, "synthesis.rows=7"), run, "generate")
    more = lines_of(run.folder("generated") / "rows.jsonl")
    assert [row["instruction"] for row in more[:6]] == [row["instruction"] for row in rows]
    keys = [entry["reply"] for entry in lines_of(journal) if "reply" in entry]
    assert len(set(keys)) == len(keys) >= len(replies)

    # The rows are an ordinary source.
    stages.bring_up_to_date(config, run, "tokens")
    counts = (run.manifest("dataset") or {})["counts"]
    assert counts["train"] + counts["val"] == 6
    assert str(teacher) not in (run.folder("dataset") / "train.jsonl").read_text()
