"""No control or invisible character of data, files, models or servers reaches a terminal."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.command import guarded
from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt.encode import Encoder
from pipeline.prompt.preview import as_text
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError
from pipeline.run.progress import bar, say
from pipeline.run.terminal import Styled, safe
from pipeline.serving.terminal.screen import AnswerStream
from tests.helpers.tokenizers import TEMPLATE, byte_level

CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
NASTY = f"a{CLIPBOARD}b\x9b2Jc\u202ed\u2066e\ud800f\rg\x08h\x7fi\u200bj\ufeffk\U000e0041l"


def is_safe(text: str) -> bool:
    return not any((ord(c) < 32 and c not in "\n\t") or (c in NASTY and not c.isascii()) or c == "\x7f" for c in text)


def test_controls_become_escapes_and_letters_stay() -> None:
    assert safe(NASTY) == (
        r"a\x1b]52;c;cm0gLXJm\x07b\x9b2Jc\u202ed\u2066e\ud800f\rg\x08h\x7fi\u200bj\ufeffk\U000e0041l"
    )
    fine = "한국어\tnaïve\n👨‍👩‍👧 ก็ हिन्दी e\u0301 \u1112\u1161\u11ab\u00a0\u3000«»"
    assert safe(fine) == fine


def test_lines_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    say("one", NASTY, Styled("\033[32mgreen\033[0m"))
    shown = capsys.readouterr().out
    assert "one a\\x1b]52" in shown
    assert "\033[32mgreen\033[0m" in shown
    assert is_safe(shown.replace("\033[32m", "").replace("\033[0m", ""))
    with bar(total=1, what=NASTY) as progress:
        assert is_safe(progress.line(False))


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise UserError(f"what {NASTY}", f"where {NASTY}", f"fix {NASTY}")

    assert guarded(fails) == 2
    shown = capsys.readouterr().err
    assert "where: where a\\x1b]52" in shown
    assert is_safe(shown)


def test_tracebacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards
    assert guarded(lambda: None) == 0
    error = ValueError(NASTY)
    sys.excepthook(ValueError, error, None)
    shown = capsys.readouterr().err
    assert "ValueError: a\\x1b]52" in shown
    assert is_safe(shown)


def test_what_libraries_log_and_warn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    factory = logging.getLogRecordFactory()
    try:
        assert guarded(lambda: None) == 0
        handler = logging.StreamHandler(sys.stderr)
        log = logging.Logger("library")
        log.addHandler(handler)
        log.warning("Can't set %s", NASTY)
        sys.stderr.write(warnings.formatwarning(NASTY, UserWarning, "f.py", 1))
    finally:
        logging.setLogRecordFactory(factory)
    shown = capsys.readouterr().err
    assert shown.count("a\\x1b]52") == 2
    assert is_safe(shown)


@pytest.mark.parametrize("colour", [False, True])
def test_encoded_rows(tmp_path: Path, colour: bool) -> None:
    encoder = Encoder(TEMPLATE, Tokenizer(byte_level(tmp_path)), Prompt())
    rows = encoder.rows([Example.of(f"x {CLIPBOARD}", "", f"y \x9b {CLIPBOARD}\u202e", source="")])
    text = as_text(encoder, rows, colour)
    assert text.count("x1b]52") == 2
    for ours in ("\033[32m", "\033[2m", "\033[0m"):
        text = text.replace(ours, "")
    assert is_safe(text)


def test_an_answer_in_chat(capsys: pytest.CaptureFixture[str]) -> None:
    AnswerStream(None).on_finalized_text(f"a{CLIPBOARD}\n", stream_end=True)
    assert capsys.readouterr().out == "a\\x1b]52;c;cm0gLXJm\\x07\n\n"
