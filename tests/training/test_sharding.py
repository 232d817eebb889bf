"""When weights are sharded, what excludes it, and what each card then needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model.load import geometry_config
from pipeline.model.methods.full import FULL
from pipeline.ranks import launcher
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import processes, sharding, tensor_store
from pipeline.training.cost import CARDS
from pipeline.training.plan import plan
from pipeline.training.tensor_store import PLACES
from tests.helpers.tiny import make_config, run_to

CONFIGS = Path(__file__).parents[2] / "configs"


def config(*words: str) -> Config:
    return load(CONFIGS / "alpaca-7b-full.yaml", words)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("train.checkpointing=offload",), "moves to main memory"),
        (("train.checkpointing=stream", "adapter={method: lora}", "model.add_tokens=[]"), "moves to main memory"),
        (("train.optimizer=adamw8bit",), "needs whole weights"),
        (("train.optimizer=adafactor",), "needs whole weights"),
        (("train.ewc=1", "train.ewc_data=x.txt"), "reads whole gradients"),
        (("adapter={method: lora, init: pissa}",), "changes the base's weights"),
        (("adapter={method: lora, dora: true}",), "DoRA is not among the methods"),
        (("adapter={method: norms}", "model.add_tokens=[]"), "norms is not among the methods"),
        (("adapter={method: lora}", "model.quantize=fp8"), "fp8 keeps copies"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(UserError, match=r"train\.shard") as error:
        config("train.shard=full", *words)
    assert why in str(error.value)


@pytest.mark.parametrize("words", [(), ("train.l2_sp=0.1",), ("train.neftune=5",), ("train.checkpointing=block",)])
def test_what_can(words: tuple[str, ...]) -> None:
    assert sharding.shares(config("train.shard=full", *words))


def test_one_process_is_not_sharded_by_itself() -> None:
    asked = config()
    shape = geometry_config(asked.model)
    decided = sharding.decide(asked, shape, 512, 1, bool)
    assert decided.train.shard == "none"
    assert sharding.decide(config("train.shard=full"), shape, 512, 1, bool).train.shard == "full"


def test_too_small_a_card(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without sharding it needs 100 GiB: cards of 80 are too small, and the message says what excludes sharding."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sharding, "device", lambda: torch.device("cpu"))
    for module in ("pipeline.training.plan", "pipeline.training.sharding"):
        monkeypatch.setattr(f"{module}.dtype_name", lambda model: "bf16")
    asked = config()
    for gib, way in ((80, "full"), (139, "none")):
        monkeypatch.setattr(sharding, "free_bytes", lambda _, gib=gib: gib * 2**30)
        assert sharding.decide(asked, geometry_config(asked.model), 512, 4, bool).train.shard == way
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("the run does not fit into one card by the plan: weights are sharded over 4 cards") == 1
    monkeypatch.setattr(sharding, "free_bytes", lambda _: 40 * 2**30)
    other = config("train.optimizer=adafactor")
    assert sharding.decide(other, geometry_config(asked.model), 512, 4, bool).train.shard == "none"  # it may try
    assert "its weights cannot be sharded: train.optimizer=adafactor" in " ".join(capsys.readouterr().out.split())


def test_a_launch_with_fsdp_shards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """And the Accelerator is the plain one. A config that says none is followed, and says so."""
    monkeypatch.setenv(launcher.FSDP, "true")
    monkeypatch.setenv(processes.FIRST_RANK_LOADS, "true")  # as accelerate does by default
    asked = config()
    assert sharding.decide(asked, geometry_config(asked.model), 512, 4, bool).train.shard == "full"
    with pytest.raises(UserError, match=r"the weights cannot be sharded: train\.optimizer=adafactor"):
        sharding.decide(config("train.optimizer=adafactor"), geometry_config(asked.model), 512, 4, bool)
    said = capsys.readouterr().out
    assert said.count("weights are sharded") == 1  # not before it is refused
    none = config("train.shard=none")
    assert sharding.decide(none, geometry_config(asked.model), 512, 4, bool).train.shard == "none"
    assert "train.shard=none keeps the weights whole" in " ".join(capsys.readouterr().out.split())
    accelerator = processes.start_accelerator("fp32", "none", tmp_path)
    assert str(accelerator.distributed_type) == "DistributedType.NO"
    assert launcher.launched_with_fsdp()
    assert os.environ[processes.FIRST_RANK_LOADS] == "false"


def test_a_launch_with_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(launcher.DEEPSPEED, "true")
    with pytest.raises(UserError, match="DeepSpeed's engine would replace") as error:
        processes.start_accelerator("fp32", "none", tmp_path)
    assert "train.shard=full" in error.value.fix


def test_one_process_with_deepspeed_is_refused_before_data_are_made(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is up to date trains nothing, so it is not refused."""
    config = make_config(tmp_path, base, "train.max_steps=1", "eval.prompts=[]", "eval.rows=1")
    run_to(config, "train", tmp_path)
    monkeypatch.setenv(launcher.DEEPSPEED, "true")
    stages.bring_up_to_date(config, Run(tmp_path / "tiny"), "train")
    with pytest.raises(UserError, match="DeepSpeed's engine would replace"):
        run_to(make_config(tmp_path, base, "name=other"), "export", tmp_path)
    assert not (tmp_path / "other").exists()


def test_the_memory_of_a_card() -> None:
    """7B: 16 bytes a parameter, and on one card 16-bit copies of the blocks; four hold a quarter, and what is
    gathered."""
    asked = config("model.add_tokens=[]")
    planned = plan(asked, {"rows": 1, "tokens": 1})
    one, four = (sharding.card_bytes(asked, planned, 512, world) for world in (1, 4))
    state = 16 * planned.parameters
    activations = 512 * planned.recomputed_mib * 2**20
    copies = 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert one == pytest.approx(state + copies + activations)
    block, outside = (32 * 4096**2 * 4 + 32 * 3 * 4096 * 11008 + 32 * 2 * 4096) * 4 / 32, (2 * 32000 + 1) * 4096 * 4
    assert four == pytest.approx(state / 4 + 2.5 * (block + outside) + activations)
    text = " ".join(sharding.lines(asked, planned, 4, CARDS["a100"]))
    assert "none 112.8 GiB (too much)" in text
    assert "this run takes full" in text
    assert f"exchanges {0.75 * 8 * planned.parameters / 1e9:,.1f} GB a card" in text
    assert "this run takes none" in " ".join(sharding.lines(asked, planned, 4, CARDS["b200"]))


def test_frozen_blocks_of_a_card() -> None:
    """A quarter of all blocks, and two whole ones."""
    asked = load(CONFIGS / "alpaca-lora-7b.yaml", [])
    fast: Any = plan(asked, {"rows": 1, "tokens": 1}).fast
    saved = fast.static("block") - fast.sharded(4).static("block")
    assert saved == pytest.approx(fast.blocks * (1 - 1 / 4 - 2 / 32))


def test_parts_of_a_tensor_that_are_missing(tmp_path: Path) -> None:
    """The files of ranks say where each part begins; together they must make the whole."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for rank, start in enumerate((0, 3)):
        places = f'{{"w": {{"saved_offsets": [{start}, 0]}}}}'
        save_file({"w": torch.full((3 - rank, 4), float(rank))}, folder / f"shard-{rank}.safetensors", {PLACES: places})
    assert tensor_store.shapes(tmp_path, "weights") == {"w": ("F32", (5, 4))}
    (folder / "shard-0.safetensors").unlink()
    with pytest.raises(ValueError, match="parts of w are missing in weights"):
        tensor_store.shapes(tmp_path, "weights")
    with pytest.raises(FileNotFoundError):
        tensor_store.shapes(tmp_path, "optimizer")


def test_a_whole_model_is_saved_in_files_of_a_size(tmp_path: Path, base: Path) -> None:
    """As `save_pretrained` would, so that stock transformers loads it."""
    from transformers import AutoModelForCausalLM

    from pipeline.model.gathered_save import save_gathered

    model = AutoModelForCausalLM.from_pretrained(base)
    save_gathered(model, tmp_path, limit=60_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    assert sum(len(load_file(tmp_path / name)) for name in files) == len(dict(model.named_parameters()))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert FULL.give_parts(model) is None  # type: ignore[func-returns-value]
