"""Checkpoints: damage is noticed and the one before is taken; those of other settings are set aside and come back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file
from pipeline.run.folder import Run
from pipeline.training import archive, checkpoint, metrics
from pipeline.training.optimizer_state import Layout

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
    archive.settle(root, key, Layout.of(trained()[0], "adamw"), beside)
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
    assert "step 5 is damaged" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "damaged" / "step-000005").is_dir()
    assert (checkpoint.newest(tmp_path, KEY, {}) or {})["step"] == 4
    DAMAGE[how](tmp_path / "step-000004") if "step" not in how else restate(tmp_path / "step-000004", step=9)
    assert settle(tmp_path) == []
    assert "from the beginning" in " ".join(capsys.readouterr().out.split())


def test_a_whole_one_is_not_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, 4)
    assert settle(tmp_path) == [4]
    weights, optimizer = trained(1)
    checkpoint.restore(tmp_path, 4, weights, optimizer, Layout.of(weights, "adamw"))
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
        checkpoint.restore(tmp_path, 4, *trained(), Layout.of(trained()[0], "adamw"))


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
    assert "steps 1, 2" in " ".join(capsys.readouterr().out.split())
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
        archive.open_checkpoints(tmp_path, KEY, {}, Layout.of(trained()[0], "adamw"), 2, (), alone)


@pytest.mark.parametrize("fused", [False, True])
def test_step_counts_lie_where_the_optimizer_wants_them(tmp_path: Path, fused: bool) -> None:
    """AdamW's one kernel wants them on its own device, the others on the CPU."""
    one = {"a": torch.nn.Parameter(torch.ones(2))}
    optimizer = torch.optim.AdamW(one.values())
    one["a"].sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, 1, one, optimizer, {}, 1)
    other = {"a": torch.nn.Parameter(torch.zeros(2, device="meta"))}
    optimizer = torch.optim.AdamW(other.values())
    optimizer.param_groups[0]["fused"] = fused
    checkpoint.restore(tmp_path, 1, other, optimizer, Layout.of(other, "adamw"))
    places = {moment: str(value.device) for moment, value in optimizer.state[other["a"]].items()}
    assert places == {"step": "meta" if fused else "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_damaged_checkpoint_without_state_is_not_used(finished: tuple[Config, Run], tmp_path: Path) -> None:
    (tmp_path / "step-000007").mkdir()
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.newest(tmp_path, "x", {}) is None


def test_disk_for_checkpoints(tmp_path: Path) -> None:
    """Three of 12 bytes a number while the third is written; those that are there are not asked for again."""
    layout = Layout.of({"a": torch.nn.Parameter(torch.zeros(1000))}, "adamw")
    assert checkpoint.space(tmp_path, layout, 2) == 36_012
    (tmp_path / "step-000001").mkdir()
    (tmp_path / "step-000001" / "weights.safetensors").write_bytes(bytes(20_000))
    assert checkpoint.space(tmp_path, layout, 2) == 16_012
    (tmp_path / "step-000001" / "optimizer.safetensors").write_bytes(bytes(20_000))
    assert checkpoint.space(tmp_path, layout, 2) == 12_004
