"""Signals become a flag."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.training import processes


@pytest.fixture(autouse=True)
def without_nohup() -> Iterator[None]:
    """As in a terminal, also where the tests were started with nohup, which ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with processes.stop_on_signal() as flag:
        os.kill(os.getpid(), number)
        assert flag.code == 128 + number
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_a_closed_terminal_is_no_error(tmp_path: Path) -> None:
    """Progress is drawn there while a step is finished and saved."""
    child, handle = pty.fork()
    if not child:
        with processes.stop_on_signal() as flag:
            os.write(1, b"ready")
            for _ in range(500):
                time.sleep(0.01)
                if flag.code:
                    os.write(1, b"saving")
                    os.write(2, b"saved")
                    (tmp_path / "code").write_text(str(flag.code))
                    break
        os._exit(0)
    assert b"ready" in os.read(handle, 1000)
    os.close(handle)
    os.waitpid(child, 0)
    assert (tmp_path / "code").read_text() == str(128 + signal.SIGHUP)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with processes.stop_on_signal() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert flag.code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_handlers_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the first handler is set and before the second is."""
    real, sent = signal.signal, []

    def sending(number: int, handler: Any) -> Any:
        found = real(number, handler)
        if not sent:
            sent.append(number)
            handler(number, None)
        return found

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(processes.signal, "signal", sending)
    with processes.stop_on_signal() as flag:
        assert flag.code == 128 + sent[0]
    assert signal.getsignal(signal.SIGINT) == before
