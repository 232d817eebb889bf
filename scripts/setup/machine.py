"""Can this machine and its Python hold the environment? Checked before anything is downloaded."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from pipeline.run.errors import UserError

NEWEST = (3, 14)  # the newest Python for which every wheel of the core in constraints.txt exists
# GB on the disk of the environment, and of temporary wheels beside it (CUDA's libraries are 2.1 GB of wheels).
# Measured sizes are in docs/installation.md.
SPACE = {"cpu": (1.9, 0.6), "cuda": (6.0, 2.3), "extra": (0.8, 0.3)}
GB = 1e9


def check_python() -> None:
    """Checks operating system, Python and the modules that make environments.

    Raises:
        UserError: one of them will not do.
    """
    for problem in (_platform(), _python(), _venv_modules()):
        if problem:
            raise problem


def _platform() -> UserError | None:
    system, processor = platform.system(), platform.machine()
    if system == "Windows" or sys.platform in ("cygwin", "msys"):
        return UserError(
            "Suri does not run on Windows itself", system, "use WSL 2: wsl --install, then clone and make there"
        )
    if (system, processor) == ("Darwin", "x86_64"):
        return UserError(
            "there is no torch for Macs with Intel processors", processor, "use Linux, or a Mac with Apple silicon"
        )
    if system == "Linux" and "musl" in str(sysconfig.get_config_var("SOABI")):
        return UserError(
            "there is no torch for musl (Alpine Linux)", sys.executable, "use a system with glibc, such as Debian"
        )
    return None


def _python() -> UserError | None:
    version = platform.python_version()
    if sys.version_info[:2] > NEWEST:
        what = f"Python {version} is too new: the pinned packages have no wheels for it"
        return UserError(what, sys.executable, "use Python 3.11 to 3.14: make export PYTHON=python3.13")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        what = f"this Python {version} is built without the global lock; not all pinned packages have wheels for it"
        return UserError(what, sys.executable, "use the usual build: make export PYTHON=python3.13")
    if sys.maxsize < 2**32:
        return UserError("Python is a 32-bit build, torch needs 64 bits", sys.executable, "install a 64-bit Python")
    return None


def _venv_modules() -> UserError | None:
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    fix = f"Debian, Ubuntu: sudo apt-get install {package} (or python3-venv); or another Python: make export PYTHON=..."
    return UserError(f"this Python lacks {' and '.join(missing)}, which make environments", sys.executable, fix)


def check_disk(venv: Path, kind: str) -> None:
    """Checks free disk for `kind` of SPACE: where the environment goes and where pip unpacks wheels.

    Raises:
        UserError: too little is free.
    """
    here, temporary = existing(venv), Path(tempfile.gettempdir())
    there, scratch = SPACE[kind]
    needs = {here: there, temporary: scratch}
    if device(here) == device(temporary):
        needs = {here: there + scratch}
    for folder, need in needs.items():
        free = shutil.disk_usage(folder).free / GB
        if free < need:
            what = f"{free:.1f} GB of disk are free, the set-up takes {need:.1f} GB"
            other = "TMPDIR=/big/tmp make export" if folder != here else "clone to a larger disk"
            smaller = "; the CPU build of torch is smaller: make export TORCH=cpu" if kind == "cuda" else ""
            raise UserError(what, str(folder), f"free some disk, or {other}{smaller}")


def device(folder: Path) -> object:
    """What tells one file system from another."""
    return os.stat(folder).st_dev


def existing(path: Path) -> Path:
    """The nearest folder above `path` that exists, or `path` itself."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
