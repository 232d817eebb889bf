"""A copy of the checkout in which the commands of a document run as a reader types them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / ".cache" / "demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "pipeline", "scripts", "configs", "data", "docs")


def copy_of_checkout(folder: Path) -> Path:
    """`folder`, filled with what the commands need; `.venv` and `.cache` are links to those of the checkout.

    Skips the test where the venv or the demo's base is missing, since nothing may be fetched.
    """
    if not DEMO.is_file():
        pytest.skip(f"needs the demo's base, {DEMO.relative_to(ROOT)}: `make demo-base` fetches it")
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("needs .venv, which `make` sets up")
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (0, 0))  # older than the mark of the set-up, so that make does not install again
    for name in (".venv", ".cache"):
        (folder / name).symlink_to((ROOT / name).resolve())
    return folder


def clean_environment() -> dict[str, str]:
    """The environment without settings of the make or the run that started the tests."""
    dropped = ("RUNS", "CONFIG", "ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    # Threads that wait by spinning take the cores from the other tests, and from each other.
    return {"OMP_WAIT_POLICY": "passive", **kept}
