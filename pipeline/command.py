"""What every command does: reads its config, and turns errors into messages and exit codes.

An error that a user can cause becomes one message and exit code 2, Ctrl-C 130. Any other error is a fault of this
program or of a library, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.config.load import load
from pipeline.config.method_rules import Problem
from pipeline.config.schema import Config
from pipeline.config_files import file_problems
from pipeline.demo.base_model import FILE as DEMO_BASE
from pipeline.demo.base_model import fetch_if_named
from pipeline.model import cpu_dtype
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.files import disk_errors
from pipeline.run.folder import Run
from pipeline.run.interrupt import prompt_answers
from pipeline.run.next_command import next_command
from pipeline.run.progress import warn
from pipeline.run.terminal import safe
from pipeline.run.width import WIDTH


def load_run(
    path: str, overrides: Sequence[str], model: bool = True, files: bool = True, fetch: bool = True
) -> tuple[Config, Run]:
    """The config and the run folder of a command; fetches the demo's base where the config names it.

    Args:
        model: whether the command needs a base model. files: whether it reads the files that the config names, so that
            what is wrong with them is told with the config's own problems. fetch: whether it reads the base.

    Raises:
        UserError: the config cannot be read, anything in it is wrong, or the base cannot be fetched.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TQDM_NCOLS", str(WIDTH))  # bars of libraries, such as those of the hub
    if not sys.stderr.isatty():  # in a log file they would be carriage returns
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    config = load(path, overrides, model, _file_problems if files else lambda values: [])
    if fetch:
        fetch_if_named(config.model.base)
    run = Run.of(config.name)
    return cpu_dtype.bound(config, run), run


def _file_problems(values: dict[str, Any]) -> list[Problem]:
    """Of the files that a config names, but for the demo's base: that is fetched once the config is right."""
    problems = file_problems(values)
    return [p for p in problems if p[0] != ("model", "base") or Path(values["model"]["base"]) != DEMO_BASE]


def guarded(work: Callable[[], None]) -> int:
    """Runs `work`; returns 0, or prints what is wrong and returns the exit code."""
    sys.excepthook = _traceback
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = _warning
    try:
        _check_stdout()
        with disk_errors(Path()), prompt_answers():
            work()
        _flush()
    except UserError as error:
        warn(f"suri: {error}")
        with contextlib.suppress(UserError, BrokenPipeError):
            _flush()
        return 2
    except Interrupted as error:
        warn(f"suri: {error}")
        return error.code
    except KeyboardInterrupt:
        warn(f"\nsuri: stopped; results of finished stages are kept. To go on:\n  {next_command()}")
        return 130
    except BrokenPipeError:
        # The reader closed the pipe (`| head`); Python would warn once more when it flushes at the end.
        _silence()
        return 141
    return 0


class _Record(logging.LogRecord):
    """What a library logs; it may quote a file of a stranger, such as a base's config.json."""

    def getMessage(self) -> str:
        return safe(super().getMessage())


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return safe(f"{filename}:{lineno}: {category.__name__}: {message}\n")


def _traceback(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    """Prints a traceback with escape sequences made visible, since its message may quote data."""
    sys.stderr.write(safe("".join(traceback.format_exception(kind, error, place))))


def _check_stdout() -> None:
    """Raises:
    UserError: standard output is closed (`>&-`): the next file that is opened would take its place.
    """
    if sys.stdout is None:
        raise UserError("standard output is closed", "", "send it to a file, or to /dev/null")


def _flush() -> None:
    """Writes out what was printed, so that a command whose output is lost fails; Python itself would only warn.

    Raises:
        UserError: the disk of the file that standard output goes to is full.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence()
        what = f"standard output cannot be written: {os.strerror(error.errno or errno.EIO)}"
        raise UserError(what, "", "send it elsewhere") from None


def _silence() -> None:
    """Discards what is still to be printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
