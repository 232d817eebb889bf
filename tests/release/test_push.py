"""`make push`, through huggingface_hub to a hub on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.schema import Config, Model
from pipeline.release.hub.contents import chosen, contents
from pipeline.release.hub.push import Request, push
from pipeline.release.hub.repository import Repository
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.fake_hub import TOKEN, FakeHub, FakeRepo, fake_hub

REPO = "someone/mine"
ROOT = Path(__file__).parents[2]
CONFIG = Config(name="mine", model=Model(base="org/base"))
CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n# mine\n"
TERMS = [
    {"role": "base", "name": "org/base", "licence": "llama3.2", "text": "Llama 3.2 Community License", "note": ""},
    {"role": "data", "name": "tatsu-lab/alpaca", "licence": "cc-by-nc-4.0", "text": "CC BY-NC 4.0", "note": ""},
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """An export as the stage writes it, with made-up weights."""
    run = Run(tmp_path / "runs" / "mine")
    with run.writing("export", {"version": 1}) as output:
        write(output.folder / "README.md", CARD)
        write(output.folder / "config.json", "{}")
        write(output.folder / "LICENSE", "terms")
        write(output.folder / "model-1.safetensors", "a" * 4000)
        write(output.folder / "model-2.safetensors", "b" * 9000)
        write(output.folder / "results.json", json.dumps({"tuned": {}}))
        write(output.folder / "suri.json", json.dumps({"terms": TERMS}))
        write(output.folder / "gguf" / "README.md", CARD)
        write(output.folder / "gguf" / "mine-f16.gguf", "GGUF" * 900)
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with fake_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def send(run: Run, name: str = REPO, **values: bool | str) -> None:
    push(CONFIG, run, Repository(name), Request(**{"agreed": True, **values}))  # type: ignore[arg-type]


def refused(run: Run, hub: FakeHub, match: str, name: str = REPO, **values: bool | str) -> UserError:
    """The push stops with a message, and the hub's repositories stay as they were."""
    before = {name: dataclasses.replace(repo, files=dict(repo.files)) for name, repo in hub.repos.items()}
    with pytest.raises(UserError, match=match) as caught:
        send(run, name, **values)
    assert hub.repos == before
    assert caught.value.fix
    return caught.value


def test_everything_arrives_and_is_private(run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    send(run)
    repo = hub.repos[REPO]
    assert repo.private
    assert repo.commits == ["mine, made by Suri"]
    folder = run.folder("export")
    assert repo.files == {path.name: path.read_bytes() for path in folder.iterdir()
                          if path.is_file() and path.name != "manifest.json"}  # fmt: skip
    shown = capsys.readouterr().out
    assert "to someone/mine on 127.0.0.1:" in shown
    assert "as someone; private" in shown
    assert "model-2.safetensors" in shown
    assert "Not for commercial use" in shown
    assert "must begin with 'Llama'" in shown
    assert all(len(line) <= 78 for line in shown.splitlines())


def test_the_name_in_the_repository_counts(run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    send(run, "someone/Llama-mine", public=True)
    assert not hub.repos["someone/Llama-mine"].private
    shown = capsys.readouterr().out
    assert "PUBLIC, everyone can see it" in " ".join(shown.split())
    assert "must begin with" not in shown


def test_again_sends_nothing(run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    send(run)
    count = len(hub.requests)
    send(run)
    assert "up to date" in capsys.readouterr().out
    assert [r for r in hub.requests[count:] if "whoami" not in r] == [f"GET /api/models/{REPO}"]


def test_formats_go_into_folders_and_one_alone_to_the_top(run: Run, hub: FakeHub) -> None:
    send(run, what="hf,gguf")
    assert {"gguf/mine-f16.gguf", "gguf/README.md", "README.md"} <= set(hub.repos[REPO].files)
    send(run, "someone/mine-gguf", what="gguf")
    assert set(hub.repos["someone/mine-gguf"].files) == {"mine-f16.gguf", "README.md", "LICENSE"}


def test_an_interrupted_push_goes_on(run: Run, hub: FakeHub) -> None:
    hub.uploads_left = 1
    with pytest.raises(UserError, match="400"):
        send(run)
    assert hub.repos[REPO].files == {}  # no half of a model
    assert len(hub.blobs) == 1
    hub.uploads_left = None
    count = len(hub.requests)
    send(run)
    assert sum(r.startswith("PUT") for r in hub.requests[count:]) == 1
    assert len(hub.repos[REPO].files) == 7


def test_what_arrived_otherwise_is_said(run: Run, hub: FakeHub) -> None:
    hub.drops = ("config.json",)
    with pytest.raises(UserError, match=r"config\.json did not arrive as it was sent"):
        send(run)


def test_a_repository_with_other_content(run: Run, hub: FakeHub) -> None:
    hub.repos[REPO] = FakeRepo(True, {".gitattributes": b"x", "old.safetensors": b"x", "config.json": b"[]"})
    assert "REPLACE" in refused(run, hub, r"something else: config\.json, old\.safetensors").fix
    send(run, replace=True)
    assert "old.safetensors" not in hub.repos[REPO].files
    assert hub.repos[REPO].files["config.json"] == b"{}"
    assert ".gitattributes" in hub.repos[REPO].files


def test_a_public_repository_is_not_written_by_mistake(run: Run, hub: FakeHub) -> None:
    hub.repos[REPO] = FakeRepo(False)
    refused(run, hub, "the repository is public")
    send(run, public=True)
    assert len(hub.repos[REPO].files) == 7


def test_without_agreement_nothing_is_sent(run: Run, hub: FakeHub) -> None:
    refused(run, hub, "no terminal to ask on", agreed=False)
    with pytest.raises(UserError, match="nothing was sent"):
        push(CONFIG, run, Repository(REPO), Request(), ask=lambda: False)
    assert hub.repos == {}
    push(CONFIG, run, Repository(REPO), Request(), ask=lambda: True)
    assert len(hub.repos[REPO].files) == 7


def test_an_unfinished_export(run: Run, hub: FakeHub) -> None:
    unfinished = {"stopped": 1, "of": 8, "limit": 50, "wanted": 0.5}
    rewrite(run, "results.json", json.dumps({"unfinished": unfinished}))
    assert "UNFINISHED=1" in refused(run, hub, "the export is unfinished").fix
    send(run, unfinished=True)
    assert REPO in hub.repos


def test_a_file_that_changed_since(run: Run, hub: FakeHub) -> None:
    (run.folder("export") / "model-1.safetensors").write_text("c" * 4000)
    refused(run, hub, r"model-1\.safetensors has changed since it was written")


def test_without_an_export(tmp_path: Path, hub: FakeHub) -> None:
    refused(Run(tmp_path), hub, "there is no finished export")
    refused(Run(tmp_path), hub, "there is no finished diff", what="diff")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"see {Path.home()}/secret-plans/x", "a path of this machine"), (f"in {ROOT}/runs", "a path of this machine"),
        ("key hf_" + "a" * 34, r"what looks like a secret \(hf_aaa\.\.\.\)"),
        ("AKIA" + "Z" * 16, "looks like a secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "looks like a secret"), ("my own secret of 2026", "looks like a secret"),
    ],
)  # fmt: skip
def test_private_text_stays_here(run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("MY_API_KEY", "my own secret of 2026")
    monkeypatch.chdir(ROOT)
    rewrite(run, "results.json", json.dumps({"said": ["a", text]}, indent=1))
    error = refused(run, hub, said)
    assert error.where == "line 4"
    assert "SKIP=results.json" in error.fix
    send(run, skip="results.json")
    assert "results.json" not in hub.repos[REPO].files


def test_a_card_that_the_hub_would_refuse(run: Run, hub: FakeHub) -> None:
    rewrite(run, "README.md", "---\nlicense: my own\n---\n")
    refused(run, hub, "the card's metadata is not valid: license 'my own'")


@pytest.mark.parametrize(
    "name", ["", "mine", "a/b/c", "some one/mine", "someone/mi..ne", "-x/y", "someone/" + "x" * 97]
)
def test_a_name_that_no_hub_has(name: str) -> None:
    with pytest.raises(UserError, match="not the name of a repository" if name else "REPO is missing"):
        Repository(name)


@pytest.mark.parametrize("words", ["hf,adapter,diff", "adapter,gguf", "onnx"])
def test_formats_that_do_not_go_together(words: str) -> None:
    with pytest.raises(UserError, match=r"do not go into one repository|no such format"):
        chosen(words)


def test_formats_and_files_that_are_not_there(run: Run) -> None:
    with pytest.raises(UserError, match="the export has no adapter"):
        contents(run, ("adapter",), [])
    with pytest.raises(UserError, match="no file 'x' to skip"):
        contents(run, ("hf",), ["x"])


def test_without_a_token(run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in refused(run, hub, "no token of the hub was found").fix


def test_a_token_that_the_hub_does_not_know(run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    refused(run, hub, r"does not accept the token \(401\)")


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/repos/create", 403, "may not write to someone/mine"), ("/whoami", 401, "does not accept the token"),
        ("/commit/", 403, "may not write"), ("/commit/", 500, "answered 500"),
        ("/validate-yaml", 400, "did not take it|answered 400"),
    ],
)  # fmt: skip
def test_errors_of_the_hub(
    run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, path: str, code: int, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.fails = {path: code}
    with pytest.raises(UserError, match=said):
        send(run)
    assert all(not repo.files for repo in hub.repos.values())


def test_no_network(run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(run, hub, "cannot be reached")


def test_offline(run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(run, hub, "HF_HUB_OFFLINE is set").fix == "unset it"


def rewrite(run: Run, name: str, text: str) -> None:
    """Another content of a file of the export, known to its manifest."""
    from pipeline.run.files import sealed, write_json

    folder = run.folder("export")
    (folder / name).write_text(text)
    manifest = run.manifest("export")
    assert manifest is not None
    manifest["files"][name] = {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_json(folder / "manifest.json", sealed({k: v for k, v in manifest.items() if k != "sha256"}))


def test_the_command(run: Run, tmp_path: Path) -> None:
    """`make push` in a process: the environment alone says where the hub is and who asks."""
    config = tmp_path / "mine.yaml"
    config.write_text("name: mine\n")
    with fake_hub() as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "RUNS": str(run.root.parent)}
        env |= {"HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        del env["HF_HUB_OFFLINE"]
        words = [sys.executable, "-m", "scripts.push", f"--config={config}"]
        first = subprocess.run(
            [*words, "--", REPO], cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert first.returncode == 2
        assert "no terminal to ask on" in first.stderr
        assert "YES=1" in first.stderr
        assert hub.repos == {}
        second = subprocess.run([*words, "--yes", "--", REPO], cwd=ROOT, env=env, capture_output=True, text=True)
        assert second.returncode == 0, second.stderr
        assert len(hub.repos[REPO].files) == 7
        del env["HF_TOKEN"]
        third = subprocess.run([*words, "--yes", "--", REPO], cwd=ROOT, env=env, capture_output=True, text=True)
        assert third.returncode == 2
        assert "no token of the hub was found" in third.stderr
        assert "Traceback" not in third.stderr
