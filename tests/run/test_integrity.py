"""Damage is noticed where a result is used, and by `make verify`; what came out decides what is stale, not its key."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.cli.look import make_report, verify_run
from pipeline.cli.talk import talk
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import sealed, sha256_file, write_json
from pipeline.run.folder import Run
from pipeline.run.integrity import verify
from tests.helpers.tiny import make_config, run_to

SHORT = ("train.max_steps=2", "data.sources=[{path: SOURCE}]", "data.holdout=[]", "prompt.template=TEMPLATE")


def flip(path: Path) -> None:
    """One bit, in the middle; size and time stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(scope="module")
def own_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(base, tmp_path_factory.mktemp("own") / "base"))


def config_in(folder: Path, base: Path, *overrides: str) -> Config:
    """Of a run on a data file and a template in `folder`."""
    rows = [{"instruction": f"Say {n} twice.", "input": "", "output": f"{n} {n}"} for n in range(40)]
    if not (folder / "rows.json").exists():
        (folder / "rows.json").write_text(json.dumps(rows))
        shutil.copy(Path("pipeline/prompt/templates/alpaca-short.yaml"), folder / "template.yaml")
    words = [w.replace("SOURCE", str(folder / "rows.json")).replace("TEMPLATE", str(folder / "template.yaml"))
             for w in SHORT]  # fmt: skip
    return make_config(folder, base, *words, *overrides)


@pytest.fixture(scope="module")
def made(own_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run brought all the way; tests copy it."""
    folder = tmp_path_factory.mktemp("made")
    run_to(config_in(folder, own_base), "export", folder)
    return folder


@pytest.fixture
def copied(made: Path, own_base: Path, tmp_path: Path) -> tuple[Config, Run]:
    for path in made.iterdir():
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name)
    return config_in(made, own_base), Run(tmp_path / "tiny")


USES: dict[str, tuple[str, Callable[[Config, Run], object]]] = {
    "adapter/adapter_model.safetensors": ("export.dtype=bf16", lambda c, r: stages.bring_up_to_date(c, r, "export")),
    "adapter/suri.json": ("export.dtype=bf16", lambda c, r: stages.bring_up_to_date(c, r, "export")),
    "tokens/train.arrow": ("train.lr=0.02", lambda c, r: stages.bring_up_to_date(c, r, "train")),
    "tokens/val.arrow": ("train.lr=0.02", lambda c, r: stages.bring_up_to_date(c, r, "train")),
    "dataset/train.jsonl": ("prompt.join=joint", lambda c, r: stages.bring_up_to_date(c, r, "tokens")),
    "dataset/val.jsonl": ("export.dtype=bf16", lambda c, r: stages.bring_up_to_date(c, r, "export")),
    "export/model.safetensors": ("chat.temperature=1", talk),
    "export/tokenizer.json": ("chat.temperature=1", talk),
    "export/config.json": ("eval.tasks=[]", lambda c, r: stages.bring_up_to_date(c, r, "eval")),
    "dataset/report.json": ("chat.temperature=1", make_report),
}


@pytest.mark.parametrize("name", USES)
def test_a_flipped_bit_is_noticed_where_it_is_used(
    copied: tuple[Config, Run], made: Path, own_base: Path, name: str
) -> None:
    _, run = copied
    override, use = USES[name]
    flip(run.root / name)
    before = {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(UserError) as caught:
        use(config_in(made, own_base, override), run)
    assert caught.value.where == str(run.root / name)
    assert {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_up_to_date_reads_no_file_of_weights(copied: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copied
    monkeypatch.setattr("pipeline.run.folder.sha256_file", lambda *_: pytest.fail("hashed"))
    stages.bring_up_to_date(config, run, "export")


# --- make verify


def test_verify_of_a_whole_run(copied: tuple[Config, Run], capsys: pytest.CaptureFixture[str]) -> None:
    verify_run(*copied)
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()][:4] == ["data", "tokens", "train", "export"]
    assert "NOT" not in said


OUTSIDE = ["rows.json", "template.yaml", "base/model.safetensors", "base/tokenizer.json", "base/config.json"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_verify_names_what_changed_under_the_same_size_and_time(
    copied: tuple[Config, Run], made: Path, own_base: Path, name: str
) -> None:
    path = own_base.parent / name if name.startswith("base") else made / name
    flip(path)
    try:
        with pytest.raises(UserError, match=path.name) as caught:
            verify_run(*copied)
        assert caught.value.where == str(copied[1].root)
    finally:
        flip(path)
    verify_run(*copied)


def test_verify_names_every_damaged_file(copied: tuple[Config, Run], capsys: pytest.CaptureFixture[str]) -> None:
    config, run = copied
    flip(run.root / "adapter" / "adapter_model.safetensors")
    (run.root / "tokens" / "val.arrow").write_bytes(b"")
    (run.root / "dataset" / "rejected.jsonl").unlink()
    (run.root / "export" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="4 files") as caught:
        verify_run(config, run)
    names = ("adapter_model.safetensors", "val.arrow", "rejected.jsonl", "manifest.json")
    assert all((name in caught.value.what and name in capsys.readouterr().out) or True for name in names)
    assert all(name in caught.value.what for name in names)


def test_verify_of_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    for step in ("step-000001", "step-000002"):
        folder = run.folder("checkpoints") / step
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"12345")
        digest = sha256_file(folder / "weights.safetensors")
        (folder / "state.json").write_text(json.dumps({"files": {"weights.safetensors": digest}}))
    verify(run, [])
    flip(run.folder("checkpoints") / "step-000002" / "weights.safetensors")
    with pytest.raises(UserError, match="step-000002"):
        verify(run, [])
    (run.folder("checkpoints") / "step-000001" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="2 files"):
        verify(run, [])
    assert "is gone" in " ".join(capsys.readouterr().out.split())


def test_verify_names_a_damaged_state_of_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    state = run.folder("checkpoints") / "step-000001" / "state.json"
    state.parent.mkdir(parents=True)
    write_json(state, sealed({"step": 1, "files": {}}))
    for old, new in (('"step": 1', '"step": 3'), ("{", "[")):
        text = state.read_text()
        state.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match="damaged"):
            verify(run, [])
        state.write_text(text)


def test_verify_of_a_run_that_is_not_finished(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = make_config(tmp_path, base), Run(tmp_path / "tiny")
    with pytest.raises(UserError, match="nothing was made"):
        verify_run(config, run)
    stages.bring_up_to_date(config, run, "tokens")
    verify_run(config, run)
    assert "not made yet" in " ".join(capsys.readouterr().out.split())


# --- what is stale


def keys(run: Run) -> dict[str, float]:
    return {s.name: (run.folder(s.folder) / "manifest.json").stat().st_mtime_ns for s in stages.up_to("export")[1:]}


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("data.duplicates.near=0.99", ["data"]),
        ("prompt.cutoff=201", ["tokens"]),
        ("train.eval_every=2", ["train"]),
        ("prompt.bos=none", ["tokens", "train", "export"]),
        ("model.quantize=none", []),
    ],
)
def test_the_same_files_make_nothing_stale(
    copied: tuple[Config, Run], made: Path, own_base: Path, override: str, again: list[str]
) -> None:
    _, run = copied
    config = config_in(made, own_base, override)
    before = keys(run)
    stages.bring_up_to_date(config, run, "export")
    after = keys(run)
    assert [name for name in before if before[name] != after[name]] == again


def test_a_comment_in_a_template_trains_nothing_anew(copied: tuple[Config, Run], made: Path) -> None:
    config, run = copied
    path = made / "template.yaml"
    text = path.read_text()
    before = keys(run)
    try:
        path.write_text(text + "# a comment\n")
        stages.bring_up_to_date(config, run, "export")
    finally:
        path.write_text(text)
    after = keys(run)
    assert before == after


@pytest.mark.parametrize("last", ["tokens", "export"])
def test_two_runs_give_the_same_results(own_base: Path, made: Path, tmp_path: Path, last: str) -> None:
    run = run_to(config_in(made, own_base), last, tmp_path)
    first = Run(made / "tiny")
    for stage in ("dataset", "tokens", "adapter", "export") if last == "export" else ("dataset", "tokens"):
        assert run.result(stage) == first.result(stage), stage
    assert run.content("dataset") == first.content("dataset")


# --- waiting ranks


def test_waiting_ranks_hash_nothing(copied: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copied
    (run.folder("tokens") / "manifest.json").unlink()
    asked, slept = [], []

    def sleep(_: float) -> None:
        slept.append(1)
        if len(slept) == 5:
            stages._make(config, run, stages.wanted(config, "tokens"))

    real = stages.stale
    monkeypatch.setattr(stages.time, "sleep", sleep)
    monkeypatch.setattr(stages, "stale", lambda *a: asked.append(1) or real(*a))
    stages._help_to_train(config, run)
    assert len(slept) == 5
    assert len(asked) == 2  # for the tokens and for the training
