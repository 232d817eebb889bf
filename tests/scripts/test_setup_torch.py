"""Which build of torch the set-up chooses, and that pip really takes it. Installs one package made by the test."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import socket
import sys
import threading
import venv as venvs
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from scripts.setup import install, torch_build

VERSION = next(pin for pin in install.pinned("") if pin.startswith("torch==")).removeprefix("torch==")


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine without a card and with an index that answers."""
    monkeypatch.setattr(torch_build.platform, "system", lambda: "Linux")
    monkeypatch.setattr(torch_build, "card", lambda: "")
    monkeypatch.setattr(torch_build, "reachable", lambda index: True)


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize(
    ("wanted", "card", "answers", "build", "index"),
    [("", "", True, "cpu", True), ("", "", False, "cuda", False), ("", "/dev/nvidia0", True, "cuda", False),
     ("cuda", "", True, "cuda", False), ("cpu", "/dev/nvidia0", True, "cpu", True)],
)  # fmt: skip
def test_which_build(
    monkeypatch: pytest.MonkeyPatch, wanted: str, card: str, answers: bool, build: str, index: bool
) -> None:
    monkeypatch.setattr(torch_build, "card", lambda: card)
    monkeypatch.setattr(torch_build, "reachable", lambda index: answers)
    choice = torch_build.choose(wanted, "", [])
    assert (choice.build, choice.source) == (build, torch_build.CPU_INDEX if index else "")
    assert choice.override == ("" if wanted else "TORCH=cpu" if build == "cuda" else "TORCH=cuda")


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize(
    ("settings", "words", "own"),
    [(":env:.index-url='https://mirror/simple'", [], True), ("global.find-links='/opt/wheels'", [], True),
     ("install.no-index='1'", [], True), ("", ["--extra-index-url", "https://x"], True), ("", ["-fhere"], True),
     ("global.timeout='9'\nglobal.cert='/index-url=x'", ["--proxy", "x"], False)],
)  # fmt: skip
def test_sources_of_the_users_own_are_left_alone(settings: str, words: list[str], own: bool) -> None:
    assert torch_build.choose("", settings, words).source == ("" if own else torch_build.CPU_INDEX)
    assert torch_build.choose("cpu", settings, words).source == torch_build.CPU_INDEX


@pytest.mark.usefixtures("linux")
def test_a_cpu_build_that_cannot_be_had_and_a_wrong_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "reachable", lambda index: False)
    with pytest.raises(UserError, match="did not answer"):
        torch_build.choose("cpu", "", [])
    with pytest.raises(UserError, match="TORCH=gpu"):
        torch_build.check("gpu")


def test_macs_have_one_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build.platform, "system", lambda: "Darwin")
    assert torch_build.choose("", "", [])[:2] == ("cpu", "")


@pytest.mark.parametrize(
    ("listed", "code", "found"), [("GPU 0: NVIDIA H200 (UUID: x)", 0, True), ("No devices", 6, False), ("", 0, False)]
)
def test_a_card_by_its_tool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str, code: int, found: bool
) -> None:
    """nvidia-smi is there without a card on many shared machines."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{listed}'\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch_build, "CARD_FILES", ())
    monkeypatch.setattr(torch_build, "_has_driver_library", lambda: False)
    assert bool(torch_build.card()) == found


def test_a_card_by_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch_build, "CARD_FILES", (str(tmp_path / "no"), str(tmp_path)))
    assert torch_build.card() == str(tmp_path)


def test_an_index_that_is_silent_missing_or_has_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # accepts and never answers
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with silent:
        assert not torch_build.reachable(address, patience=0.2)
    assert not torch_build.reachable(address, patience=5)  # closed: refused
    assert not torch_build.reachable("no address", patience=5)
    ended = threading.Event()

    def hang(*_: object, **__: object) -> None:
        """As a name lookup may, which no timeout ends."""
        ended.wait()
        raise OSError

    monkeypatch.setattr(torch_build.urllib.request, "urlopen", hang)
    assert not torch_build.reachable("http://x", patience=0.1)
    ended.set()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A simple index on this machine, with one wheel: an empty `torch` of the pinned version, tagged +cpu."""
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    name = f"torch-{VERSION}+cpu"
    files = {
        "torch/__init__.py": f"__version__ = '{VERSION}+cpu'\n",
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {VERSION}+cpu\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}\n"
        for path, text in files.items()
    )
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{name}.dist-info/RECORD": record}.items():
            wheel.writestr(path, text)
    link = f"{name}-py3-none-any.whl"
    (folder / "index.html").write_text(f'<a href="{link.replace("+", "%2B")}">{link}</a>')
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    handler.func.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pip_takes_the_cpu_build_of_an_index_that_answers(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real pip: the pin without a tag is satisfied by the build with one, and a second pip keeps it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(torch_build, "CPU_INDEX", index)
    monkeypatch.setattr(torch_build, "reachable", partial(torch_build.reachable, patience=60))
    monkeypatch.setattr(torch_build, "card", lambda: "")
    monkeypatch.setattr(torch_build.platform, "system", lambda: "Linux")
    choice = torch_build.choose("", "", [])
    assert (choice.build, choice.source) == ("cpu", index)
    place = tmp_path / "env"
    venvs.create(place, with_pip=False, symlinks=True)
    # pip without installing it: the environment of the tests lends its own.
    monkeypatch.setattr(
        install, "pip", lambda venv: [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    )
    arguments = ["--no-deps", f"torch=={VERSION}"]
    install.run_pips(place, [[*arguments, "--index-url", choice.source]], 1)
    assert torch_build.installed(place) == VERSION
    install.run_pips(place, [[*arguments, "--no-index"]], 1)
    assert list(place.glob("lib/python3*/site-packages/torch-*+cpu.dist-info"))
