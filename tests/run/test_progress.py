"""Lines beside bars, bars in a terminal and in a log file, and phases without steps."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time

import pytest

from pipeline.run import progress
from pipeline.run.progress import bar, say, working
from pipeline.run.width import WIDTH, clipped, columns, padded, small, wrapped


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is drawn as soon as there is something to draw."""
    for name in ("BAR_AFTER", "PHASE_AFTER", "LIVE_EVERY", "LOG_EVERY"):
        monkeypatch.setattr(progress, name, 0.001)


def test_a_process_killed_while_it_drew_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        progress._screen.lock.acquire()
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
    assert "still there" in " ".join(capsys.readouterr().out.split())


def test_a_forked_process_does_not_wait_for_a_lock_of_its_parent() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with progress._screen.lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if progress._screen.lock.acquire(timeout=5) else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join(10)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_log_file_has_lines_and_no_carriage_return(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(total=4, what="reading rows") as rows:
        for _ in range(4):
            time.sleep(0.005)
            rows.update()
        say("beside it")
    shown = capsys.readouterr()
    err, end = shown.err, time.monotonic() + 10
    with working("loading the base"):
        while "loading the base: " not in err and time.monotonic() < end:  # a thread writes it
            time.sleep(0.005)
            err += capsys.readouterr().err
    assert "\r" not in err + shown.out
    lines = err.splitlines()
    assert any("4 of 4 rows" in line and "100%" in line for line in lines)
    assert any(line.startswith("loading the base: ") for line in lines)
    assert shown.out == "beside it\n"


def test_a_terminal_has_one_line_that_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with bar(total=3, what="reading", unit="row") as rows:
        for n in range(3):
            time.sleep(0.005)
            rows.note = f"loss {n}"
            rows.update()
    drawn = screen.getvalue()
    assert drawn.count("\n") == 1
    last = drawn.splitlines()[-1].split("\r")[-1]
    assert "100%" in last
    assert "3 of 3 rows" in last
    assert all(columns(part) <= WIDTH for part in drawn.replace("\n", "\r").split("\r"))


def test_a_phase_is_drawn_without_any_step_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with working("merging"):
        deadline = time.time() + 10
        while "merging" not in screen.getvalue() and time.time() < deadline:
            time.sleep(0.01)
    assert "merging" in screen.getvalue()
    assert screen.getvalue().split("\r")[-1] == ""
    assert screen.getvalue().split("\r")[-2].strip() == ""


def test_the_total_may_be_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(total=100, what="reading") as rows:
        time.sleep(0.005)
        rows.update(20)
        rows.total = 20
    assert "100%: 20 of 20 rows" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("live", [True, False])
def test_no_line_of_progress_is_wider_than_the_screen(live: bool) -> None:
    for total, unit in ((None, "row"), (123_456_789, "row"), (16_000_000_000, "B")):
        shown = bar(total=total, what="tuned: answers to held-out rows of a long name " * 2, unit=unit, disable=True)
        shown.n, shown.note = 99_999_999, "loss 0.123, 1,234,567 tok/s"
        assert columns(shown.line(live)) <= WIDTH


# --- width of lines


def test_long_lines_are_broken_at_spaces_and_indented() -> None:
    text = "train: " + "word " * 40 + "end"
    lines = wrapped(text).split("\n")
    assert all(columns(line) <= WIDTH for line in lines)
    assert all(line.startswith("  word") for line in lines[1:])
    assert " ".join(text.split()) == " ".join(" ".join(lines).split())


def test_korean_takes_two_columns() -> None:
    assert columns("가나 a") == 6
    assert all(columns(line) <= WIDTH for line in wrapped("한국어 문장 " * 30).split("\n"))
    assert columns(clipped("한국어 문장 " * 30, 40)) <= 40
    assert padded("가", 4) == "가  "
    assert padded("가", 4, right=True) == "  가"


@pytest.mark.parametrize(
    ("number", "digits", "text"), [(7.2e-8, 1, "7e-8"), (1.23e-8, 2, "1.2e-8"), (1e-6, 1, "1e-6"), (0.0, 2, "0"),
                                   (3.0, 2, "3.0e0"), (float("nan"), 1, "nan")],
)  # fmt: skip
def test_small_numbers(number: float, digits: int, text: str) -> None:
    assert small(number, digits) == text


def test_what_is_to_be_copied_stays_whole() -> None:
    path = "/".join(["folder"] * 20)
    command = f'  make export CONFIG={path}/mine.yaml ARGS="train.lr=1e-4 train.epochs=3"'
    assert wrapped(command) == command
    assert wrapped(path) == path
    assert f"`make data CONFIG={path}`" in wrapped(f"the data is not there yet: `make data CONFIG={path}` reads it")
    assert wrapped("| a | b |" * 20) == "| a | b |" * 20


def test_a_long_note_takes_the_place_of_the_time_that_has_passed() -> None:
    shown = bar(total=1_000, what="generate", disable=True)
    shown.n, shown.note = 450, "0.31 USD, 79 % kept, 146/min"
    shown.started -= 185
    line = shown.line(live=False)
    assert line.split(": ")[1].startswith("450 of 1,000 rows, 3 min 46 s left, 0.31 USD, 79 % kept")
    assert "3 min 5 s" not in line
    shown.note = "0.31 USD"
    assert "3 min 5 s, 3 min 46 s left, 0.31 USD" in shown.line(live=False)
