"""Weight decay reaches what Hugging Face's Trainer lets it reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter, Train
from pipeline.model import adapter as adapters
from pipeline.model.methods import BY_NAME
from pipeline.prompt.stage import prompt_settings
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.stage_keys import train_key
from pipeline.training import metrics
from pipeline.training.optimizer import (
    build_optimizer,
    decayed_names,
    embedding_names,
    parameter_groups,
    take_step,
)
from pipeline.training.optimizer_state import Layout, state_tensors
from scripts.benchmarks.hf_trainer import train_stock
from tests.helpers.methods import KINDS, adapter_of, stock
from tests.helpers.tiny import make_config, run_to

TYPES = ("llama", "gpt2", "gpt_neox", "bloom", "opt", "phi", "olmo2", "gemma2", "qwen3", "mpt", "falcon")


def of_trainer(model: Any) -> set[str]:
    """What the installed Trainer says, of what is trained."""
    return set(Trainer.get_decay_parameter_names(None, model)) & adapters.trained(model).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_decays_what_trainer_does(kind: str) -> None:
    model = adapters.attach(stock(), adapter_of(kind), seed=1)
    found = decayed_names(model, adapters.trained(model))
    assert found == of_trainer(model)
    left_out = adapters.trained(model).keys() - found
    assert METHODS[kind.split()[0]].not_decayed or not left_out
    if kind in ("full", "norms", "houlsby", "ptuning"):
        assert left_out


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_model_decays_what_trainer_does(kind: str) -> None:
    """Norms by layer (GPT-2's ln_1), by name (LLaMA's), and those that have neither."""
    model = adapters.attach(stock(model_type=kind), Adapter(method="full"), seed=1)
    found = decayed_names(model, adapters.trained(model))
    assert found == of_trainer(model)
    assert 0 < len(found) < len(adapters.trained(model))


def test_groups_keep_their_ratio_and_every_weight_once() -> None:
    adapter = adapter_of("lora plus")
    model = adapters.attach(stock(), adapter, seed=1)
    weights = adapters.trained(model)
    found = parameter_groups(model, weights, BY_NAME["lora"].groups(weights, adapter), 0.1)
    assert [(g["ratio"], g["weight_decay"]) for g in found] == [(1.0, 0.1), (4.0, 0.1)]
    model = adapters.attach(stock(), Adapter(method="full"), seed=1)
    weights = adapters.trained(model)
    whole = BY_NAME["full"].groups(weights, Adapter(method="full"))
    found = parameter_groups(model, weights, whole, 0.1)
    assert [g["weight_decay"] for g in found] == [0.1, 0.0]
    assert sorted(id(p) for g in found for p in g["params"]) == sorted(map(id, weights.values()))
    assert all(p.dim() == 1 for p in found[1]["params"])
    assert [g["params"] for g in parameter_groups(model, weights, whole, 0.0)] == [whole[0]["params"]]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "paged_adamw8bit", "adafactor"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_full_with_decay_has_trainer_s_losses(base: Path, tmp_path: Path, optimizer: str) -> None:
    config = make_config(
        tmp_path, base, "adapter.method=full", "train.weight_decay=0.5", "train.max_steps=6", "eval.prompts=[]",
        "train.lr=2e-2", f"train.optimizer={optimizer}",
    )  # fmt: skip
    run = run_to(config, "train", tmp_path)
    tokens, val = (Tokens(run.folder("tokens") / f"{part}.arrow") for part in ("train", "val"))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = [m["loss"] for m in train_stock(model, config, tokens, val, tmp_path / "trainer") if "loss" in m]
    ours = [m["loss"] for m in metrics.read(run.root / "metrics.jsonl") if "loss" in m]
    assert ours == pytest.approx(theirs, abs=2e-5)


def test_what_was_trained_under_the_old_rule_is_not_gone_on_with(base: Path, tmp_path: Path) -> None:
    """Where the rule makes a difference the stage's key says which one it was."""

    def key(*words: str) -> dict[str, Any]:
        config = make_config(tmp_path, base, *words)
        return train_key(config, Run(tmp_path / "run"))

    run_to(make_config(tmp_path, base, "name=run"), "tokens", tmp_path)
    assert key("train.weight_decay=0.1", "adapter.method=full").pop("not_decayed") == "biases and norms"
    for words in (("adapter.method=full",), ("train.weight_decay=0.1",)):
        assert "not_decayed" not in key(*words)
    assert "accumulation_4_28" not in key()["train"]  # keys that came later are in no key of a run without them
    assert "strip_end" not in prompt_settings(make_config(tmp_path, base).prompt)
    assert prompt_settings(make_config(tmp_path, base, "prompt.strip_end=true").prompt)["strip_end"]
    assert key("train.accumulation_4_28=4")["train"]["accumulation_4_28"] == 4


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor"])
def test_layout_is_what_the_optimizer_keeps(optimizer: str) -> None:
    """Names, types and shapes predict each state: vectors, matrices below and above 8 bits, an embedding."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(90, 64), torch.nn.Linear(64, 70), torch.nn.Linear(70, 3))
    weights = dict(model.named_parameters())
    groups = [{"params": list(weights.values()), "ratio": 1.0}]
    chosen = build_optimizer(model, weights, groups, Train(optimizer=optimizer))
    model(torch.arange(5)).sum().backward()
    take_step(chosen, 1e-3)
    layout = Layout.of(weights, optimizer, embedding_names(model, weights))
    for name, weight in weights.items():
        state = state_tensors(chosen, weight)
        kinds = {torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64"}
        assert {key: (kinds[v.dtype], tuple(v.shape)) for key, v in state.items()} == layout.moments[name], name
    assert ("U8" in str(layout.moments["1.weight"])) == (optimizer == "adamw8bit")
    assert layout.moments["0.weight"] != layout.moments["1.weight"]
