"""Which build of torch: CUDA where there is an NVIDIA card, else the CPU build, which takes a third of the disk.

On Linux, PyPI holds the CUDA build (for ARM as well). The CPU build comes from PyTorch's own index, and only torch
does: it is installed by itself from there, so that no other package is ever looked up in a second index.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import platform
import re
import shutil
import ssl
import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import NamedTuple

from pipeline.run.errors import UserError

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE = 2.0  # seconds until the index counts as unreachable, name lookup and TLS included
# The files by which a driver with a card shows itself; the last is WSL's.
CARD_FILES = ("/dev/nvidia0", "/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")
# Where pip looks, as `pip config list` and its arguments spell it. That is the user's choice, which is left alone.
SETTING = re.compile(r"\.(index-url|extra-index-url|find-links|no-index)=")
ARGUMENT = re.compile(r"(-i|-f|--index-url|--extra-index-url|--find-links|--no-index)")


class Choice(NamedTuple):
    """A build of torch and how it is got."""

    build: str  # "cpu" or "cuda": how much disk it takes at least
    source: str  # torch alone is installed from there first; empty: pip finds it by itself
    told: str  # what the user is told
    override: str = ""  # the argument of make that chooses the other one


def check(wanted: str) -> None:
    """Checks TORCH of the command line.

    Raises:
        UserError: it names no build.
    """
    if wanted not in ("", "cpu", "cuda"):
        fix = "TORCH=cpu or TORCH=cuda; left out, the set-up looks for a card"
        raise UserError(f"TORCH={wanted} is not a build of torch", "TORCH", fix)


def choose(wanted: str, pip_settings: str, pip_args: list[str]) -> Choice:
    """The build for this machine.

    Args:
        wanted: TORCH of the command line: `cpu`, `cuda` or empty (look for a card).
        pip_settings: output of `pip config list`.
        pip_args: further arguments for pip.

    Raises:
        UserError: the CPU build was asked for and its index cannot be reached.
    """
    if platform.system() != "Linux":
        return Choice("cpu", "", f"the build that PyPI has for {platform.system()}")
    if wanted == "cuda":
        return Choice("cuda", "", "the CUDA build (TORCH=cuda)")
    if wanted == "cpu":
        if not reachable(CPU_INDEX):
            what = f"TORCH=cpu: {CPU_INDEX} did not answer within {PATIENCE:.0f} s"
            raise UserError(
                what, "TORCH", "check the network, or leave TORCH out: PyPI's build runs without a card, too"
            )
        return Choice("cpu", CPU_INDEX, "the CPU build (TORCH=cpu)")
    sources = {found[1] for found in SETTING.finditer(pip_settings)}
    sources |= {found[1].lstrip("-") for found in map(ARGUMENT.match, pip_args) if found}
    if sources:
        return Choice("cpu", "", f"as pip is configured here ({', '.join(sorted(sources))})", "TORCH=cpu")
    evidence = card()
    if evidence:
        return Choice("cuda", "", f"the CUDA build, for an NVIDIA card is here ({evidence})", "TORCH=cpu")
    if reachable(CPU_INDEX):
        return Choice("cpu", CPU_INDEX, "the CPU build, for no NVIDIA card is here", "TORCH=cuda")
    told = "PyPI's build, with CUDA. No NVIDIA card is here, but the index of\n"
    told += f"       CPU builds did not answer: {CPU_INDEX}"
    return Choice("cuda", "", told, "TORCH=cpu")


def card() -> str:
    """What shows that an NVIDIA card is here, or an empty text."""
    for path in CARD_FILES:
        if os.path.exists(path):
            return path
    tool = shutil.which("nvidia-smi")
    if tool and _lists_a_card(tool):
        return "nvidia-smi"
    return "libcuda.so.1" if _has_driver_library() else ""


def _lists_a_card(tool: str) -> bool:
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU 0" in listed.stdout


def _has_driver_library() -> bool:
    """The driver's own library; it is installed with the driver, not with the CUDA toolkit."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def reachable(index: str, patience: float = PATIENCE) -> bool:
    """True if the index answers for torch within `patience` seconds.

    The request runs in a daemon thread, since the name lookup has no timeout.
    """
    answers: list[bool] = []

    def ask() -> None:
        try:
            trusted = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
            with urllib.request.urlopen(f"{index}/torch/", timeout=patience, context=trusted) as answer:
                answers.append(answer.status == 200)
        except (OSError, ValueError, http.client.HTTPException):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return answers == [True]


def installed(venv: Path) -> str:
    """The version of torch in an environment without its build tag (`+cpu`), or an empty text."""
    folders = [path.name for path in venv.glob("lib/python3*/site-packages/torch-*.dist-info")]
    return folders[0].removeprefix("torch-").removesuffix(".dist-info").split("+")[0] if folders else ""
