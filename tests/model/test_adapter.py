"""Adapters on a base, new tokens, blocks and targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.load import add_tokens
from pipeline.run.errors import UserError
from tests.helpers.tiny import make_base, make_config, run_to


def test_adapter_counts(model: Any) -> None:
    """q: 32 -> 32, v: 32 -> 16, both of two layers; rank 4 has 4 numbers for each row and column."""
    adapted = adapters.attach(model, Adapter(r=4, targets=("q_proj", "v_proj")), seed=1)
    weights = adapters.trained(adapted)
    assert sum(p.numel() for p in weights.values()) == 2 * 4 * ((32 + 32) + (32 + 16))
    assert all("lora_" in name for name in weights)
    everything = dict(adapted.named_parameters())
    assert {n for n, p in everything.items() if p.requires_grad} == set(weights)


def test_all_linear_leaves_out_the_head(model: Any) -> None:
    names = adapters.trained(adapters.attach(model, Adapter(r=4), seed=1))
    assert {n.split(".lora_")[0].split(".")[-1] for n in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_adapter_starts_depend_on_the_seed(base: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        weights = adapters.trained(adapters.attach(model, Adapter(r=4, targets=("q_proj",)), seed))
        return torch.cat([p.detach().flatten() for p in weights.values()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_adapters_are_float32_on_a_bf16_base(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    add_tokens(model, 401)
    adapted = adapters.attach(model, Adapter(r=4, targets=("q_proj",)), seed=1, added=(400,))
    assert {p.dtype for p in adapters.trained(adapted).values()} == {torch.float32}
    assert adapted.get_base_model().lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("targets", "rank", "what", "fix"),
    [
        (("q_porj",), 4, "no linear layer is called 'q_porj'", "did you mean q_proj"),
        (("query_key_value",), 4, "no linear layer is called 'query_key_value'", "this model has .*q_proj"),
        (("mlp.q_proj",), 4, "no linear layer is called 'mlp.q_proj'", "q_proj"),
        ((), 4, "no targets", "all-linear"),
        (("k_proj", "v_proj"), 17, r"adapter.r=17 .*\(16\)", "lower"),
        (("all-linear",), 33, r"adapter.r=33 .*\(32\)", "lower"),
    ],
)
def test_bad_adapters(model: Any, targets: tuple[str, ...], rank: int, what: str, fix: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        adapters.attach(model, Adapter(r=rank, targets=targets), seed=1)
    assert caught.value.where in ("adapter.targets", "adapter.r")
    assert re.search(fix, caught.value.fix)


def test_rank_above_some_targets_is_said(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    adapters.attach(model, Adapter(r=20, targets=("q_proj", "v_proj")), seed=1)
    assert "more than 2 of 4 layers can use, such as model.layers.0.self_attn.v_proj (at most 16)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_tied_head_cannot_be_a_target(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base", tie_word_embeddings=True))
    with pytest.raises(UserError, match="head"):
        adapters.attach(model, Adapter(r=4, targets=("lm_head",)), seed=1)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_trained_saved_and_merged(tied: bool, tmp_path: Path) -> None:
    """[PAD] begins at the mean, learns with the adapter in the embedding and in the head, and is in the export."""
    base = make_base(tmp_path / "base", tie_word_embeddings=tied)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tables = [plain.get_input_embeddings().weight.detach().clone(), plain.lm_head.weight.detach().clone()]
    add_tokens(plain, 401)
    for table, old in zip((plain.get_input_embeddings(), plain.lm_head), tables, strict=True):
        assert torch.allclose(table.weight[400], old.mean(0))
        assert torch.equal(table.weight[:400], old)
    assert (plain.lm_head.weight is plain.get_input_embeddings().weight) == tied
    config = make_config(tmp_path, base, 'model.add_tokens=["[PAD]"]', "eval.rows=1", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    saved = load_file(run.folder("adapter") / "adapter_model.safetensors")
    assert sum("token_adapter" in name for name in saved) == (1 if tied else 2)
    merged = AutoModelForCausalLM.from_pretrained(run.folder("export"), dtype=torch.float32)
    assert merged.config.vocab_size == merged.lm_head.weight.shape[0] == 401
    assert not torch.allclose(merged.lm_head.weight[400], plain.lm_head.weight[400], atol=1e-4)  # the head learnt
    assert merged.generation_config.pad_token_id == 400
    tokenizer = AutoTokenizer.from_pretrained(run.folder("export"))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 400)
    ids = torch.tensor([[5, 400, 7, 9]])
    adapted = adapters.load(plain, run.folder("adapter"))
    with torch.inference_mode():
        assert (adapted(input_ids=ids).logits - merged.eval()(input_ids=ids).logits).abs().max() < 1e-4


def test_last_blocks_alone_are_adapted(tmp_path: Path) -> None:
    from pipeline.config.schema import Adapter

    base = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base"), dtype=torch.float32)
    model = adapters.attach(base, Adapter(r=2, targets=("all-linear",), last_blocks=1), seed=0)
    assert {name.split(".layers.")[1][0] for name in adapters.trained(model)} == {"1"}
    with pytest.raises(UserError, match="2 blocks, not 3"):
        adapters.attach(base, Adapter(last_blocks=3), seed=0)
