"""Training: what a step is made of, and that a run which was killed ends as if it had not been."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import Config, Train
from pipeline.errors import Interrupted, UserError
from pipeline.model.loss import loss_sum
from pipeline.prompt.batch import Batch, micro_rows, pad
from pipeline.run import Run
from pipeline.training import checkpoint, metrics
from pipeline.training.order import step_rows
from pipeline.training.schedule import learning_rate, total_steps, warmup_steps
from tests.tiny import make_config, run_to


@pytest.fixture(scope="session")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = make_config(folder, base)
    return config, run_to(config, "train", folder)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder("adapter") / "adapter_model.safetensors")


def assert_same(a: Run, b: Run) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_published_step_counts() -> None:
    assert total_steps(101_622, Train(batch_size=128, epochs=3)) == 2382  # KoAlpaca 7B v1.0, its wandb summary
    assert total_steps(52_002, Train(batch_size=128, epochs=3)) == 1221
    assert total_steps(10, Train(batch_size=4, epochs=1.5)) == 5
    assert total_steps(10, Train(batch_size=4, epochs=3, max_steps=2)) == 2


def test_schedules_follow_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, make in (("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
        theirs = make(optimizer, 5, 23)
        for step in range(23):
            ours = learning_rate(step, 23, Train(lr=3e-4, warmup=5, schedule=name))
            assert math.isclose(ours, optimizer.param_groups[0]["lr"], rel_tol=1e-9, abs_tol=1e-15)
            optimizer.step()
            theirs.step()
    assert warmup_steps(1221, 0.03) == 37
    assert learning_rate(9, 10, Train(lr=1.0, warmup=0, schedule="constant")) == 1.0


def test_every_epoch_takes_every_row_once() -> None:
    for epoch in range(2):
        rows = [r for step in range(3) for r in step_rows(epoch * 3 + step, 10, 4, seed=7)]
        assert sorted(rows) == list(range(10))
    assert step_rows(0, 10, 4, 7) != step_rows(3, 10, 4, 7)  # another order in the next epoch
    assert step_rows(2, 10, 4, 7) == step_rows(2, 10, 4, 7)


def test_micro_rows_keep_every_row_and_the_limit() -> None:
    lengths = [5, 9, 1, 7, 7, 30]
    groups = micro_rows(lengths, 16)
    assert sorted(i for g in groups for i in g) == list(range(6))
    assert all(len(g) * max(lengths[i] for i in g) <= 16 or len(g) == 1 for g in groups)
    assert groups[0] == [5]  # the longest comes first
    assert micro_rows([900, 100, 100, 100], 10_000) == [[0], [1, 2, 3]]  # padding would cost more than another pass
    assert micro_rows([110, 100, 100, 100], 10_000) == [[0, 1, 2, 3]]
    assert micro_rows([], 100) == []


def test_micro_rows_are_the_cheapest_cut() -> None:
    """Against trying every cut of the sorted rows."""
    random_ = random.Random(3)
    for _ in range(20):
        lengths = sorted((random_.randint(1, 300) for _ in range(7)), reverse=True)

        def cost(groups: list[list[int]], lengths: list[int] = lengths) -> float:
            sizes = [len(g) * max(lengths[i] for i in g) for g in groups]
            fits = all(size <= 700 or len(g) == 1 for size, g in zip(sizes, groups, strict=True))
            return sum(35 + size for size in sizes) if fits else math.inf

        cuts = []
        for bits in range(2**6):
            edges = [0, *(i + 1 for i in range(6) if bits >> i & 1), 7]
            cuts.append([list(range(a, b)) for a, b in itertools.pairwise(edges)])
        assert cost(micro_rows(lengths, 700)) == min(map(cost, cuts))


def a_batch(rows: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    random_ = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        ids = random_.integers(3, 300, random_.integers(4, 20)).astype(np.int64)
        labels = ids.copy()
        labels[: len(ids) // 2] = -100
        made.append((ids, labels))
    return made


def test_accumulated_is_whole(base: Path) -> None:
    """1 x 8 rows and 8 x 1 row give the same loss and gradients, although rows differ in labelled tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = a_batch(8)
    learnt = sum(pad([r]).learnt for r in rows)

    def gradients(groups: list[list[tuple[np.ndarray, np.ndarray]]]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for group in groups:
            loss = loss_sum(model, pad(group)) / learnt
            loss.backward()
            total += float(loss.detach())
        return total, [p.grad.clone() for p in model.parameters()]

    whole, grads = gradients([rows])
    parts, same = gradients([[r] for r in rows])
    assert abs(whole - parts) < 1e-6
    assert max((a - b).abs().max() for a, b in zip(grads, same, strict=True)) < 1e-6


def test_loss_is_cross_entropy_over_labels(base: Path) -> None:
    """Against the plain formula, with padding filled by other ids: padding is known by length, not by id."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    rows = a_batch(3, seed=1)
    wanted = 0.0
    for ids, labels in rows:
        log_p = model(input_ids=torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
        wanted -= sum(float(log_p[t - 1, labels[t]].detach()) for t in range(1, len(ids)) if labels[t] != -100)
    batch = pad(rows)
    assert math.isclose(float(loss_sum(model, batch)), wanted, rel_tol=1e-5)
    filled = batch.ids.copy()
    for n, (ids, _) in enumerate(rows):
        filled[n, len(ids) :] = 2  # the end token
    assert float(loss_sum(model, Batch(filled, batch.labels))) == pytest.approx(wanted, rel=1e-5)


def test_golden_first_losses(finished: tuple[Config, Run]) -> None:
    losses = [m["loss"] for m in metrics.read(finished[1].root / "metrics.jsonl") if "loss" in m]
    assert losses[:3] == pytest.approx(GOLDEN, abs=2e-5)


GOLDEN = [6.017033, 6.008151, 6.009469]


def test_run_leaves_its_traces(finished: tuple[Config, Run]) -> None:
    _, run = finished
    lines = metrics.read(run.root / "metrics.jsonl")
    assert [m["step"] for m in lines if "val_loss" in m] == [0, 3, 6]
    assert [m["step"] for m in lines if "loss" in m] == [1, 2, 3, 4, 5, 6]
    assert (run.root / "loss.png").stat().st_size > 5000
    assert checkpoint.steps(run.folder("checkpoints")) == [5, 6]
    assert run.manifest("adapter")["counts"]["trained_parameters"] == 2 * (4 * (32 + 32) + 4 * (32 + 16))


def test_interrupted_run_ends_bit_identical(finished: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    """SIGKILL at three random instants; the same command each time; the same weights at the end."""
    config = make_config(tmp_path, base)
    random_ = random.Random(time.time_ns())
    run = Run(tmp_path / config.name)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                run_to(config, "train", tmp_path)
            finally:
                os._exit(0)
        deadline = time.time() + 20
        wanted = random_.randint(1, 5)
        while time.time() < deadline and not any(m["step"] >= wanted for m in metrics.read(run.root / "metrics.jsonl")):
            time.sleep(0.001)
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
    from pipeline.training import loop

    config = make_config(tmp_path, base, "train.save_every=100")
    calls = iter(range(100))

    def counted(model: object, batch: Batch) -> torch.Tensor:
        if next(calls) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return loss_sum(model, batch)

    monkeypatch.setattr(loop, "loss_sum", counted)
    monkeypatch.setattr(loop, "choose_micro_tokens", lambda *_: 200)  # several micro-batches a step
    with pytest.raises(Interrupted, match="goes on from there") as caught:
        run_to(config, "train", tmp_path)
    assert caught.value.code == 130
    saved = checkpoint.steps(tmp_path / "tiny" / "checkpoints")
    assert len(saved) == 1
    assert 0 < saved[0] < 6
    run_to(config, "train", tmp_path)
    assert checkpoint.steps(tmp_path / "tiny" / "checkpoints")[-1] == 6


def test_other_settings_do_not_use_old_checkpoints(base: Path, tmp_path: Path) -> None:
    run = run_to(make_config(tmp_path, base, "train.max_steps=2"), "train", tmp_path)
    first = weights(run)
    run_to(make_config(tmp_path, base, "train.max_steps=2", "train.seed=1"), "train", tmp_path)
    assert any(not torch.equal(t, first[n]) for n, t in weights(run).items())
    state = json.loads((run.folder("checkpoints") / "step-000002" / "state.json").read_text())
    assert state["step"] == 2


def test_infinite_loss_stops_with_the_step(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: loss .*nan|step \d+: loss .*inf"):
        run_to(make_config(tmp_path, base, "train.lr=1e30", "train.clip=0", "train.max_steps=4"), "train", tmp_path)
    assert not (tmp_path / "tiny" / "adapter").exists()


def test_damaged_checkpoint_without_state_is_not_used(finished: tuple[Config, Run], tmp_path: Path) -> None:
    (tmp_path / "step-000007").mkdir()
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.newest(tmp_path, "x") is None
