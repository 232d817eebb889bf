"""A real llama.cpp: node-llama-cpp's prebuilt one, where it is installed.

    mkdir -p .cache/llama && cd .cache/llama && npm i --ignore-scripts --omit=optional node-llama-cpp@3.22.1 \\
        @node-llama-cpp/linux-x64@3.22.1

SURI_LLAMA names another folder with its node_modules.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

CLIENT = Path(__file__).with_name("llama_client.mjs")


def folder() -> Path:
    """The folder with llama.cpp; skips the test where there is none."""
    place = Path(os.environ.get("SURI_LLAMA") or Path(__file__).parents[2] / ".cache" / "llama").absolute()
    if not shutil.which("node") or not (place / "node_modules" / "node-llama-cpp").is_dir():
        pytest.skip(f"needs node and node-llama-cpp in {place} (tests/helpers/llama_cpp.py says how)")
    return place


def ask(
    model: Path,
    texts: Sequence[str] = (),
    rows: Sequence[tuple[Sequence[int], int]] = (),
    prompts: Sequence[Sequence[int]] = (),
    end: int = -1,
    limit: int = 16,
    special: bool = False,
) -> dict[str, Any]:
    """What llama.cpp makes of a GGUF file; the arguments are explained in `llama_client.mjs`."""
    asked = {
        "folder": str(folder()), "model": str(model), "texts": list(texts), "end": end, "limit": limit,
        "special": special,
        "rows": [[[int(i) for i in ids], first] for ids, first in rows],
        "prompts": [[int(i) for i in ids] for ids in prompts],
    }  # fmt: skip
    done = subprocess.run(["node", str(CLIENT)], input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
