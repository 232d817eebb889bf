"""Data to an object store: whole lines in parts, the manifest last, nothing sent twice."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dataset import publish, stage
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.data_stage import config_of, lines_of, story
from tests.helpers.object_store import Store, needs_moto


def test_parts_are_whole_lines_and_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(b"".join(b"%d\n" % (10**n) for n in range(9)))
    parts = list(publish.parts_of(file, 12))
    data = [b"".join(part.blocks()) for part in parts]
    assert b"".join(data) == file.read_bytes()
    assert all(
        d.endswith(b"\n") and len(d) == p.size and d.count(b"\n") == p.rows for d, p in zip(data, parts, strict=True)
    )
    assert [p.sha256 for p in parts] == [hashlib.sha256(d).hexdigest() for d in data]
    assert [p.name for p in parts] == [f"train-{n:05d}.jsonl" for n in range(len(parts))]
    file.write_bytes(b"")
    assert list(publish.parts_of(file, 12)) == []


@needs_moto
@pytest.mark.s3
def test_published_data_is_read_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "PART", 2000)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(story(n)) + "\n" for n in range(40)))
    config, run = config_of(tmp_path / "a.jsonl", val=0.2), Run(tmp_path / "run")
    stage.build(config, run)

    # Stopped half-way: some parts are there, no manifest names them.
    write, sent = publish._write, []

    def failing(address: str, part: publish.Part) -> None:
        if len(sent) == 3:
            raise UserError("the object store cannot be reached", address, "")
        sent.append(address)
        write(address, part)

    monkeypatch.setattr(publish, "_write", failing)
    with pytest.raises(UserError):
        publish.publish(config, run, "s3://bucket/out")
    assert len(store.names("bucket/out")) == 3
    assert "bucket/out/t/manifest.json" not in store.names("bucket/out")

    monkeypatch.setattr(publish, "_write", lambda address, part: (sent.append(address), write(address, part)))
    publish.publish(config, run, "s3://bucket/out/")
    assert len(sent) == len(set(sent))  # the first three were not sent again
    manifest = json.loads(store.get("bucket/out/t/manifest.json"))
    for part in manifest["parts"]:
        data = store.get(f"bucket/out/t/{part['path']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part["bytes"], part["sha256"])
    before = len(sent)
    publish.publish(config, run, "s3://bucket/out")
    assert len(sent) == before

    other = Run(tmp_path / "other")
    folder = manifest["parts"][0]["path"].partition("/")[0]
    stage.build(config_of(f"s3://bucket/out/t/{folder}/train-*.jsonl"), other)
    assert [row["id"] for row in lines_of(other, "train")] == [row["id"] for row in lines_of(run, "train")]


@needs_moto
@pytest.mark.s3
def test_a_target_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(story(n)) + "\n" for n in range(9)))
    config, run = config_of(tmp_path / "a.jsonl"), Run(tmp_path / "run")
    stage.build(config, run)
    with pytest.raises(UserError, match="no such bucket"):
        publish.publish(config, run, "s3://nobucket/out")
    with pytest.raises(UserError, match="addresses of the kind ftp:// cannot be"):
        publish.publish(config, run, "ftp://bucket/out")


@needs_moto
@pytest.mark.s3
def test_a_part_that_is_interrupted_leaves_no_object(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A reader of `train-*.jsonl` would take half of a part for all of it."""
    monkeypatch.setattr(publish, "BLOCK", 6 << 20)  # beyond the 5 MB from which uploads are in pieces
    file = tmp_path / "train.jsonl"
    file.write_bytes(b"x" * (20 << 20))
    (part,) = publish.parts_of(file, 1)
    blocks = publish.Part.blocks

    def interrupted(part: publish.Part) -> Iterator[bytes]:
        yield from itertools.islice(blocks(part), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(publish.Part, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish._write("s3://bucket/out/train-00000.jsonl", part)
    assert store.names("bucket/out") == []
