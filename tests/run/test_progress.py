"""Lines beside bars."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from tqdm import tqdm

from pipeline.run.progress import say


def test_a_process_killed_while_it_drew_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm.get_lock()  # made before the fork, as by any bar
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        tqdm.get_lock().acquire()
        os.write(told, b".")
        time.sleep(60)
        os._exit(0)
    assert os.read(ready, 1) == b"."
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    line = threading.Thread(target=say, args=("still there",), daemon=True)
    line.start()
    line.join(10)
    assert not line.is_alive()
    assert "still there" in capsys.readouterr().out
