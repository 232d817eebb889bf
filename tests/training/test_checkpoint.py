"""Checkpoints: damage is noticed and the one before is taken; those of other settings are set aside and come back."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file, sha256_json, write_json
from pipeline.run.folder import Run
from pipeline.training import archive, checkpoint, interrupt, metrics
from pipeline.training import fast_path as paths
from tests.helpers.tiny import make_config, run_to, train_on_two

KEY, OTHER = "a" * 64, "b" * 64
STATE = {"sizes": {}, "micro_tokens": 9, "recompute": False, "learnt": 5, "seconds": 1.5, "peak_gib": 0.5}


def trained(seed: int = 0) -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
    """Two weights after a step."""
    torch.manual_seed(seed)
    weights = {"a": torch.nn.Parameter(torch.randn(3, 4)), "b": torch.nn.Parameter(torch.randn(4))}
    optimizer = torch.optim.AdamW(weights.values())
    (weights["a"] @ weights["b"]).sum().backward()
    optimizer.step()
    return weights, optimizer


def put(root: Path, step: int, key: str = KEY) -> None:
    checkpoint.save(root, step, *trained(step), {"key": key, **STATE}, 9)


def settle(root: Path, key: str = KEY, *beside: Path) -> list[int]:
    archive.settle(root, key, trained()[0], beside)
    return checkpoint.steps(root)


def rewrite(folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Other tensors, with hashes that fit them."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    state = json.loads((folder / "state.json").read_text())
    state["files"][file] = sha256_file(folder / file)
    (folder / "state.json").write_text(json.dumps(checkpoint.sealed(state)))


def restate(folder: Path, seal: bool = True, **values: Any) -> None:
    state = json.loads((folder / "state.json").read_text()) | values
    (folder / "state.json").write_text(json.dumps(checkpoint.sealed(state) if seal else state))


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty weights": lambda f: (f / "weights.safetensors").write_bytes(b""),
    "truncated weights": lambda f: os.truncate(f / "weights.safetensors", 60),
    "no weights": lambda f: (f / "weights.safetensors").unlink(),
    "weights are a folder": lambda f: ((f / "weights.safetensors").unlink(), (f / "weights.safetensors").mkdir()),
    "no optimizer": lambda f: (f / "optimizer.safetensors").unlink(),
    "a bit of the weights": lambda f: flip(f / "weights.safetensors", 0.9),
    "a bit of a header": lambda f: flip(f / "optimizer.safetensors", 0.1),
    "a bit of the moments": lambda f: flip(f / "optimizer.safetensors", 1),
    "state of another step": lambda f: restate(f, step=7),
    "state is a list": lambda f: (f / "state.json").write_text("[1]"),
    "state is empty": lambda f: (f / "state.json").write_text(""),
    "state is nested": lambda f: (f / "state.json").write_text('{"step": ' * 500),
    "state lacks the sizes": lambda f: restate(f, sizes=None),
    "sizes of another type": lambda f: restate(f, micro_tokens="9"),
    "key of another form": lambda f: restate(f, key="../../x"),
    "another number in the state": lambda f: restate(f, seal=False, learnt=6),
    "no seal": lambda f: restate(f, seal=False, sha256=""),
    "a tensor is missing": lambda f: rewrite(f, "weights.safetensors", lambda t: t.pop("b")),
    "a tensor too many": lambda f: rewrite(f, "weights.safetensors", lambda t: t.update(c=torch.ones(1))),
    "a row instead of a matrix": lambda f: rewrite(f, "weights.safetensors", lambda t: t.update(a=torch.ones(1, 4))),
    "another type": lambda f: rewrite(f, "weights.safetensors", lambda t: t.update(b=torch.ones(4).double())),
    "a moment is missing": lambda f: rewrite(f, "optimizer.safetensors", lambda t: t.pop("a|exp_avg_sq")),
    "a moment of another shape": lambda f: rewrite(
        f, "optimizer.safetensors", lambda t: t.update({"a|exp_avg": torch.ones(1, 4)})
    ),
    "no moments": lambda f: rewrite(f, "optimizer.safetensors", lambda t: t.clear()),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    for step in (4, 5):
        put(tmp_path, step)
    DAMAGE[how](tmp_path / "step-000005")
    assert settle(tmp_path) == [4]
    assert "step 5 is damaged" in capsys.readouterr().out
    assert (tmp_path / "damaged" / "step-000005").is_dir()
    assert (checkpoint.newest(tmp_path, KEY, {}) or {})["step"] == 4
    DAMAGE[how](tmp_path / "step-000004") if "step" not in how else restate(tmp_path / "step-000004", step=9)
    assert settle(tmp_path) == []
    assert "starts anew" in capsys.readouterr().out


def test_a_whole_one_is_not_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, 4)
    assert settle(tmp_path) == [4]
    weights, optimizer = trained(1)
    checkpoint.restore(tmp_path, 4, weights, optimizer)
    wanted, moments = trained(4)
    for name, weight in wanted.items():
        assert torch.equal(weights[name], weight)
        for moment, value in moments.state[weight].items():
            assert torch.equal(optimizer.state[weights[name]][moment], value)
    assert capsys.readouterr().out == ""


def test_restore_does_not_broadcast(tmp_path: Path) -> None:
    put(tmp_path, 4)
    rewrite(tmp_path / "step-000004", "weights.safetensors", lambda t: t.update(a=torch.ones(1, 4)))
    with pytest.raises(ValueError, match=r"a as F32 \[1, 4\]"):
        checkpoint.restore(tmp_path, 4, *trained())


def test_missing_rights_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 4)

    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "sha256_file", forbidden)
    with pytest.raises(UserError, match="Permission denied"):
        settle(tmp_path)
    assert checkpoint.steps(tmp_path) == [4]


def test_checkpoints_of_versions_without_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As commit 6a21577 wrote them: gone on from, or set aside."""
    for step, key in ((3, OTHER), (4, KEY), (5, KEY)):
        put(tmp_path, step, key)
        state = json.loads((tmp_path / f"step-{step:06d}" / "state.json").read_text())
        plain = {name: value for name, value in state.items() if name not in ("files", "sha256")}
        (tmp_path / f"step-{step:06d}" / "state.json").write_text(json.dumps(plain))
    os.truncate(tmp_path / "step-000005" / "optimizer.safetensors", 200)
    assert settle(tmp_path) == [4]
    assert checkpoint.steps(tmp_path / OTHER[:16]) == [3]


# --- other settings


def tree(root: Path) -> dict[str, bytes]:
    """All files with their bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_other_settings_are_set_aside_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, log = tmp_path / "checkpoints", tmp_path / "metrics.jsonl"
    for step in (1, 2):
        put(root, step)
        metrics.append(log, {"step": step})
    before = tree(tmp_path)
    assert settle(root, OTHER, log) == []
    assert "steps 1, 2" in capsys.readouterr().out
    metrics.rewind(log, -1)
    put(root, 2, OTHER)
    metrics.append(log, {"step": 2, "loss": 5})
    theirs = tree(tmp_path)
    assert settle(root, KEY, log) == [1, 2]
    assert {name: data for name, data in tree(tmp_path).items() if OTHER[:16] not in name} == before
    assert settle(root, OTHER, log) == [2]
    assert tree(tmp_path).keys() == theirs.keys()
    assert log.read_text() == '{"step": 2, "loss": 5}\n'


@pytest.mark.parametrize("linked", [True, False])
def test_a_crash_at_any_rename_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    """There and back, killed at each rename in turn."""
    if not linked:  # a disk without second names
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError))
    real = os.replace
    for crash_at in range(1, 20):
        folder = tmp_path / str(crash_at)
        root, log = folder / "checkpoints", folder / "metrics.jsonl"
        for step in (1, 2):
            put(root, step)
            metrics.append(log, {"step": step})
        before = tree(folder)
        count = 0

        def dying(source: Path, target: Path, crash_at: int = crash_at) -> None:
            nonlocal count
            count += 1
            if count == crash_at:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "replace", dying)
        for key in (OTHER, KEY):
            try:
                settle(root, key, log)
            except KeyboardInterrupt:
                settle(root, key, log)
        monkeypatch.setattr(os, "replace", real)
        assert tree(folder) == before
        if count < crash_at:
            return
    pytest.fail("the crashes never end")


def test_the_newest_few_of_other_settings_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"{n}" * 64 for n in range(1, 7)]
    for n, key in enumerate(keys):
        settle(tmp_path, key)
        put(tmp_path, 1, key)
        for n_, k in enumerate(keys[:n]):
            if (tmp_path / k[:16]).is_dir():
                os.utime(tmp_path / k[:16], (n_, n_))
    said = capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*(k[:16] for k in keys[2:5]), "step-000001"])
    assert [k in said for k in ("1" * 16 + ")", "2" * 16 + ")", "3" * 16 + ")")] == [True, True, False]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    put(tmp_path, 4)
    (tmp_path / ".step-000005.tmp").mkdir()
    assert settle(tmp_path) == [4]
    assert [p.name for p in tmp_path.iterdir()] == ["step-000004"]


def test_disk_says_what_other_settings_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 4, OTHER)
    monkeypatch.setattr(checkpoint, "space", lambda *_: 10**18)
    alone = type("Alone", (), {"is_main_process": True})()
    with pytest.raises(UserError, match="of other settings"):
        archive.open_checkpoints(tmp_path, KEY, {}, trained()[0], 2, (), alone)


# --- whole runs


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    folder = tmp_path_factory.mktemp("undisturbed")
    config = make_config(folder, base, *QUICK)
    return config, run_to(config, "train", folder)


QUICK = ("eval.prompts=[]", "eval.rows=1", "train.max_steps=4")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.folder("adapter").glob("*model.safetensors")))


def assert_same(a: Run, b: Run) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def losses(run: Run) -> list[tuple[int, Any, Any]]:
    return [(m["step"], m.get("loss"), m.get("val_loss")) for m in metrics.read(run.root / "metrics.jsonl")]


def copy(finished: tuple[Config, Run], folder: Path) -> Run:
    shutil.copytree(finished[1].root, folder / "tiny")
    return Run(folder / "tiny")


def test_a_touched_copied_or_moved_base_is_not_trained_again(
    finished: tuple[Config, Run], base: Path, tmp_path: Path
) -> None:
    run, moved = copy(finished, tmp_path), Path(shutil.copytree(base, tmp_path / "moved"))
    (moved / "README.json").write_text("{}")
    values = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(values, indent=3, sort_keys=True))
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    chain = stages.STAGES[:3]
    assert stages.stale(make_config(tmp_path, moved, *QUICK), run, chain) == []
    (moved / "config.json").write_text(json.dumps({**values, "rms_norm_eps": 1e-3}))
    assert "train" in stages.stale(make_config(tmp_path, moved, *QUICK), run, chain)


def test_a_template_goes_by_what_it_renders(finished: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    form = (Path(stages.__file__).parent / "prompt" / "templates" / "alpaca-short.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(f"# a comment\n{form}\n\n")
    chain, words = stages.STAGES[:3], (*QUICK, f"prompt.template={tmp_path / 'mine.yaml'}")
    assert stages.stale(make_config(tmp_path, base, *words), run, chain) == []
    (tmp_path / "mine.yaml").write_text(form.replace("### Response", "### Answer"))
    assert stages.stale(make_config(tmp_path, base, *words), run, chain)[0] == "tokens"


def test_one_trial_of_other_settings_costs_no_training(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Stopped at step 2, another rate to the end, back again: the same bits as without all that."""
    run = Run(tmp_path / "tiny")
    for stage in ("dataset", "tokens"):
        shutil.copytree(finished[1].folder(stage), run.folder(stage))
    stock = checkpoint.save

    def dies(root: Path, step: int, *more: Any) -> None:
        stock(root, step, *more)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            run_to(make_config(tmp_path, base, *QUICK), "train", tmp_path)
    run_to(make_config(tmp_path, base, *QUICK, "train.lr=0.02"), "train", tmp_path)
    other = weights(run)
    assert "set aside" in capsys.readouterr().out
    run_to(make_config(tmp_path, base, *QUICK), "train", tmp_path)
    assert "going on from step 2 of 4" in capsys.readouterr().out
    assert_same(run, finished[1])
    assert losses(run) == losses(finished[1])
    run_to(make_config(tmp_path, base, *QUICK, "train.lr=0.02"), "train", tmp_path)  # of a finished run too
    assert "going on from step 4 of 4" in capsys.readouterr().out
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(run).items())


def test_a_run_goes_on_from_the_checkpoint_before(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(finished, tmp_path)
    shutil.rmtree(run.folder("adapter"))
    flip(run.folder("checkpoints") / "step-000004" / "weights.safetensors", 0.7)
    run_to(make_config(tmp_path, base, *QUICK), "train", tmp_path)
    said = capsys.readouterr().out
    assert "step 4 is damaged" in said
    assert "going on from step 3 of 4" in said
    assert_same(run, finished[1])
    assert checkpoint.steps(run.folder("checkpoints")) == [3, 4]


def as_before(run: Run, config: Config, base: Path) -> None:
    """Puts keys as commit 6a21577 wrote them into a finished run."""
    listed = [p for p in sorted(base.glob("*")) if p.suffix in (".json", ".model", ".jinja")]
    inputs = {
        str(p): {"bytes": p.stat().st_size, "mtime": p.stat().st_mtime_ns, "sha256": sha256_file(p)} for p in listed
    }
    large = (base / "model.safetensors").stat()
    of = {"kind": "folder", "tokenizer": "", "weights": {"model.safetensors": [large.st_size, large.st_mtime_ns]},
          "inputs": inputs}  # fmt: skip
    data, tokens, adapter = (run.manifest(stage) or {} for stage in ("dataset", "tokens", "adapter"))
    form = Path(stages.__file__).parent / "prompt" / "templates" / "alpaca-short.yaml"
    before = {
        "version": 1, "prompt": tokens["key"]["prompt"], "template_file": sha256_file(form), "add_tokens": [],
        "tokenizer": of, "dataset": sha256_json([data["key"], data["files"]]),
    }  # fmt: skip
    now = adapter["key"]
    old = {**now, "version": 1, "model": config.value("model"), "base": of,
           "tokens": sha256_json([before, tokens["files"]])}  # fmt: skip
    for stage, manifest, key in (("tokens", tokens, before), ("adapter", adapter, old)):
        unsealed = {name: value for name, value in manifest.items() if name != "sha256"}
        write_json(run.folder(stage) / "manifest.json", unsealed | {"key": key})
    owner = checkpoint.key_of(old, "")[0]
    for step in checkpoint.steps(run.folder("checkpoints")):
        place = checkpoint.folder_of(run.folder("checkpoints"), step) / "state.json"
        state = json.loads(place.read_text()) | {"key": owner}
        write_json(place, {name: value for name, value in state.items() if name not in ("files", "sha256")})


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_of_an_earlier_version_is_taken_over(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    run, config = copy(finished, tmp_path), make_config(tmp_path, base, *QUICK)
    as_before(run, config, base)
    if not whole:
        shutil.rmtree(run.folder("adapter"))
        shutil.rmtree(run.folder("checkpoints") / "step-000004")
    run_to(config, "train", tmp_path)
    assert ("taken over" if whole else "going on from step 3 of 4") in capsys.readouterr().out
    assert_same(run, finished[1])
    assert stages.stale(config, run, stages.STAGES[:3]) == []


def test_a_run_of_an_earlier_version_on_another_base_is_not(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = copy(finished, tmp_path), make_config(tmp_path, base, *QUICK)
    as_before(run, config, base)
    other = Path(shutil.copytree(base, tmp_path / "base"))
    flip(other / "model.safetensors", 0.99)
    run_to(make_config(tmp_path, other, *QUICK), "train", tmp_path)
    said = capsys.readouterr().out
    assert "taken over" not in said
    assert "set aside" in said


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_ranks_agree_on_the_size_of_packs(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has another amount of memory free; dropout depends on how steps are cut up, so a resumed run shows it."""
    monkeypatch.setattr(paths, "choose_packed", lambda *_: ((250, False), (140, False))[int(os.environ["RANK"])])
    for name in ("whole", "resumed"):
        for stage in ("dataset", "tokens"):
            shutil.copytree(finished[1].folder(stage), tmp_path / name / "tiny" / stage)
    whole = train_on_two(make_config(tmp_path, base, *QUICK), tmp_path / "whole")
    state = json.loads((whole.folder("checkpoints") / "step-000004" / "state.json").read_text())
    assert state["micro_tokens"] == 140
    run = Run(tmp_path / "resumed" / "tiny")
    shutil.copytree(whole.root, run.root, dirs_exist_ok=True)
    shutil.rmtree(run.folder("adapter"))
    shutil.rmtree(run.folder("checkpoints") / "step-000004")
    assert_same(train_on_two(make_config(tmp_path, base, *QUICK), tmp_path / "resumed"), whole)


# --- signals, metrics


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupt.interruptible() as flag:
        os.kill(os.getpid(), number)
        assert flag.code == 128 + number
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_a_closed_terminal_is_no_error(tmp_path: Path) -> None:
    """Progress is drawn there while a step is finished and saved."""
    child, handle = pty.fork()
    if not child:
        with interrupt.interruptible() as flag:
            os.write(1, b"ready")
            for _ in range(500):
                time.sleep(0.01)
                if flag.code:
                    os.write(1, b"saving")
                    os.write(2, b"saved")
                    (tmp_path / "code").write_text(str(flag.code))
                    break
        os._exit(0)
    assert b"ready" in os.read(handle, 1000)
    os.close(handle)
    os.waitpid(child, 0)
    assert (tmp_path / "code").read_text() == str(128 + signal.SIGHUP)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.interruptible() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert flag.code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_handlers_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the first handler is set and before the second is."""
    real, sent = signal.signal, []

    def sending(number: int, handler: Any) -> Any:
        found = real(number, handler)
        if not sent:
            sent.append(number)
            handler(number, None)
        return found

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(interrupt.signal, "signal", sending)
    with interrupt.interruptible() as flag:
        assert flag.code == 128 + sent[0]
    assert signal.getsignal(signal.SIGINT) == before


def test_rewind_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "metrics.jsonl"
    for step in range(4):
        metrics.append(log, {"step": step, "spike": ["a\u2028b"]})
    before = log.read_bytes()

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            metrics.rewind(log, 1)
    assert log.read_bytes() == before
    metrics.rewind(log, 1)
    assert [m["step"] for m in metrics.read(log)] == [0, 1]
    with open(log, "ab") as file:
        file.write(b'{"step": \xff\n{"step": 1e999}\n{"step": 2}\n')
    assert [m["step"] for m in metrics.read(log)] == [0, 1, 2]
