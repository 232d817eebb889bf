"""`llama-quantize` of llama.cpp, where it is installed: types of GGUF that need its search for good scales."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pipeline.run.errors import UserError, one_line

PROGRAM = "llama-quantize"


def find_quantizer() -> str:
    """Path of the program.

    Raises:
        UserError: it is not installed.
    """
    if path := shutil.which(PROGRAM):
        return path
    what = f"export.gguf=q4_k_m needs {PROGRAM} of llama.cpp, which is not on the PATH"
    fix = "install llama.cpp (brew install llama.cpp, or its releases), or set export.gguf=q8_0"
    raise UserError(what, "export.gguf", fix)


def quantize(source: Path, target: Path, kind: str) -> None:
    """Writes `target`, the GGUF file `source` in another type. kind: such as `q4_k_m`.

    Raises:
        UserError: the program is missing or fails.
    """
    command = [find_quantizer(), str(source), str(target), kind.upper()]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not target.is_file():
        last = one_line(" ".join((done.stderr or done.stdout).splitlines()[-3:]))
        raise UserError(f"{PROGRAM} failed: {last}", "export.gguf", "set export.gguf=q8_0, or update llama.cpp")
