"""The chat at a terminal: keys through a pty, Ctrl-C, pasted blocks, history, a narrow window."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.width import columns
from pipeline.serving import chat as chatting
from pipeline.serving.terminal.screen import AnswerStream
from pipeline.serving.terminal.session import ChatSession
from tests.helpers.terminal import CTRL_C, CTRL_D, PASTED, Terminal

Opened = Callable[..., Terminal]


@pytest.fixture
def opened(exported: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Starts a chat at a terminal, with a history of its own."""
    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))
    config, run = exported

    def start(**options: Any) -> Terminal:
        terminal = Terminal(lambda: guarded(lambda: chatting.chat(config, run)), **options)
        terminal.wait_for("\n> ")
        return terminal

    return start


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions are printed as JSON instead of being answered."""
    monkeypatch.setattr(ChatSession, "answer", lambda self, question, given: print("ASKED", json.dumps(question)) or "")


def question_of(shown: str) -> str:
    line = next(line for line in shown.split("\n") if line.startswith("ASKED"))
    question: str = json.loads(line.removeprefix("ASKED "))
    return question


def test_a_conversation_and_its_end(opened: Opened) -> None:
    with opened() as terminal:
        terminal.send("One?\r")
        assert "[cut off after 4 tokens" in terminal.wait_for("\n> ")
        terminal.send(CTRL_D)
        terminal.close()
        assert terminal.code == 0


def test_ctrl_c_stops_an_answer_and_not_the_chat(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    put = AnswerStream.put

    def slow(self: AnswerStream, value: Any) -> None:
        print("|", end="", flush=True)
        time.sleep(0.05)
        put(self, value)

    monkeypatch.setattr(AnswerStream, "put", slow)
    with opened() as terminal:
        terminal.send("/set max_new_tokens 100000\r")
        terminal.wait_for("\n> ")
        terminal.send("Hello?\r")
        terminal.wait_for("||")
        terminal.send(CTRL_C)
        assert "[stopped]" in terminal.wait_for("\n> ")
        terminal.send("half a line" + CTRL_C)
        assert "[Ctrl-D or /quit ends the chat]" in terminal.wait_for("\n> ")
        terminal.send("/set max_new_tokens 2\r")
        terminal.wait_for("\n> ")
        terminal.send("Still there?\r")
        assert "[cut off after 2 tokens" in terminal.wait_for("\n> ")
        terminal.send("/quit\r")
        terminal.close()
        assert terminal.code == 0


@pytest.mark.usefixtures("asked")
def test_entries_of_several_lines(opened: Opened) -> None:
    with opened() as terminal:
        terminal.send("first \\\r")
        terminal.wait_for("\n. ")
        terminal.send("second\r")
        assert question_of(terminal.wait_for("\n> ")) == "first \nsecond"
        terminal.send(PASTED.format("a block\r\r  of lines\r") + "\r")
        assert question_of(terminal.wait_for("\n> ")) == "a block\n\n  of lines"
        terminal.send("a\\\\\r")  # two backslashes are text
        assert question_of(terminal.wait_for("\n> ")) == "a\\\\"
        terminal.send("begun \\\r")
        terminal.wait_for("\n. ")
        terminal.send(CTRL_C)  # drops the lines so far
        terminal.wait_for("\n> ")
        terminal.send("안녕 🙂?\r")
        assert question_of(terminal.wait_for("\n> ")) == "안녕 🙂?"


@pytest.mark.usefixtures("asked")
def test_a_pasted_block_without_marks(opened: Opened) -> None:
    with opened(term="dumb") as terminal:
        terminal.send("a block\rof three\rlines\r")
        assert question_of(terminal.wait_for("\n> ")) == "a block\nof three\nlines"


@pytest.mark.usefixtures("asked")
def test_the_history_is_kept_and_private(opened: Opened, tmp_path: Path) -> None:
    with opened() as terminal:
        terminal.send(PASTED.format("older\nlines") + "\r")
        terminal.wait_for("\n> ")
        terminal.send("newer\r")
        terminal.wait_for("\n> ")
    path = tmp_path / "cache" / "chat" / "history.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == ["older\nlines", "newer"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with opened() as terminal:
        terminal.send("\x1b[A\x1b[A\r")  # the arrow up, twice
        assert question_of(terminal.wait_for("\n> ")) == "older\nlines"


def test_a_narrow_window(opened: Opened, exported: tuple[Config, Run]) -> None:
    config, run = exported
    with Terminal(lambda: chatting.chat(config, run), columns=40) as terminal:
        shown = terminal.wait_for("\n> ")
        terminal.send("/set\r")
        shown += terminal.wait_for("\n> ")
    assert "/adapter NAME" in shown
    assert max(map(columns, shown.split("\n"))) <= 40


def test_the_help_fits_on_a_screen(opened: Opened) -> None:
    with opened() as terminal:
        terminal.send("/help\r")
        shown = terminal.wait_for("\n> ").split("\n")
    assert len(shown) <= 24
    assert max(map(columns, shown)) <= 79


@pytest.mark.usefixtures("asked")
def test_the_tab_key_completes_commands(opened: Opened) -> None:
    with opened() as terminal:
        terminal.send("/ad\t")
        terminal.wait_for("/adapter")
        terminal.send(" b\t\r")
        assert "[base answers from now on]" in terminal.wait_for("\n> ")
