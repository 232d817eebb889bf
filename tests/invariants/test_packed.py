"""The packed model gives the loss and the gradients of the plain path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.activations import ACT2FN

from pipeline.config.schema import Adapter
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from tests.helpers.packed_models import (
    KINDS,
    LONGEST,
    adapted,
    assert_same,
    packed_pass,
    plain_pass,
    recomputed_pass,
    stock,
    with_trained_lora,
)
from tests.helpers.packs import A, B, random_tokens, tokens_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")

WITH_BLOCKS = ("llama", "llama-biases", "llama-head-size", "mistral", "qwen2", "gemma")
OWN_HEAD = ("gemma2", "cohere", "granite-scaled-logits")  # what they do to their logits is left to them


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_fast_is_plain(kind: str, masked: bool, tmp_path: Path) -> None:
    """Several packs with preambles, everything kept and blocks computed again."""
    tokens = random_tokens(tmp_path, [A, B], 14, masked=masked)
    model = adapted(kind)
    wanted = plain_pass(model, tokens)
    fast = PackedModel(model, LONGEST)
    assert bool(fast.blocks) == (kind in WITH_BLOCKS) or kind.startswith("granite")  # may be taken as blocks or not
    assert fast.fused_head == (kind not in OWN_HEAD)
    assert_same(packed_pass(fast, model, tokens), wanted)
    assert_same(recomputed_pass(fast, model, tokens), wanted)


@pytest.mark.parametrize(
    ("kind", "act", "blocks"),
    [
        ("llama", {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "silu"}, 2),
        ("gemma", {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"}, 2),
        ("llama", {"hidden_act": "swish"}, 2),
        ("llama", {"hidden_act": "gelu", "hidden_activation": "silu"}, 0),
    ],
)
def test_the_activation_is_that_of_the_blocks(tokens: Tokens, kind: str, act: dict[str, str], blocks: int) -> None:
    """A config may name another one."""
    model = adapted(kind, **act)
    fast = PackedModel(model, LONGEST)
    assert len(fast.blocks) == blocks
    assert_same(packed_pass(fast, model, tokens), plain_pass(model, tokens))


def test_the_activation_of_one_block_only(tokens: Tokens) -> None:
    model = adapted()
    layer = model.get_base_model().get_decoder().layers[1]
    layer.mlp.act_fn = ACT2FN["gelu_pytorch_tanh"]
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), plain_pass(model, tokens))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("capacity", [1, 30, 10_000])
@pytest.mark.parametrize("leading", [[], [A, B]])
def test_any_cut_of_a_step_is_the_same(tokens: Tokens, kind: str, capacity: int, leading: list[list[int]]) -> None:
    """From one row a pack to everything in one, with and without what is shared."""
    model = adapted(kind)
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens, capacity, leading), plain_pass(model, tokens))


@pytest.mark.parametrize(
    ("settings", "trained"),
    [({"targets": ("q_proj", "v_proj")}, 8), ({"targets": ("down_proj",)}, 4), ({"last_blocks": 1}, 14)],
)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_some_layers_have_adapters(tokens: Tokens, kind: str, settings: dict[str, Any], trained: int) -> None:
    model = adapted(kind, adapter=Adapter(r=4, **settings))
    wanted = plain_pass(model, tokens)
    assert len(wanted[1]) == trained
    fast = PackedModel(model, LONGEST)
    for recompute in (False, True):
        fast.recompute = recompute
        assert_same(packed_pass(fast, model, tokens), wanted)


def test_three_blocks_of_which_the_second_is_adapted(tokens: Tokens) -> None:
    """Below it nothing goes back, above it only through."""
    model = stock(num_hidden_layers=3)
    model.requires_grad_(False)
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[1], use_rslora=True)
    model = with_trained_lora(get_peft_model(model, lora))
    wanted = plain_pass(model, tokens)
    assert len(wanted[1]) == 4
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), wanted)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_new_tokens_are_trained(tmp_path: Path, kind: str, tied: bool) -> None:
    """Their rows of the embedding and of the head, besides the adapter."""
    rows = [[*B, 62, 30, 63], [*B, 31, 62, 62], [5, 63, 6]]
    tokens = tokens_of(tmp_path, rows, [4, 4, 1])
    model = adapted(kind, added=(62, 63), tie_word_embeddings=tied)
    wanted = plain_pass(model, tokens)
    assert sum("trainable_tokens" in name for name in wanted[1]) == (1 if tied else 2)
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), wanted)


def test_an_adapter_on_the_head(tokens: Tokens) -> None:
    for kind in ("llama", "qwen3"):
        model = adapted(kind, adapter=Adapter(r=4, targets=("q_proj", "lm_head")))
        assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), plain_pass(model, tokens))


def test_adapters_follow_the_optimiser(tokens: Tokens) -> None:
    for kind in ("llama", "qwen3"):
        model = adapted(kind)
        fast = PackedModel(model, LONGEST)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.mul_(0.9)
        fast.refresh()
        assert_same(packed_pass(fast, model, tokens), plain_pass(model, tokens))


def test_a_pack_without_labels(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, [[5], [*B, 6]], [0, 5])
    model = adapted()
    fast = PackedModel(model, LONGEST)
    (pack,) = Packer(tokens, [B], 100).packs([0, 1])
    loss = fast.loss_sum(fast.prepare(pack))
    assert (float(loss), loss.requires_grad) == (0, False)
