"""Versions of what shapes a result: Suri and its commit, Python, libraries."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from pipeline import __version__

LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece", "peft", "accelerate", "datasets", "safetensors")


@functools.cache
def commit() -> str:
    """The commit of the checkout that Suri runs from, with `-dirty` where files differ from it; empty elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=quiet)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Suri, Python and the libraries that shape results, without importing them."""
    own = {"suri": __version__} | ({"commit": commit()} if commit() else {}) | {"python": platform.python_version()}
    return own | dict(_libraries())


@functools.cache
def _libraries() -> tuple[tuple[str, str], ...]:
    pairs = []
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            pairs.append((name, metadata.version(name)))
    return tuple(pairs)
