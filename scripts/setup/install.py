"""Makes the environment and installs into it, with a bar: `main` is what `python -m scripts.setup_venv` calls.

pip is silent while it unpacks, which takes most of the time, so progress is counted in finished packages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.run.errors import UserError
from scripts.setup import machine, torch_build

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
READY = ".ready"  # the Makefile's mark of a whole environment
GROUPS = 3  # pips beside torch's; each more costs a second of processor time


def main(words: list[str]) -> int:
    """Installs `words[0]`, `dev` (the core and its tests) or an extra; further words are arguments for pip.

    Returns the exit code: 2 for what the user can fix, 130 after Ctrl-C.
    """
    extra, *pip_args = words
    # As an absolute path without following links: the environment's Python is itself a link.
    venv = Path(os.path.abspath(ROOT / (os.environ.get("VENV") or ".venv")))
    try:
        machine.check_python()
        if extra == "dev":
            install_core(venv, os.environ.get("TORCH", ""), pip_args)
        else:
            machine.check_disk(venv, "extra")
            say(f"installing the extra {extra} (once)")
            run_pips(venv, [project(extra, pip_args)], len(pinned("")) + len(pinned(extra)))
    except UserError as error:
        print(f"suri: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsuri: stopped; the next make starts the installation anew", file=sys.stderr)
        return 130
    return 0


def install_core(venv: Path, wanted: str, pip_args: list[str]) -> None:
    """The environment with the pinned core; one that is whole is kept and brought up to date.

    The pins need no resolver, which leaves nothing to wait for: they are installed by several pips at a time, each with
    separate packages. The last pip resolves as usual. It installs the project and what only some builds of torch
    need (CUDA's libraries), and finds out whether the pins satisfy everybody.

    Raises:
        UserError: the machine will not do, or pip failed.
    """
    torch_build.check(wanted)
    pins = pinned("")
    version = next(pin for pin in pins if pin.startswith("torch==")).removeprefix("torch==")
    whole = (venv / READY).exists()
    has_torch = whole and torch_build.installed(venv) == version
    if not has_torch:
        machine.check_disk(venv, "cpu")
    make_environment(venv, whole)
    index: list[str] = []
    if not has_torch:
        settings = subprocess.run([*pip(venv), "config", "list"], capture_output=True, text=True).stdout
        choice = torch_build.choose(wanted, settings, pip_args)
        machine.check_disk(venv, choice.build)
        index = ["--index-url", choice.source] if choice.source else []
        name = os.path.relpath(venv, ROOT)
        say(f"torch: {choice.told}")
        if choice.override:
            say(f"another one: rm -r {name}; make export {choice.override}")
        say(f"installing pinned dependencies into {name} (once)")
    rest = [pin for pin in pins if not pin.startswith("torch==")]
    # torch by itself: its index serves nothing else.
    jobs = [[f"torch=={version}", *pip_args, *index], *([*rest[i::GROUPS], *pip_args] for i in range(GROUPS))]
    run_pips(venv, [["--no-deps", *job] for job in jobs], len(pins))
    # setuptools is among the pins, so the project's build needs no separate environment.
    run_pips(venv, [["--no-build-isolation", *project("dev", pip_args)]], len(pins))


def make_environment(venv: Path, whole: bool) -> None:
    """An environment with pip at `venv`. One that is not whole was interrupted half-way: it is made anew.

    Raises:
        UserError: something else lies there, or Python's `venv` failed.
    """
    if whole:
        (venv / READY).unlink()
    elif venv.is_symlink():
        venv.unlink()
    elif (venv / "pyvenv.cfg").exists():
        shutil.rmtree(venv)
    elif venv.is_dir() and any(venv.iterdir()):
        raise UserError(
            "the folder for the environment holds something else", str(venv), "name another: make export VENV=.venv"
        )
    if (venv / "bin" / "python").exists():
        return
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True)
    if made.returncode:
        said = (made.stdout + made.stderr).strip()
        raise UserError(
            f"python -m venv failed:\n{said}", str(venv), "fix that, or use another Python: make export PYTHON=..."
        )


def pip(venv: Path) -> list[str]:
    """The command of the environment's pip."""
    return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]


def project(extra: str, pip_args: list[str]) -> list[str]:
    """Arguments that install this checkout with an extra."""
    return ["-c", str(CONSTRAINTS), "-e", f".[{extra}]", *pip_args]


def run_pips(venv: Path, jobs: list[list[str]], wanted: int) -> None:
    """`pip install JOB` for all jobs at once, behind one bar that ends at `wanted` packages.

    Bytecode is left to the first import, which writes only what is used.

    Raises:
        UserError: a pip failed; its output is shown, and the others are stopped.
    """
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in jobs]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for job, output in zip(jobs, outputs, strict=True):
                command = [*pip(venv), "install", "--quiet", "--no-compile", *job]
                processes.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output))
            watch(processes, venv, wanted)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        failed = [output for process, output in zip(processes, outputs, strict=True) if process.returncode > 0]
        if any(process.returncode for process in processes):
            for output in failed:
                output.seek(0)
                print(output.read(), file=sys.stderr)
            fix = "see what pip says above: mostly network or disk (docs/installation.md); then the same command again"
            raise UserError("pip could not install the dependencies", CONSTRAINTS.name, fix)


def pinned(extra: str) -> list[str]:
    """The lines `NAME==VERSION` of constraints.txt for the core (an empty name) or an extra."""
    sections: dict[str, list[str]] = {"": []}
    section = ""
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith("# extra: "):
            section = line.removeprefix("# extra: ")
        elif "==" in line:
            sections.setdefault(section, []).append(line)
    return sections.get(extra, [])


def watch(processes: Sequence[subprocess.Popen[bytes]], venv: Path, wanted: int) -> None:
    """Draws a bar until all end or one fails; in a log file, a line every fifteen seconds."""
    live, started, told = sys.stderr.isatty(), time.time(), 0.0
    while (codes := [process.poll() for process in processes]).count(None) and not any(codes):
        time.sleep(0.2)
        done = min(wanted, sum(1 for _ in venv.glob("lib/python3*/site-packages/*.dist-info")))
        seconds = time.time() - started
        if live or seconds - told >= 15:
            told = seconds
            state = "fetching" if done <= 3 else "the rest" if done == wanted else "unpacking"
            blocks = 30 * done // wanted
            line = f"setup: |{'#' * blocks}{' ' * (30 - blocks)}| {done}/{wanted} packages, {seconds:3.0f} s, {state:9}"
            print(("\r" if live else "") + line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)


def say(text: str) -> None:
    """A line about the set-up."""
    print(f"setup: {text}", flush=True)
