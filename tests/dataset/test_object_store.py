"""Sources on an object store: the rows and bytes of the same files on a disk, and one message for each failure.

moto's server (S3 API) stands in for a store; a server that cuts its answers off is written here.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from pipeline.config.contradictions import contradictions
from pipeline.config.schema import Source
from pipeline.dataset import stage
from pipeline.dataset.read.source import files_of, read
from pipeline.run import object_store
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.hash_cache import cached_sha256
from pipeline.run.integrity import verify
from pipeline.run.object_store import _fits
from tests.helpers.data_stage import config_of, refused, story
from tests.helpers.object_store import KEYS, Store, free_port, needs_moto

pytestmark = pytest.mark.s3


@pytest.mark.parametrize(
    ("path", "pattern", "is_found"),
    [
        ("in/a.jsonl", "in/*.jsonl", True), ("in/x/a.jsonl", "in/*.jsonl", False), ("in/x/y", "**", True),
        ("in/a.jsonl", "in/**/a.jsonl", True), ("in/x/y/a.jsonl", "in/**/a.jsonl", True),
        ("in/x/y/b.jsonl", "in/**/a.jsonl", False),
        ("/".join("a" * 60), "/".join(["**"] * 30 + ["b"]), False),
    ],
)  # fmt: skip
def test_wildcards(path: str, pattern: str, is_found: bool) -> None:
    """The last one would take longer than a life if each way to place the folders were tried."""
    assert _fits(path.split("/"), pattern.split("/")) is is_found


def lines(*numbers: int) -> bytes:
    return b"".join(json.dumps(story(n)).encode() + b"\n" for n in numbers)


@needs_moto
def test_the_rows_of_every_form_are_those_of_a_local_file(store: Store, tmp_path: Path) -> None:
    rows = [story(n) for n in range(2500)]
    table = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    forms = {
        "a.json": json.dumps(rows).encode(), "a.jsonl": lines(*range(2500)), "a.parquet": table.read_bytes(),
        "a.jsonl.gz": gzip.compress(lines(*range(2500))),
        "a.csv": b"instruction,output\n" + b"".join(f"Tell {n}.,Yes {n}.\n".encode() for n in range(9)),
    }  # fmt: skip
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        store.put(f"bucket/deep/er/{name}", data)
        local = [row.value for row in read(Source(path=str(tmp_path / name)), 1)]
        remote = list(read(Source(path=f"s3://bucket/deep/er/{name}"), 1))
        assert [row.value for row in remote] == local
        assert remote[0].place.startswith(f"s3://bucket/deep/er/{name}")


@needs_moto
def test_the_stage_gives_the_same_bytes_and_runs_again_only_for_other_bytes(store: Store, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for number, name in enumerate(("x/a.jsonl", "x/b.jsonl", "y/c.jsonl")):
        data = lines(*range(number * 100, number * 100 + 110))
        (tmp_path / "in" / name).write_bytes(data)
        store.put(f"bucket/in/{name}", data)
    local, remote = Run(tmp_path / "local"), Run(tmp_path / "remote")
    stage.build(config_of(tmp_path / "in/*/[ab].jsonl", tmp_path / "in/y/c.jsonl", val=0.1), local)
    config = config_of("s3://bucket/in/*/[ab].jsonl", "s3://bucket/in/**/c.jsonl", val=0.1)
    key = stage.key(config, remote)
    assert list(key["inputs"]) == [f"s3://bucket/in/{name}" for name in ("x/a.jsonl", "x/b.jsonl", "y/c.jsonl")]
    hashes = [entry["sha256"] for entry in key["inputs"].values()]
    assert hashes == [entry["sha256"] for entry in local.manifest("dataset")["key"]["inputs"].values()]  # type: ignore[index]
    stage.build(config, remote, key)
    for split in ("train", "val"):
        texts = [json.loads(line)["id"] for line in (remote.folder("dataset") / f"{split}.jsonl").open()]
        assert texts == [json.loads(line)["id"] for line in (local.folder("dataset") / f"{split}.jsonl").open()]
    verify(remote, [("data", "dataset")])

    store.put("bucket/in/x/a.jsonl", lines(*range(110)))  # the same bytes, written again
    assert remote.is_current("dataset", stage.key(config, remote))
    store.put("bucket/in/x/a.jsonl", lines(*range(109)))
    assert not remote.is_current("dataset", stage.key(config, remote))
    with pytest.raises(UserError, match=r"s3://bucket/in/x/a\.jsonl: [\d,]+ bytes instead of"):
        verify(remote, [("data", "dataset")])


@needs_moto
def test_the_hash_is_computed_once_for_each_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read_again: list[str] = []
    plain = object_store.Object.sha256
    monkeypatch.setattr(
        object_store.Object, "sha256", lambda self, *more: read_again.append(self.address) or plain(self, *more)
    )
    for data, times in ((b"abc", 1), (b"abc", 1), (b"abd", 2)):
        store.put("bucket/a.jsonl", data)
        assert cached_sha256(object_store.described("s3://bucket/a.jsonl"))
        assert len(read_again) == times


@needs_moto
def test_a_change_while_it_is_read_is_noticed(store: Store) -> None:
    store.put("bucket/a.jsonl", lines(1, 2))
    (there,) = files_of(Source(path="s3://bucket/a.jsonl"))
    assert isinstance(there, object_store.Object)
    store.put("bucket/a.jsonl", lines(3, 4))
    with pytest.raises(UserError, match="the object changed while it was read"):
        there.stream()


@needs_moto
@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("s3://nobucket/a.jsonl", "no such bucket"),
        ("s3://nobucket/x/*.jsonl", "no such bucket"),
        ("s3://bucket/none.jsonl", "no such object"),
        ("s3://bucket/x/*.json", "no object matches"),
        ("s3://bucket/x", "a folder of a bucket, not an object"),
        ("s3://buck*/x", "the name of the bucket holds a wildcard"),
        ("s3://", "the address names no bucket"),
        ("s3:///x", "the address names no bucket"),
        ("s3://bucket//x", "the address holds an empty folder name (//), . or .."),
        ("s3://bucket/x/../y", "the address holds an empty folder name (//), . or .."),
        ("gopher://bucket/x", "addresses of the kind gopher:// cannot be read"),
    ],
)
def test_addresses_that_lead_nowhere(store: Store, path: str, what: str, tmp_path: Path) -> None:
    store.put("bucket/x/a.jsonl", lines(1))
    assert refused(Run(tmp_path / "run"), path).startswith(f"{what}\n  where: ")


@pytest.mark.parametrize("has_keys", [True, False])
def test_credentials_are_missing_or_wrong(has_keys: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in Store(0).environment.items():
        monkeypatch.setenv(name, value)
    for name in () if has_keys else KEYS:
        monkeypatch.delenv(name)
    with answering(Refusing, monkeypatch):
        message = refused(Run(tmp_path / "run"), "s3://bucket/a.jsonl")
    assert message.startswith("the object store refuses: no credentials, wrong ones, or without rights to this")
    assert "not-a-secret" not in message


@pytest.mark.parametrize(
    "address",
    ["s3://ANNE:H1DDEN@bucket/a", "s3://ANNE:H1D/DEN@bucket/a", "S3://ANNE:H1DDEN@bucket/a", "gs://ANNE:H1DDEN@b/a"],
)
def test_credentials_in_an_address_are_refused_and_not_shown(address: str, tmp_path: Path) -> None:
    config = config_of(address)
    message = refused(Run(tmp_path / "run"), address)
    assert message.startswith("the address holds credentials\n  where: ")
    problems = [text for key, text in contradictions(config, model=False) if key == ("data", "sources", 0, "path")]
    assert len(problems) == 1
    assert problems[0].startswith("the address holds credentials")
    assert not any(secret in text for text in (message, *problems) for secret in ("ANNE", "H1D", "DEN"))


def test_an_at_sign_in_a_key_is_no_credential() -> None:
    assert object_store.path_of("s3://bucket/mails@host:1/a@b.jsonl") == "bucket/mails@host:1/a@b.jsonl"


@pytest.mark.parametrize(
    ("endpoint", "what"),
    [
        ("http://ANNE:H1DDEN@host", "the address of the object store holds credentials"),
        ("ftp://host", "no object store: Invalid S3 connection scheme"),
    ],
)
def test_endpoints_that_are_refused(
    endpoint: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    message = refused(Run(tmp_path / "run"), "s3://bucket/a.jsonl")
    assert message.startswith(what)
    assert "  where: AWS_ENDPOINT_URL" in message
    assert "H1DDEN" not in message


@pytest.mark.parametrize("target", ["", "folder", "s3://", "s3:///x", "s3://bucket/a*", "s3://k:s@bucket/a"])
def test_targets_that_are_refused(target: str) -> None:
    with pytest.raises(UserError):
        object_store.check_target(target)


def test_the_store_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    message = refused(Run(tmp_path / "run"), "s3://bucket/a.jsonl")
    assert message.startswith("the object store cannot be reached\n  where: s3://bucket/a.jsonl")
    assert "AWS_ENDPOINT_URL (now http://127.0.0.1:" in message


class CutOff(http.server.BaseHTTPRequestHandler):
    """Says that an object has 100,000 bytes, and sends 1,000 of them."""

    def do_HEAD(self) -> None:
        self.head(200, 100_000)

    def do_GET(self) -> None:
        self.head(206, 100_000)
        self.wfile.write(lines(*range(100))[:1000])

    def head(self, status: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Tue, 01 Dec 2026 00:00:00 GMT")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


class Refusing(CutOff):
    """Answers 403, as a store does without the right credentials."""

    def do_HEAD(self) -> None:
        self.head(403, 0)

    do_GET = do_HEAD


@contextlib.contextmanager
def answering(handler: type[CutOff], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_a_stream_that_is_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with answering(CutOff, monkeypatch):
        message = refused(Run(tmp_path / "run"), "s3://bucket/a.jsonl")
    assert "  where: s3://bucket/a.jsonl" in message
    assert "run the same command again" in message or "check the network" in message


def test_a_pyarrow_without_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pyarrow.fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.delattr(pyarrow.fs, "S3FileSystem")
    assert refused(Run(tmp_path / "run"), "s3://bucket/a").startswith("the installed pyarrow was built without S3")
