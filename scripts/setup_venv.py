"""Makes .venv with the pinned dependencies: `python3 scripts/setup_venv.py EXTRA [more pip arguments]`, called by make.

Standard library only, since nothing is installed yet. pip is silent while it unpacks, which takes most of the time, so
progress is counted in finished packages.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"


def main() -> int:
    """Returns the exit code: 2 when pip could not install; its output is shown."""
    if sys.version_info < (3, 11):  # noqa: UP036  (whoever runs this may have any Python)
        print(
            "suri: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; make PYTHON=python3.12 ...",
            file=sys.stderr,
        )
        return 2
    extra, *more = sys.argv[1:]
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-compile", "-c", "constraints.txt", "-e", f".[{extra}]", *more]
    wanted = pinned("" if extra == "dev" else extra)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            watch(process, wanted)
        except KeyboardInterrupt:
            process.terminate()
            print("\nsuri: stopped; the next make starts the installation anew", file=sys.stderr)
            return 130
        if process.returncode:
            output.seek(0)
            print(
                "suri: pip could not install the dependencies\n  where: constraints.txt\n"
                "  fix:   check the network and the free disk (6 GB), then run the same command again; pip said:\n"
                + output.read(),
                file=sys.stderr,
            )
            return 2
    return 0


def pinned(extra: str) -> int:
    """How many packages constraints.txt pins for the core and for an extra."""
    count, section = 0, ""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("# extra: "):
            section = line.removeprefix("# extra: ")
        count += "==" in line and section in ("", extra)
    return count


def watch(process: "subprocess.Popen[bytes]", wanted: int) -> None:
    """Draws a bar until pip ends; in a log file, a line every fifteen seconds."""
    live, started, told = sys.stderr.isatty(), time.time(), 0.0
    while process.poll() is None:
        time.sleep(0.5)
        done = min(wanted, sum(1 for _ in VENV.glob("lib/python3*/site-packages/*.dist-info")))
        seconds = time.time() - started
        if live or seconds - told >= 15:
            told = seconds
            eta = f"{seconds / done * (wanted - done):3.0f} s left" if done > 3 else "fetching"
            blocks = 30 * done // wanted
            line = f"setup: |{'#' * blocks}{' ' * (30 - blocks)}| {done}/{wanted} packages, {seconds:3.0f} s, {eta}"
            print(("\r" if live else "") + line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
