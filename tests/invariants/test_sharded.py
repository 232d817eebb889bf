"""Weights that are spread over the ranks: the losses of one rank, its checkpoints and its export."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Config
from pipeline.model import block_stream
from pipeline.model.gathered_blocks import GatherCopier
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.integrity import verify
from pipeline.training import checkpoint, loop, metrics, passes, processes, tensor_store
from pipeline.training.loss_scale import LossScale
from tests.helpers.tiny import make_base, make_config, run_ranks, run_to, train_on
from tests.helpers.training_runs import assert_close, assert_same, losses_of, tokens_of

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo"),
    pytest.mark.slow,  # some dozen starts of ranks: `make test-all` runs them
]
LAYERS = 5
COMMON = ("eval.prompts=[]", "eval.rows=2", "train.micro_tokens=250", "train.keep=9")
FULL = (*COMMON, "adapter.method=full", "train.lr=1e-3")
LORA = (*COMMON, "adapter.dropout=0")
SHARDED = "train.shard=full"
Start = Callable[..., tuple[Config, Path]]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five blocks, so that some are not there while others compute; 7 key-value rows do not divide by 2 or 4."""
    return make_base(tmp_path_factory.mktemp("deep") / "base", num_hidden_layers=LAYERS, intermediate_size=47)


@pytest.fixture(scope="module")
def tokens(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tokens")
    return run_to(make_config(folder, deep, *COMMON), "tokens", folder)


@pytest.fixture(scope="module")
def begin(deep: Path, tokens: Run, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A config with these settings, and a folder whose run has the tokens."""

    def begun(*settings: str, folder: Path | None = None) -> tuple[Config, Path]:
        if folder is None:
            folder = tmp_path_factory.mktemp("run")
            for stage in ("dataset", "tokens"):
                shutil.copytree(tokens.folder(stage), folder / "tiny" / stage)
        return make_config(folder, deep, *settings), folder

    return begun


@pytest.fixture(scope="module")
def alone(begin: Start) -> dict[str, Run]:
    """Runs of one process whose weights are not sharded, to the export."""
    runs = {}
    for name, settings in (("full", FULL), ("lora", LORA)):
        config, folder = begin(*settings)
        runs[name] = run_to(config, "export", folder)
    return runs


@pytest.fixture
def gathers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tiny weights are gathered too; each block that is gathered adds a byte to the file of its rank."""
    monkeypatch.setattr(block_stream, "SMALLEST", 16)
    stock = GatherCopier.start

    def start(copier: GatherCopier, pairs: list[block_stream.Pair]) -> list[object]:
        with open(tmp_path / f"gathers-{copier.rank}", "a") as file:
            file.write(".")
        return stock(copier, pairs)

    monkeypatch.setattr(GatherCopier, "start", start)
    return tmp_path


def test_four_ranks_train_all_weights_as_one_does(begin: Start, alone: dict[str, Run]) -> None:
    """With the same export, which stock transformers loads."""
    config, folder = begin(*FULL, SHARDED)
    run = train_on(4, config, folder)
    assert_close(run, alone["full"])
    step = run.folder("checkpoints") / "step-000006"
    assert len(list((step / "weights").iterdir())) == len(list((step / "optimizer").iterdir())) == 4
    whole = checkpoint.folder_of(alone["full"].folder("checkpoints"), 6) / "weights.safetensors"
    assert sum(p.stat().st_size for p in (step / "weights").iterdir()) < whole.stat().st_size + 4 * 2**15

    run = run_to(config, "export", folder)
    first, second = (AutoModelForCausalLM.from_pretrained(r.folder("export")) for r in (run, alone["full"]))
    assert type(first).__name__ == type(second).__name__ == "LlamaForCausalLM"
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        assert float((first(ids).logits - second(ids).logits).abs().max()) < 1e-4
    mine, others = ({p.name for p in r.folder("export").glob("*.json")} for r in (run, alone["full"]))
    assert mine == others


def test_two_ranks_on_padded_rows(begin: Start, alone: dict[str, Run]) -> None:
    config, folder = begin(*FULL, SHARDED, "train.fast=false")
    assert_close(train_on(2, config, folder), alone["full"], loss=2e-6)


@pytest.mark.parametrize("recompute", ["none", "block"])
def test_lora_on_a_base_in_four_parts(recompute: str, begin: Start, alone: dict[str, Run], gathers: Path) -> None:
    config, folder = begin(*LORA, SHARDED, f"train.checkpointing={recompute}")
    run = train_on(4, config, folder)
    assert_close(run, alone["lora"])
    counts = {(gathers / f"gathers-{rank}").stat().st_size for rank in range(4)}
    assert len(counts) == 1  # on all ranks
    assert counts.pop() > 6 * 2 * LAYERS
    assert (run.folder("checkpoints") / "step-000006" / "weights.safetensors").is_file()  # adapters are whole


def test_lora_on_a_base_in_nf4_gives_the_same_bits_in_one_part_and_not(begin: Start, gathers: Path) -> None:
    pytest.importorskip("bitsandbytes")
    runs = []
    for shard in ("none", "full"):
        config, folder = begin(*LORA, "model.quantize=nf4", f"train.shard={shard}", "train.max_steps=2")
        runs.append(train_on(2, config, folder))
    assert (gathers / "gathers-1").stat().st_size > 2 * LAYERS
    assert_same(*runs)
    assert losses_of(runs[0]) == losses_of(runs[1])


def test_every_rank_takes_part_in_every_pass(
    begin: Start, gathers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Small packs, and steps with fewer rows than ranks: the losses are those of one rank."""
    rows, longest = 84, 131
    settings = (*LORA, f"train.micro_tokens={longest}", f"train.batch_size={rows - 1}", "train.max_steps=4")
    stock = passes.EvenPasses.of_step

    def noted(even: passes.EvenPasses, rows: list[int], step: int) -> list[passes.Pass]:
        made = stock(even, rows, step)
        with open(tmp_path / f"passes-{even.rank}", "a") as file:
            file.write(f"{len(made)} {sum(factor == 0 for _, factor in made)}\n")
        return made

    monkeypatch.setattr(passes.EvenPasses, "of_step", noted)
    config, folder = begin(*settings, SHARDED)
    assert len(tokens_of(Run(folder / "tiny"))) == rows
    run = train_on(4, config, folder)
    config, folder = begin(*settings)
    assert_close(run, run_to(config, "train", folder))
    noted_lines = [(tmp_path / f"passes-{rank}").read_text().split("\n") for rank in range(4)]
    made = [[line.split() for line in lines if line] for lines in noted_lines]
    assert len({tuple(n for n, _ in lines) for lines in made}) == 1  # as many on each rank
    assert [sorted(lines[1][1] for lines in made)] == [["0", "1", "1", "1"]]  # the step with one row


def test_a_run_goes_on_with_other_numbers_of_ranks(
    begin: Start, alone: dict[str, Run], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks, then one that shards, one that does not, and four: checkpoints of both forms are read by all, and
    those of ranks with several files each."""
    monkeypatch.setattr(tensor_store, "FILE", 40_000)
    config, folder = begin(*FULL, SHARDED)
    run = Run(folder / "tiny")
    whole, _ = begin(*FULL, folder=folder)
    for world, settings, last in ((2, config, 1), (1, config, 2), (1, whole, 3), (4, config, 6)):
        train_on(world, settings, folder) if world > 1 else run_to(settings, "train", folder)
        if last < 6:
            shutil.rmtree(run.folder("adapter"))
            for step in checkpoint.steps(run.folder("checkpoints")):
                if step > last:
                    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), step))
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("train: resuming from step") == 3
    assert_close(run, alone["full"])
    forms = [(checkpoint.folder_of(run.folder("checkpoints"), n) / "weights").is_dir() for n in range(1, 7)]
    assert forms == [True, True, False, True, True, True]
    assert len(list((run.folder("checkpoints") / "step-000001" / "weights").iterdir())) > 2


def test_a_killed_rank_and_a_damaged_part(
    begin: Start, alone: dict[str, Run], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rank 1 is killed in step 4; then a part of the checkpoint of step 3 is damaged, and the run goes on from 2."""
    config, folder = begin(*FULL, SHARDED)
    run = Run(folder / "tiny")
    with monkeypatch.context() as patch:
        at, mark, stock = [-1], loop.mark, LossScale.backward

        def marked(kind: str, number: int | None = None) -> None:
            at[0] = -1 if number is None else number
            mark(kind, number)

        def backward(scaling: LossScale, value: torch.Tensor) -> torch.Tensor:
            if at[0] == 3 and os.environ.get("RANK") == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            return stock(scaling, value)

        patch.setattr(loop, "mark", marked)
        patch.setattr(LossScale, "backward", backward)
        patch.setenv("SURI_RANKS_TIMEOUT", "4")
        codes = run_ranks(2, lambda: run_to(config, "train", folder))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] == 2
    root = run.folder("checkpoints")
    assert checkpoint.steps(root) == [1, 2, 3]
    part = sorted((root / "step-000003" / "optimizer").iterdir())[1]
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(UserError) as error:
        verify(run, [])
    assert error.value.what.startswith("1 files have changed")
    assert str(part) in error.value.what
    capfd.readouterr()
    train_on(2, config, folder)
    said = " ".join(capfd.readouterr().out.split())
    assert f"optimizer/{part.name} is not what was written" in said
    assert "train: resuming from step 2 of 6" in said
    assert_close(run, alone["full"])
    config, folder = begin(*FULL, SHARDED)
    assert_same(run, train_on(2, config, folder))  # as if nothing had happened


def test_the_best_weights_and_a_penalty(begin: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.best` keeps parts, too, and L2-SP holds each part to its start."""
    add = loop.LowestLoss.add
    fake = {3: 1.0, 6: 2.0}
    monkeypatch.setattr(loop.LowestLoss, "add", lambda self, step, loss: add(self, step, fake.get(step, loss)))
    runs = []
    for words in ((), (SHARDED,)):
        config, folder = begin(*FULL, "train.best=true", "train.l2_sp=0.1", "train.keep=1", *words)
        runs.append(train_on(2, config, folder))
    assert_close(runs[1], runs[0])
    last = [load_file(run.folder("adapter") / "last" / "model.safetensors") for run in runs]
    assert max(float((t - last[1][name]).abs().max()) for name, t in last[0].items()) < 1e-4
    best = load_file(runs[1].folder("adapter") / "model.safetensors")
    assert any(not torch.equal(tensor, last[1][name]) for name, tensor in best.items())


def test_all_ranks_exchange_as_often(begin: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    count, stock, end = [0], processes.exchanging, loop.wait_for_all

    def counted() -> object:
        count[0] += 1
        return stock()

    def wait(accelerator: object) -> None:
        end(accelerator)  # type: ignore[arg-type]
        (tmp_path / f"count-{os.environ['RANK']}").write_text(str(count[0]))

    monkeypatch.setattr(processes, "exchanging", counted)
    monkeypatch.setattr(loop, "wait_for_all", wait)
    config, folder = begin(*FULL, SHARDED, "train.max_steps=2")
    train_on(2, config, folder)
    assert (tmp_path / "count-0").read_text() == (tmp_path / "count-1").read_text()


def test_a_step_without_labels_changes_nothing(
    deep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Whatever the ranks: AdamW must not take the zeros that ranks exchange for gradients, and a checkpoint without
    moments is whole."""
    longer = " and then explain at great length why it is what it is, please, thoroughly and slowly" * 2
    rows = [
        {"instruction": f"Say the number {i} twice{longer if i % 2 else ''}", "output": f"{i} {i}"} for i in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = (
        *FULL, f"data.sources=[{{path: {tmp_path / 'rows.jsonl'}}}]", "data.holdout=[]", "data.val=4",
        "data.duplicates.near=0", "prompt.cutoff=60", "train.batch_size=2",
    )  # fmt: skip
    runs = {}
    for name, world, shard in (("one", 1, "none"), ("two", 2, "none"), ("sharded", 2, "full")):
        folder = tmp_path / name
        folder.mkdir()
        config = make_config(folder, deep, *settings, f"train.shard={shard}")
        runs[name] = train_on(world, config, folder) if world > 1 else run_to(config, "train", folder)
    learnt = [line["learnt"] for line in metrics.read(runs["one"].root / "metrics.jsonl") if "learnt" in line]
    assert learnt[0] == 0 < sum(learnt)
    for name in ("two", "sharded"):
        assert losses_of(runs[name]) == pytest.approx(losses_of(runs["one"]), rel=1e-6)

    run = runs["sharded"]  # `config` is its
    shutil.rmtree(run.folder("adapter"))
    for step in checkpoint.steps(run.folder("checkpoints"))[1:]:
        shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), step))
    capfd.readouterr()
    train_on(2, config, tmp_path / "sharded")
    assert "resuming from step 1 of 6" in capfd.readouterr().out
    assert losses_of(run) == pytest.approx(losses_of(runs["one"]), rel=1e-6)
