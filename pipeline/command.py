"""One command line for every script: `python -m scripts.NAME --config FILE key=value ...`.

An error that a user can cause becomes one message and exit code 2, Ctrl-C 130. Any other error is a fault of this
program or of a library, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.config_files import file_problems
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.files import disk_errors
from pipeline.run.folder import Run
from pipeline.run.interrupt import prompt_answers
from pipeline.run.next_command import next_command, started_from_shell
from pipeline.run.progress import warn
from pipeline.run.terminal import safe
from pipeline.run.width import WIDTH


def main(
    work: Callable[[Config, Run], None],
    about: str,
    argv: Sequence[str] | None = None,
    model: bool = True,
    files: bool = True,
) -> int:
    """Reads the command line, runs `work` on its config and run folder, and returns the exit code.

    Args:
        about: for --help. model: whether the work needs a base model. files: whether it reads the files that the config
            names, so that what is wrong with them is told with the config's own problems.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=partial(argparse.HelpFormatter, width=WIDTH))
    parser.add_argument("--config", default="configs/demo.yaml", help="a YAML file (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="on top of the file, such as train.lr=1e-4")
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TQDM_NCOLS", str(WIDTH))  # bars of libraries, such as those of the hub
    if not sys.stderr.isatty():  # in a log file they would be carriage returns
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def load_and_work() -> None:
        started_from_shell(sys.argv, args.config, args.overrides)
        config = load(args.config, args.overrides, model, file_problems if files else lambda values: [])
        work(config, Run.of(config.name))

    return guarded(load_and_work)


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
