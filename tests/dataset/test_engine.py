"""Where work runs changes nothing about the result, and workers never outlive their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.dataset import engine
from pipeline.dataset.engine import Local
from pipeline.run.errors import UserError
from tests.helpers.data_stage import Shift

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 2)


def test_results_come_in_order_from_other_processes() -> None:
    found = list(Local().map(Shift(10), iter(range(30))))
    assert [value for value, _ in found] == list(range(10, 40))
    assert os.getpid() not in {process for _, process in found}


def test_few_items_are_done_here() -> None:
    assert list(Local().map(Shift(1), range(3))) == [(1, os.getpid()), (2, os.getpid()), (3, os.getpid())]
    assert list(Local().map(Shift(1), [])) == []


def test_an_error_keeps_its_place_and_cure_on_the_way_out() -> None:
    with pytest.raises(UserError) as caught:
        list(Local().map(Shift(1), [*range(8), 99]))
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("no 99", "item 99", "leave it out")


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(UserError, match="killed") as caught:
        list(Local().map(Shift(1), [*range(8), 66]))
    assert caught.value.where == "data"


def test_a_script_without_the_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text(
        textwrap.dedent("""
        from pipeline.dataset import engine
        from pipeline.run.errors import UserError
        engine.cores = lambda: 2
        try:
            list(engine.Local().map(abs, range(10)))
        except UserError as error:
            print(error.what)
        """)
    )
    made = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert made.stdout.endswith('without the guard `if __name__ == "__main__":`\n'), made.stderr


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        from pipeline.dataset import engine
        def slow(item):
            print(os.getpid(), flush=True)
            time.sleep(60)
        if __name__ == "__main__":
            engine.cores = lambda: 2
            list(engine.Local().map(slow, range(10)))
        """)
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.time() + 10
    while any(Path(f"/proc/{w}").exists() and not _zombie(w) for w in workers) and time.time() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{w}").exists() and not _zombie(w) for w in workers)


def _zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1].startswith("Z")
    except OSError:
        return True
