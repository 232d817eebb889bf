"""Training: what a step is made of, and that a run which was killed ends as if it had not been."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoTokenizer

from pipeline.config.schema import Adapter, Config, Train
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.model.loss import loss_sum
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import PaddedBatch, micro_rows, pad
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.folder import Run
from pipeline.training import checkpoint, loop, memory, metrics, self_check
from pipeline.training import fast_path as paths
from pipeline.training.metrics import MIN_STEPS, Spikes
from pipeline.training.micro_batches import MicroBatch, PackedMicroBatches, PaddedMicroBatches
from pipeline.training.schedule import (
    epoch_order,
    epochs_after,
    learning_rate,
    rank_rows,
    step_rows,
    total_steps,
    warmup_steps,
)
from tests.helpers.tiny import make_base, make_config, run_to, train_on_two


@pytest.fixture(scope="session")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = make_config(folder, base)
    return config, run_to(config, "train", folder)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.folder("adapter").glob("*model.safetensors")))


def tokens_of(run: Run) -> Tokens:
    return Tokens(run.folder("tokens") / "train.arrow")


def branch(finished: tuple[Config, Run], folder: Path, *overrides: str) -> Run:
    """A run with other settings on the same tokens, which need not be made again."""
    config, run = finished
    for stage in ("dataset", "tokens"):
        shutil.copytree(run.folder(stage), folder / config.name / stage)
    return run_to(make_config(folder, Path(config.model.base), *overrides), "train", folder)


@pytest.fixture(scope="session")
def undropped(finished: tuple[Config, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without dropout, a few packs a step: what does not depend on how a step is cut up."""
    return branch(finished, tmp_path_factory.mktemp("undropped"), *UNDROPPED)


UNDROPPED = ("adapter.dropout=0", "train.micro_tokens=250")


def assert_close(a: Run, b: Run, loss: float = 1e-6, weight: float = 1e-4) -> None:
    """Losses up to `loss` of their size, weights up to `weight` of a tensor's (AdamW blows small gradients up)."""
    assert losses_of(a) == pytest.approx(losses_of(b), rel=loss)
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    apart = {name: float((t - second[name]).norm() / second[name].norm()) for name, t in first.items()}
    assert max(apart.values()) <= weight, apart


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
    for rows, accumulation, epochs, steps in (
        (52_002, 8, 3, 1218), (52_002, 8, 5, 2030), (49_942, 32, 3, 1170), (49_942, 16, 10, 3900), (101_622, 8, 3, 2382)
    ):  # fmt: skip
        assert total_steps(rows, Train(batch_size=128, accumulation_4_28=accumulation, epochs=epochs)) == steps


def loop_of_4_28(rows: int, size: int, accumulation: int, epochs: float) -> list[list[tuple[int, int]]]:
    """(epoch, place in its order) of the rows of every step, as the loop of transformers v4.28.1 goes about it: one
    counter of micro-batches for the whole run, gradients kept until a step is made, and an end at `max_steps`."""
    batches = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    most = math.ceil(epochs * max(1, len(batches) // accumulation))
    steps: list[list[tuple[int, int]]] = []
    kept: list[tuple[int, int]] = []
    counted = 0
    for epoch in range(math.ceil(epochs)):
        for n, batch in enumerate(batches, 1):
            counted += 1
            kept += [(epoch, place) for place in batch]
            small = len(batches) <= accumulation and n == len(batches)
            if counted % accumulation == 0 or small:
                steps.append(kept)
                kept = []
            if len(steps) == most:
                return steps
    return steps


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 23, 40])
@pytest.mark.parametrize(("size", "accumulation"), [(2, 4), (4, 2), (1, 8), (8, 1)])
def test_left_over_micro_batches_are_carried_as_in_2023(rows: int, size: int, accumulation: int) -> None:
    for epochs in (1, 2.5, 7):
        settings = Train(batch_size=8, accumulation_4_28=accumulation, epochs=epochs, seed=7)
        theirs = loop_of_4_28(rows, size, accumulation, epochs)
        assert total_steps(rows, settings) == len(theirs)
        for step, places in enumerate(theirs):
            wanted = [int(epoch_order(rows, 7, epoch)[place]) for epoch, place in places]
            assert step_rows(step, rows, settings) == wanted
            seen = sum(len(places) for places in theirs[: step + 1])
            assert epochs_after(step + 1, rows, settings) == round(seen / rows, 4)


def test_a_step_over_the_border_of_epochs_by_eye() -> None:
    """Five rows, two a micro-batch, four a step: the fifth row goes with the first two of the next epoch."""
    settings = Train(batch_size=4, accumulation_4_28=2, epochs=2, seed=7)
    first, second = (epoch_order(5, 7, epoch).tolist() for epoch in (0, 1))
    assert [step_rows(step, 5, settings) for step in range(2)] == [first[:4], [first[4], *second[:2]]]
    assert (total_steps(5, settings), total_steps(5, Train(batch_size=4, epochs=2))) == (2, 4)


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
    settings = Train(batch_size=4, seed=7)
    for epoch in range(2):
        rows = [r for step in range(3) for r in step_rows(epoch * 3 + step, 10, settings)]
        assert sorted(rows) == list(range(10))
    assert step_rows(0, 10, settings) != step_rows(3, 10, settings)  # another order in the next epoch
    assert step_rows(2, 10, settings) == step_rows(2, 10, settings)


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
    learnt = sum(pad([r]).labelled for r in rows)

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
    assert float(loss_sum(model, PaddedBatch(filled, batch.labels))) == pytest.approx(wanted, rel=1e-5)


def losses_of(run: Run) -> list[float]:
    return [m["loss"] for m in metrics.read(run.root / "metrics.jsonl") if "loss" in m]


def test_golden_first_losses(finished: tuple[Config, Run]) -> None:
    assert losses_of(finished[1])[:3] == pytest.approx(GOLDEN, abs=2e-5)


GOLDEN = [6.017033, 6.008151, 6.009817]


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
    with pytest.raises(Interrupted, match="resumes") as caught:
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


def test_other_settings_do_not_use_old_checkpoints(base: Path, tmp_path: Path) -> None:
    run = run_to(make_config(tmp_path, base, "train.max_steps=2"), "train", tmp_path)
    first = weights(run)
    run_to(make_config(tmp_path, base, "train.max_steps=2", "train.seed=1"), "train", tmp_path)
    assert any(not torch.equal(t, first[n]) for n, t in weights(run).items())
    state = json.loads((run.folder("checkpoints") / "step-000002" / "state.json").read_text())
    assert state["step"] == 2


def test_infinite_loss_stops_with_the_step(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: loss .*(nan|inf)") as caught:
        run_to(make_config(tmp_path, base, "train.lr=1e30", "train.clip=0", "train.max_steps=4"), "train", tmp_path)
    assert not (tmp_path / "tiny" / "adapter").exists()
    tokens = tokens_of(Run(tmp_path / "tiny"))
    step = int(caught.value.what.split("step ")[1].split(":")[0]) - 1
    names = tokens.names_of(step_rows(step, len(tokens), Train(batch_size=8)))
    assert f"the step's rows: {', '.join(names)})" in caught.value.what


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
    checkpoint.restore(tmp_path, 1, other, optimizer)
    places = {moment: str(value.device) for moment, value in optimizer.state[other["a"]].items()}
    assert places == {"step": "meta" if fused else "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_damaged_checkpoint_without_state_is_not_used(finished: tuple[Config, Run], tmp_path: Path) -> None:
    (tmp_path / "step-000007").mkdir()
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.newest(tmp_path, "x", {}) is None


# --- the two paths


def test_both_paths_learn_the_same(finished: tuple[Config, Run], undropped: Run, tmp_path: Path) -> None:
    plain = branch(finished, tmp_path, *UNDROPPED, "train.fast=false")
    assert undropped.manifest("adapter")["counts"]["path"] == "fast"
    assert plain.manifest("adapter")["counts"]["path"] == "plain"
    assert_close(undropped, plain)
    held_out = [
        [m["val_loss"] for m in metrics.read(r.root / "metrics.jsonl") if "val_loss" in m] for r in (undropped, plain)
    ]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-6)


@pytest.mark.parametrize("how", ["block", "offload"])
def test_what_blocks_keep_changes_nothing(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, how: str
) -> None:
    run = branch(finished, tmp_path, *UNDROPPED, f"train.checkpointing={how}")
    assert_same(run, undropped)
    assert losses_of(run) == losses_of(undropped)
    states = [
        json.loads((r.folder("checkpoints") / "step-000006" / "state.json").read_text()) for r in (run, undropped)
    ]
    assert [state["recompute"] for state in states] == [True, False]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("llama", ("adapter={method: full}", "train.lr=1e-3")),
        ("gpt_neox", ("adapter={r: 4, targets: [query_key_value]}",)),
    ],
    ids=["full", "neox"],
)
def test_what_a_model_s_own_blocks_keep_changes_nothing(
    base: Path, tmp_path: Path, kind: str, words: tuple[str, ...]
) -> None:
    """They go through transformers' checkpointing, packs and all."""
    if kind != "llama":
        base = make_base(tmp_path / "base", model_type=kind, num_key_value_heads=None)
    runs = []
    for way in ("none", "block", "offload"):
        folder = tmp_path / way
        folder.mkdir()
        settings = ("train.max_steps=2", "train.eval_rows=1", "eval.prompts=[]", f"train.checkpointing={way}")
        runs.append(run_to(make_config(folder, base, *words, *settings), "train", folder))
        assert runs[-1].manifest("adapter")["counts"]["path"] == "fast"
        state = json.loads((runs[-1].folder("checkpoints") / "step-000002" / "state.json").read_text())
        assert state["recompute"] == (way != "none")
        assert_same(runs[-1], runs[0])


def test_every_weight_in_bf16_takes_the_fast_path(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # a process otherwise has one precision for good
    words = ("adapter={method: full}", "model.dtype=bf16", "train.max_steps=2", "train.lr=1e-3", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert run.manifest("adapter")["counts"]["path"] == "fast"
    found = re.search(r"fast path's loss is (\S+) and its gradient (\S+) off", capsys.readouterr().out)
    assert float(found[1]) < 1e-2
    assert 1e-4 < float(found[2]) < 0.1  # rounding in bf16, so autocast was on


def test_dropout_does_not_depend_on_what_blocks_keep(finished: tuple[Config, Run], tmp_path: Path) -> None:
    assert_same(branch(finished, tmp_path, "train.checkpointing=block"), finished[1])


@pytest.mark.parametrize("off", [(0.0, 0.5), (0.5, 0.0), (math.nan, 0.0)])
def test_a_path_that_differs_is_not_used(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], off: tuple[float, float],
) -> None:  # fmt: skip
    monkeypatch.setattr(self_check, "difference", lambda *_: off)
    run = branch(finished, tmp_path, "train.max_steps=1")
    assert "too much, so the plain path is used" in capsys.readouterr().out
    assert run.manifest("adapter")["counts"]["path"] == "plain"


@pytest.mark.parametrize(("error", "percent"), [(0.31, "31%"), (math.nan, "nan%")])
def test_masks_that_differ_are_not_used(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], error: float, percent: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(self_check, "largest_mask_error", lambda _: error)
    run = branch(finished, tmp_path, "train.max_steps=1")
    assert (
        f"dropout's kernels differ by {percent} from each other, so the plain path is used" in capsys.readouterr().out
    )
    assert run.manifest("adapter")["counts"]["path"] == "plain"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_rows_that_reach_each_other_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    """Through a convolution, by however little, also where memory is too small to compare more."""

    def difference(*_: object) -> tuple[float, float]:
        if whole:
            return 0.0, 0.0
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(self_check, "difference", difference)
    base = make_base(tmp_path / "base", model_type="lfm2", layer_types=["conv", "full_attention"])
    config = make_config(tmp_path, base, "train.max_steps=1", "adapter.targets=[all-linear]")
    run = run_to(config, "train", tmp_path)
    assert "rows of a pack affect each other in this model, so the plain path is used" in capsys.readouterr().out
    assert run.manifest("adapter")["counts"]["path"] == "plain"


def test_rows_do_not_reach_each_other_by_what_they_share(finished: tuple[Config, Run]) -> None:
    packed, _, trained = both_paths(finished)
    start = packed.tokens.row(0)[0][:3].tolist()
    packed.packer = Packer(packed.tokens, [start], 1 << 20)
    assert packed.packer.pack(range(8)).preambles == 1
    assert not self_check.leaks(packed, range(8))
    assert [w for w in trained if w.grad is not None] == []


def test_a_tokenizer_that_stock_transformers_would_not_read_stops_before_training(tmp_path: Path) -> None:
    """For some types of models AutoTokenizer builds the tokenizer anew, whatever tokenizer.json says."""
    base = make_base(tmp_path / "base", model_type="qwen2", vocab_size=512)
    config = make_config(tmp_path, base, "train.max_steps=1")
    with pytest.raises(UserError, match="stock transformers") as caught:
        run_to(config, "train", tmp_path)
    assert "Qwen2Tokenizer" in caught.value.fix
    assert not (tmp_path / "tiny" / "checkpoints").exists()
    AutoTokenizer.from_pretrained(base).save_pretrained(base)  # one of that type's own
    assert run_to(config, "train", tmp_path).manifest("adapter") is not None


def test_experts_are_not_dropped_out(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", model_type="mixtral", num_local_experts=2)
    with pytest.raises(UserError, match="lora cannot adapt this model of type mixtral") as caught:
        run_to(make_config(tmp_path, base, "train.max_steps=1", "adapter.targets=[all-linear]"), "train", tmp_path)
    assert (caught.value.where, "set adapter.dropout=0" in caught.value.fix) == ("adapter.dropout", True)


def test_a_model_that_cannot_be_packed_takes_the_plain_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_base(tmp_path / "base", attention_dropout=0.1)
    run = run_to(make_config(tmp_path, base, "train.max_steps=1"), "train", tmp_path)
    assert "the plain path is used: the base has attention dropout" in capsys.readouterr().out
    assert run.manifest("adapter")["counts"]["path"] == "plain"


def test_a_kernel_that_a_card_has_no_room_for(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton's own errors are no RuntimeErrors."""

    class OutOfResources(Exception):
        pass

    def leaks(*_: object) -> bool:
        raise OutOfResources("out of resource: shared memory")

    monkeypatch.setattr(self_check, "leaks", leaks)
    run = branch(finished, tmp_path, "train.max_steps=1")
    assert "the plain path is used: OutOfResources: out of resource: shared memory" in capsys.readouterr().out
    assert run.manifest("adapter")["counts"]["path"] == "plain"


def test_what_fits_is_measured_as_steps_are_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mixed types: trained weights are in float32 beside frozen ones in bf16."""
    seen = []

    def chosen(*_: object) -> int:
        seen.append(torch.is_autocast_enabled("cpu"))
        return 400

    monkeypatch.setattr(paths, "choose_padded", chosen)
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # a process otherwise has one precision for good
    words = ("adapter.method=norms", "model.dtype=bf16", "train.fast=false", "train.max_steps=1")
    run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert seen == [True]


def test_fp8_needs_a_card_that_has_it(base: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(UserError, match=r"fp8 needs a Hopper card or newer .* no GPU"):
        run_to(make_config(tmp_path, base, "model.quantize=fp8"), "train", tmp_path)


def test_a_base_in_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where the plain twin computes; runs refuse it there."""
    monkeypatch.setattr(loop, "check_card", lambda _: None)
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    ours = run_to(make_config(tmp_path, base, "model.quantize=fp8", "train.max_steps=3"), "train", tmp_path)
    assert ours.manifest("adapter")["counts"]["path"] == "fast"
    exact = run_to(make_config(tmp_path, base, "name=exact", "train.max_steps=3"), "train", tmp_path)
    assert losses_of(ours) == pytest.approx(losses_of(exact), rel=2e-2)
    assert losses_of(ours) != losses_of(exact)


def test_fp8_is_not_replaced_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "check_card", lambda _: None)
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128, attention_dropout=0.1)
    with pytest.raises(UserError, match="no fp8: the base has attention dropout"):
        run_to(make_config(tmp_path, base, "model.quantize=fp8"), "train", tmp_path)


def both_paths(finished: tuple[Config, Run]) -> tuple[PackedMicroBatches, PaddedMicroBatches, list[torch.Tensor]]:
    config, run = finished
    tokens = tokens_of(run)
    model = adapters.attach(load_folder(Path(config.model.base), torch.float32), config.adapter, 1)
    packed = PackedMicroBatches(PackedModel(model, 200), tokens, [], 250)
    return packed, PaddedMicroBatches(model, tokens, Accelerator(cpu=True), 250), list(adapters.trained(model).values())


def test_difference(finished: tuple[Config, Run]) -> None:
    """Dropout, which the adapter has, is off meanwhile; nothing is left behind."""
    packed, plain, trained = both_paths(finished)
    plain.model.train()
    loss, gradient = self_check.difference(packed, plain, range(8), trained)
    assert 0 <= loss < 1e-6
    assert 0 < gradient < 1e-5
    assert plain.model.training
    assert all(linear.has_dropout for linear in (packed.fast.blocks[0].qkv, packed.fast.blocks[1].qkv))
    assert [w for w in trained if w.grad is not None] == []


def test_difference_sees_a_gradient_that_is_missing(
    finished: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain, trained = both_paths(finished)
    stock = PackedMicroBatches.loss
    monkeypatch.setattr(PackedMicroBatches, "loss", lambda path, part: stock(path, part).detach())
    assert self_check.difference(packed, plain, range(8), trained)[1] == pytest.approx(1)


def test_operations_without_a_fixed_order_are_named(
    finished: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked on a card; here of an operation that raises there as it would."""
    _, plain, trained = both_paths(finished)
    assert self_check.is_deterministic(plain, 0, trained, True)
    assert not plain.is_deterministic
    stock = PaddedMicroBatches.loss

    def loss(path: PaddedMicroBatches, part: MicroBatch) -> torch.Tensor:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("kthvalue CUDA does not have a deterministic implementation, but you set")
        return stock(path, part)

    monkeypatch.setattr(PaddedMicroBatches, "loss", loss)
    assert not self_check.is_deterministic(plain, 0, trained, True)
    assert "may differ in the last digits: kthvalue" in capsys.readouterr().out
    monkeypatch.setattr(PaddedMicroBatches, "loss", lambda path, part: 1 / torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        self_check.is_deterministic(plain, 0, trained, True)
    assert [w for w in trained if w.grad is not None] == []


def test_packs_are_made_ahead(finished: tuple[Config, Run]) -> None:
    """And anew, when other rows are asked for or the capacity has changed."""
    packed, _, _ = both_paths(finished)
    packed.thread = ThreadPoolExecutor(1)  # as on a GPU

    def ids(parts: list[MicroBatch]) -> list[list[int]]:
        return [part.ids[0].tolist() for part in parts]

    made = ids(packed.split(range(8)))
    packed.prefetch(range(8))
    assert packed.next is not None
    future = packed.next[2]
    assert packed.split(range(8)) is future.result()
    assert ids(future.result()) == made
    packed.prefetch(range(8, 16))
    assert ids(packed.split(range(8))) == made
    assert packed.next is None
    packed.prefetch(range(8))
    packed.micro_tokens = 1000
    assert len(packed.split(range(8))) == 1 < len(made)


# --- memory


def out_of_memory(monkeypatch: pytest.MonkeyPatch, calls: range) -> list[int]:
    """The card's memory runs out in these passes; returns the capacities of all of them."""
    counted, stock, seen = itertools.count(), PackedMicroBatches.loss, []

    def loss(path: PackedMicroBatches, part: MicroBatch) -> torch.Tensor:
        seen.append(path.micro_tokens)
        if next(counted) in calls:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return stock(path, part)

    monkeypatch.setattr(PackedMicroBatches, "loss", loss)
    monkeypatch.setattr(self_check, "difference", lambda *_: (0.0, 0.0))
    return seen


def test_out_of_memory_halves_what_goes_through_at_once(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In the middle of a step, whose first half must not count twice."""
    seen = out_of_memory(monkeypatch, range(4, 5))
    run = branch(finished, tmp_path, *UNDROPPED)
    longest = int(tokens_of(run).lengths.max())
    assert seen[:5] == [250] * 5
    assert set(seen[5:]) == {max(125, longest)}
    assert f"out of memory; continuing with at most {max(125, longest)} tokens at once" in capsys.readouterr().out
    assert_close(run, undropped)


def test_a_row_that_does_not_fit(finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = out_of_memory(monkeypatch, range(100))
    with pytest.raises(UserError, match=r"step 1: the longest row, \d+ tokens, does not fit"):
        branch(finished, tmp_path, *UNDROPPED)
    longest = int(tokens_of(Run(tmp_path / "tiny")).lengths.max())
    assert seen == [250, longest, longest]  # the last one with blocks computed again


def test_blocks_keep_less_before_a_run_gives_up(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = out_of_memory(monkeypatch, range(2))
    run = branch(finished, tmp_path, *UNDROPPED)
    assert len(set(seen)) == 2
    state = json.loads((run.folder("checkpoints") / "step-000006" / "state.json").read_text())
    assert state["recompute"]
    assert_close(run, undropped)


@pytest.mark.parametrize("words", [("train.checkpointing=block",), ("train.micro_tokens=300", "train.eval_every=2")])
def test_a_run_goes_on_when_its_steps_are_cut_up_otherwise(
    finished: tuple[Config, Run], undropped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    """Whoever runs out of memory is told to change just that."""
    config, _ = finished
    shutil.copytree(undropped.root, tmp_path / config.name)
    run = Run(tmp_path / config.name)
    shutil.rmtree(run.folder("adapter"))
    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), 6))
    capsys.readouterr()
    branched = run_to(make_config(tmp_path, Path(config.model.base), *UNDROPPED, *words), "train", tmp_path)
    said = capsys.readouterr().out
    assert "resuming from step 5 of 6" in said
    assert "cut up otherwise" in said
    assert_close(branched, undropped)


def test_large_seeds(base: Path, tmp_path: Path) -> None:
    """Dates are what many take."""
    words = ("train.seed=20261123", "train.max_steps=1", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert run.manifest("adapter")["counts"]["steps"] == 1
    with pytest.raises(UserError, match=r"train\.seed"):
        make_config(tmp_path, base, f"train.seed={1 << 63}")


def test_epochs() -> None:
    """77 rows, 8 at once: ten steps an epoch, the last of five rows."""
    settings = Train(batch_size=8)
    assert [epochs_after(step, 77, settings) for step in (0, 1, 9, 10, 11, 30)] == [0, 0.1039, 0.9351, 1, 1.1039, 3]


def test_rows_that_the_model_does_not_see(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", max_position_embeddings=64)
    with pytest.raises(UserError, match=r"rows have up to \d+ tokens, and this model sees 64"):
        run_to(make_config(tmp_path, base), "train", tmp_path)


def test_disk_for_checkpoints(tmp_path: Path) -> None:
    """Three of 12 bytes a number while the third is written; those that are there are not asked for again."""
    weights = {"a": torch.nn.Parameter(torch.zeros(1000))}
    assert checkpoint.space(tmp_path, weights, 2) == 36_000
    (tmp_path / "step-000001").mkdir()
    (tmp_path / "step-000001" / "weights.safetensors").write_bytes(bytes(20_000))
    assert checkpoint.space(tmp_path, weights, 2) == 16_000
    (tmp_path / "step-000001" / "optimizer.safetensors").write_bytes(bytes(20_000))
    assert checkpoint.space(tmp_path, weights, 2) == 12_000


@pytest.mark.parametrize(
    ("checkpointing", "free", "wanted", "longest", "chosen"),
    [
        ("auto", 100_000, 0, 300, (6000, False)),  # a whole step fits with all kept
        ("auto", 50_000, 0, 300, (4450, False)),  # 4,096 do
        ("auto", 40_000, 0, 300, (6000, True)),  # 3,550 would, so blocks are computed again
        ("auto", 40_000, 3000, 300, (3000, False)),  # no more are wanted
        ("auto", 10_000, 0, 300, (4250, True)),
        ("auto", 1_000, 0, 500, (500, True)),  # the longest row has to go through
        ("none", 40_000, 0, 300, (3550, False)),
        ("block", 100_000, 0, 300, (6000, True)),
        ("offload", 10_000, 0, 300, (4250, True)),
        ("none", 10_000, 8000, 300, (8000, False)),  # whoever names a number gets it
    ],
)
def test_what_fits_into_a_card(
    checkpointing: str, free: int, wanted: int, longest: int, chosen: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token takes 10 bytes with all kept and 2 without, beside 500 that do not depend on it; a step has 6,000. 1,000
    bytes are for the optimiser."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free + 1000, free + 1000))
    monkeypatch.setattr(
        memory, "_packed_peak", lambda fast, tokens, offload: 500 + tokens * (2 if fast.recompute else 10)
    )
    fast = SimpleNamespace(can_recompute=True, recompute=False)
    assert memory.choose_packed(fast, wanted, checkpointing, longest, 6000, reserve=1000) == chosen


@pytest.mark.parametrize("longest", [300, 6000])
@pytest.mark.parametrize("checkpointing", ["auto", "none"])
def test_a_card_that_holds_only_what_is_computed_again(
    checkpointing: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe with all kept runs out of memory, or the longest row would."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (50_000, 50_000))

    def peak(fast: SimpleNamespace, tokens: int, offload: bool) -> int:
        if longest == 300 and not fast.recompute:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return tokens * (2 if fast.recompute else 10)

    monkeypatch.setattr(memory, "_packed_peak", peak)
    fast = SimpleNamespace(can_recompute=True, recompute=False)
    if checkpointing == "auto":
        assert memory.choose_packed(fast, 0, "auto", longest, 6000, 0) == (6000, True)
    elif longest == 300:
        with pytest.raises(UserError, match="not even 2,048 tokens fit"):
            memory.choose_packed(fast, 0, "none", longest, 6000, 0)
    else:
        assert memory.choose_packed(fast, 0, "none", longest, 6000, 0) == (6000, False)


def test_a_probe_leaves_no_gradient(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    model = adapters.attach(load_folder(base, torch.float32), Adapter(r=4), 1, (7,))
    memory._packed_peak(PackedModel(model, 128), 256, False)
    assert [name for name, weight in adapters.trained(model).items() if weight.grad is not None] == []


# --- what stands out


def test_spikes() -> None:
    random_ = random.Random(0)
    spikes = Spikes()
    assert not any(spikes.is_spike(2 - n / 200 + random_.gauss(0, 0.05)) for n in range(200))  # a run that goes well
    before = spikes.mean, spikes.variance
    assert before[0] == pytest.approx(1.1, abs=0.1)
    assert spikes.is_spike(2.0)
    assert (spikes.mean, spikes.variance) == before
    assert not spikes.is_spike(1.1)
    assert not spikes.is_spike(0.1)  # better is no reason to look
    resumed = Spikes([1.0 + 0.01 * (n % 2) for n in range(MIN_STEPS)])
    assert resumed.is_spike(3.0)
    early = Spikes()
    assert [early.is_spike(x) for x in [1.0] * (MIN_STEPS - 1) + [100.0]] == [False] * MIN_STEPS
    flat = Spikes()
    assert [flat.is_spike(x) for x in [1.0] * 30 + [1.09, 1.2]] == [False] * 31 + [True]  # no noise at all: a tenth


def test_a_spike_names_its_rows(
    finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = itertools.count(1)
    monkeypatch.setattr(Spikes, "is_spike", lambda *_: next(steps) == 2)
    run = branch(finished, tmp_path, "train.max_steps=3")
    tokens = tokens_of(run)
    named = {m["step"]: m["spike"] for m in metrics.read(run.root / "metrics.jsonl") if "spike" in m}
    assert named == {2: tokens.names_of(step_rows(1, len(tokens), Train(batch_size=8)))}
    assert "metrics.jsonl has its rows" in capsys.readouterr().out


# --- several processes


def test_rows_are_dealt_out_alike() -> None:
    random_ = np.random.default_rng(0)
    lengths = random_.integers(1, 500, 100)
    rows = random_.permutation(100)[:37].tolist()
    assert rank_rows(rows, lengths, 0, 1) == rows
    for world in (2, 3, 8):
        shares = [rank_rows(rows, lengths, rank, world) for rank in range(world)]
        assert sorted(row for share in shares for row in share) == sorted(rows)
        tokens = [int(lengths[share].sum()) for share in shares]
        assert max(tokens) - min(tokens) <= lengths.max()
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [rank_rows(range(4), np.array([8, 7, 6, 5]), rank, 2) for rank in range(2)] == [[0, 3], [1, 2]]
    assert [rank_rows([4, 2], np.full(9, 7), rank, 4) for rank in range(4)] == [[2], [4], [], []]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_learn_the_same(finished: tuple[Config, Run], tmp_path: Path) -> None:
    """Every other step has one row, so one of them has none."""
    rows = len(tokens_of(finished[1]))
    settings = (*UNDROPPED, f"train.batch_size={rows - 1}", "train.max_steps=4")
    alone = branch(finished, tmp_path / "alone", *settings)
    for stage in ("dataset", "tokens"):
        shutil.copytree(finished[1].folder(stage), tmp_path / "both" / "tiny" / stage)
    run = train_on_two(make_config(tmp_path / "both", Path(finished[0].model.base), *settings), tmp_path / "both")
    assert_close(run, alone)


class Killed(Exception):
    pass


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


def test_unequal_micro_batches_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"accumulation_4_28.*divide"):
        make_config(tmp_path, base, "train.batch_size=8", "train.accumulation_4_28=3")
