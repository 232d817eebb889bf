"""Extras of the package: whether one is installed, and the command that installs it."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pipeline.run.errors import UserError

# A module of each extra that a command cannot do without.
MODULES = {"eval": "lm_eval", "judge": "openai", "ray": "ray", "serving": "uvicorn"}
ROOT = Path(__file__).parents[2]


def require(extra: str, where: str) -> None:
    """Raises:
    UserError: the extra is not installed.
    """
    if find_spec(MODULES[extra]) is None:
        raise UserError(f"the extra `{extra}` is not installed", where, f"`{install_command(extra)}`")


def install_command(extra: str) -> str:
    """The command line that adds an extra's packages to this Python, with the pinned versions of a checkout."""
    try:
        wanted = metadata.requires("suri") or []
    except metadata.PackageNotFoundError:
        return f"make .venv/.{extra}"
    marks = [line.partition(";") for line in wanted]
    packages = [
        package.strip() for package, _, mark in marks if mark.replace("'", '"').strip() == f'extra == "{extra}"'
    ]
    pins = ["-c", str(ROOT / "constraints.txt")] if (ROOT / "constraints.txt").is_file() else []
    return shlex.join([sys.executable, "-m", "pip", "install", *pins, *packages])
