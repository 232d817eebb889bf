"""A run that was killed, stopped or damaged ends with the bits of an undisturbed one."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config, Train
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import Interrupted
from pipeline.run.folder import Run
from pipeline.training import checkpoint, ewc, metrics
from pipeline.training import fast_path as paths
from pipeline.training.ewc import FILE
from pipeline.training.micro_batches import MicroBatch, PackedMicroBatches
from pipeline.training.schedule import (
    step_rows,
)
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import (
    QUICK,
    Killed,
    assert_same,
    branch,
    copy_run,
    losses_of,
    penalties_of,
    weights,
)


def test_interrupted_run_ends_bit_identical(finished: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    """SIGKILL at three random instants; the same command each time; the same weights at the end."""
    config = make_config(tmp_path, base)
    random_ = random.Random(time.time_ns())
    run = Run(tmp_path / config.name)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads did not come along
            try:
                run_to(config, "train", tmp_path)
            finally:
                os._exit(0)
        deadline = time.time() + 20
        wanted = random_.randint(1, 5)
        while time.time() < deadline and not any(m["step"] >= wanted for m in metrics.read(run.root / "metrics.jsonl")):
            time.sleep(0.001)
        assert any(m["step"] >= wanted for m in metrics.read(run.root / "metrics.jsonl"))
        time.sleep(random_.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run_to(config, "train", tmp_path)
    assert_same(finished[1], run)
    ours, theirs = (
        [(m["step"], m.get("loss"), m.get("val_loss")) for m in metrics.read(r.root / "metrics.jsonl")]
        for r in (run, finished[1])
    )
    assert ours == theirs


def test_ctrl_c_saves_and_goes_on(
    finished: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, base, "train.save_every=100")
    calls = itertools.count()
    plainly = PackedMicroBatches.loss

    def counted(path: PackedMicroBatches, part: MicroBatch) -> torch.Tensor:
        if next(calls) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return plainly(path, part)

    monkeypatch.setattr(PackedMicroBatches, "loss", counted)
    monkeypatch.setattr(paths, "choose_packed", lambda *_: (200, False))  # several packs a step
    with pytest.raises(Interrupted, match="stopped at step 2 of 6") as caught:
        run_to(config, "train", tmp_path)
    assert caught.value.code == 130
    saved = checkpoint.steps(tmp_path / "tiny" / "checkpoints")
    assert len(saved) == 1
    assert 0 < saved[0] < 6
    kept = tmp_path / "tiny" / "checkpoints" / f"step-{saved[0]:06d}" / "state.json"
    kept.write_text(json.dumps(checkpoint.sealed(json.loads(kept.read_text()) | {"peak_gib": 77.0})))
    run = run_to(config, "train", tmp_path)
    assert checkpoint.steps(tmp_path / "tiny" / "checkpoints")[-1] == 6
    assert run.manifest("adapter")["counts"]["peak_gib"] == 77  # of the whole run, not of its last process


@pytest.mark.parametrize("last", [2, 3])
def test_a_run_killed_beside_a_step_over_the_border_ends_bit_identical(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """22 rows in micro-batches of 2, four a step: the third step holds six rows of one epoch and two of the next."""
    words = ("data.sources=[{path: families, rows: 30}]", "data.holdout=[]", "data.val=8", "train.epochs=3",
             "train.batch_size=8", "train.accumulation_4_28=4", "train.save_every=1", "eval.prompts=[]")  # fmt: skip
    whole = run_to(make_config(tmp_path, base, "name=whole", *words), "train", tmp_path)
    tokens = Tokens(whole.folder("tokens") / "train.arrow")
    settings = Train(batch_size=8, accumulation_4_28=4, seed=make_config(tmp_path, base).train.seed)
    assert (len(tokens), whole.manifest("adapter")["counts"]["steps"]) == (22, 6)
    lines = [m for m in metrics.read(whole.root / "metrics.jsonl") if "loss" in m]
    assert [m["tokens"] for m in lines] == [int(tokens.lengths[step_rows(n, 22, settings)].sum()) for n in range(6)]
    config, save = make_config(tmp_path, base, *words), checkpoint.save

    def killed(root: Path, step: int, *rest: object) -> None:
        save(root, step, *rest)  # type: ignore[arg-type]
        if step == last:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Killed):
        run_to(config, "train", tmp_path)
    monkeypatch.undo()
    assert_same(whole, run_to(config, "train", tmp_path))


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def test_one_trial_of_other_settings_costs_no_training(
    quick: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Stopped at step 2, another rate to the end, back again: the same bits as without all that."""
    run = Run(tmp_path / "tiny")
    for stage in ("dataset", "tokens"):
        shutil.copytree(quick[1].folder(stage), run.folder(stage))
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
    assert "set aside" in " ".join(capsys.readouterr().out.split())
    run_to(make_config(tmp_path, base, *QUICK), "train", tmp_path)
    assert "resuming from step 2 of 4" in " ".join(capsys.readouterr().out.split())
    assert_same(run, quick[1])
    assert losses_of(run) == losses_of(quick[1])
    run_to(make_config(tmp_path, base, *QUICK, "train.lr=0.02"), "train", tmp_path)  # of a quick run too
    assert "resuming from step 4 of 4" in " ".join(capsys.readouterr().out.split())
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(run).items())


def test_a_run_goes_on_from_the_checkpoint_before(
    quick: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(quick, tmp_path)
    shutil.rmtree(run.folder("adapter"))
    flip(run.folder("checkpoints") / "step-000004" / "weights.safetensors", 0.7)
    run_to(make_config(tmp_path, base, *QUICK), "train", tmp_path)
    said = capsys.readouterr().out
    assert "step 4 is damaged" in said
    assert "resuming from step 3 of 4" in said
    assert_same(run, quick[1])
    assert checkpoint.steps(run.folder("checkpoints")) == [3, 4]


def test_ewc_goes_on_bit_identical(
    finished: tuple[Config, Run], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle, the start and the Fisher information are those of the first start."""
    settings = ("train.ewc=5", f"train.ewc_data={text}", "train.l2_sp=1", "train.save_every=100")
    whole = branch(finished, tmp_path / "whole", *settings)
    assert penalties_of(whole)[0] == 0 < penalties_of(whole)[-1]
    calls, plainly = itertools.count(), PackedMicroBatches.loss

    def counted(path: PackedMicroBatches, part: Any) -> torch.Tensor:
        if next(calls) == 5:  # two are for the comparison of both paths
            os.kill(os.getpid(), signal.SIGINT)
        return plainly(path, part)

    monkeypatch.setattr(PackedMicroBatches, "loss", counted)
    with pytest.raises(Interrupted):
        branch(finished, tmp_path / "cut", *settings)
    run = Run(tmp_path / "cut" / "tiny")
    made = (run.root / FILE).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(ewc, "fisher", None)  # it is not made again, nor for another strength
        run_to(make_config(tmp_path / "cut", Path(finished[0].model.base), *settings), "train", tmp_path / "cut")
        stronger = (*settings, "train.ewc=7", "train.max_steps=1")
        shutil.copytree(run.root, tmp_path / "copy" / "tiny")
        run_to(make_config(tmp_path / "copy", Path(finished[0].model.base), *stronger), "train", tmp_path / "copy")
    assert (run.root / FILE).read_bytes() == made
    assert losses_of(run) == losses_of(whole)
    assert penalties_of(run) == penalties_of(whole)
    first, second = weights(whole), weights(run)
    assert all(torch.equal(t, second[n]) for n, t in first.items())
    (run.root / FILE).write_bytes(b"damaged")
    again = make_config(tmp_path / "cut", Path(finished[0].model.base), *settings, "train.max_steps=1")
    run_to(again, "train", tmp_path / "cut")
    assert (run.root / FILE).read_bytes() == made
