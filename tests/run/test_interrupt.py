"""Ctrl-C is answered while the main thread is busy inside a library, and the last line says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.run.next_command import FRONT

ROOT = Path(__file__).parents[2]
# pbkdf2 is one call of some seconds, in which Python runs no signal handler.
BUSY = """
import hashlib, sys
from pipeline.command import guarded
from pipeline.run.interrupt import answering
from pipeline.run.next_command import started

def work():
    started("train", "configs/mine.yaml", ["train.lr=1e-4"])
    with answering({answer}):
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 8_000_000)
        print("survived", flush=True)

sys.exit(guarded(work))
"""


def interrupted(answer: str) -> tuple[int, str]:
    """Exit code and stderr of a process that gets Ctrl-C in the middle of its call."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(answer=answer)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={k: v for k, v in os.environ.items() if k not in ("RUNS", FRONT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.5)  # until it is inside the call
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "survived" not in out
    return process.returncode, err


def test_the_answer_comes_before_the_call_ends() -> None:
    code, err = interrupted("lambda: 'stopping: writing the checkpoint of step 12'")
    assert code == 130
    assert "Traceback" not in err
    assert err.index("stopping: writing the checkpoint of step 12") < err.index("suri: stopped")
    assert err.endswith('\n  make train CONFIG=configs/mine.yaml ARGS="train.lr=1e-4"\n')


def test_a_chat_answers_by_itself() -> None:
    code, err = interrupted("None")
    assert code == 130
    assert "stopping" not in err
