"""What the benchmarks share: the words DATA TOKENIZER, and the line below a table that says where it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipeline.run.errors import UserError
from pipeline.run.versions import commit


def check_places(words: Sequence[str], more: str = "", page: str = "docs/benchmarks.md") -> None:
    """Checks that the first two words are a file with rows and a tokenizer's folder.

    Args:
        more: what may follow, as the usage has it; empty: nothing. page: that describes the command.

    Raises:
        UserError: they are not.
    """
    if len(words) < 2 or (words[2:] and not more) or not Path(words[0]).is_file() or not Path(words[1]).is_dir():
        raise UserError("no data and tokenizer's folder", f"DATA TOKENIZER {more}".rstrip(), f"see {page}")


def options_of(
    words: Sequence[str], defaults: Mapping[str, str], script: str, flags: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The plain words, and the options of the form `--name=value`.

    Args:
        defaults: of all options. flags: words that may be there too, such as `--tiny`.

    Raises:
        UserError: an option that there is not.
    """
    options, plain = dict(defaults), []
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            plain.append(word)
        elif name in options and value:
            options[name] = value
        elif word not in flags:
            known = ", ".join([*(f"--{name}" for name in options), *flags])
            raise UserError(f"no such option: {word!r}", script, f"there is {known}")
    return plain, options


def machine() -> str:
    """Name of the first card, or CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def where() -> str:
    """Device, version of torch and commit."""
    return f"{machine()}, torch {torch.__version__}, commit {commit() or 'unknown'}"
