"""Models and adapters that are not packed, or only through their own layers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.packed.model import PackedModel
from pipeline.model.packed.support import NotPackable
from pipeline.prompt.tokens import Tokens
from tests.helpers.packed_models import (
    DYNAMIC,
    KINDS,
    LONG,
    LONGEST,
    NESTED,
    adapted,
    assert_same,
    packed_pass,
    plain_pass,
    recomputed_pass,
    stock,
    with_trained_lora,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_every_weight_trained(tokens: Tokens, kind: str, tied: bool) -> None:
    model = adapters.attach(stock(kind, tie_word_embeddings=tied), Adapter(method="full"), seed=1)
    wanted = plain_pass(model, tokens)
    assert len(wanted[1]) == len(list(model.parameters()))
    fast = PackedModel(model, LONGEST)
    assert_same(packed_pass(fast, model, tokens), wanted)
    assert_same(recomputed_pass(fast, model, tokens), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_does_not_wait_for_the_card_to_see_its_rows(
    monkeypatch: pytest.MonkeyPatch, tokens: Tokens, kind: str
) -> None:
    """It would look for the bounds of rows in the positions, which are on the card, at the start of each pass."""
    looked: list[str] = []
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda *_: looked.append(kind))
    model = adapted(kind)
    packed_pass(PackedModel(model, LONGEST), model, tokens)
    assert looked == []


def with_dora(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], use_dora=True))


def with_biases(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], lora_bias=True))


def with_two(model: Any) -> Any:
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj"]))
    return model


@pytest.mark.parametrize("adapt", [with_dora, with_biases, with_two])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_adapters_that_only_peft_knows(tokens: Tokens, kind: str, adapt: Callable[[Any], Any]) -> None:
    """They go through peft's own layers."""
    model = with_trained_lora(adapt(stock(kind).requires_grad_(False))).eval()
    wanted = plain_pass(model, tokens)
    fast = PackedModel(model, LONGEST)
    assert fast.packed_forwards == []
    assert_same(packed_pass(fast, model, tokens), wanted)
    assert_same(recomputed_pass(fast, model, tokens), wanted)
    with pytest.raises(NotPackable, match="not plain LoRA"):
        PackedModel(model, LONGEST, fp8=True)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_kept_the_other_way_round(tokens: Tokens, method: str) -> None:
    """GPT-2's linear layers hold their weights transposed, and its positions are learnt."""
    model = stock("gpt2", attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    model = with_trained_lora(adapters.attach(model, Adapter(method=method), seed=1, added=()))
    wanted = plain_pass(model, tokens)
    fast = PackedModel(model, LONGEST)
    assert_same(packed_pass(fast, model, tokens), wanted)
    assert_same(recomputed_pass(fast, model, tokens), wanted)


@pytest.mark.parametrize(
    ("kind", "shape", "longest", "why"),
    [
        ("llama", {"attention_dropout": 0.1}, 20, "attention dropout"),
        ("mistral", {"sliding_window": 8}, 9, "longer than the attention window of 8"),
        ("gemma2", {"attn_logit_softcapping": 50.0}, 20, "caps its attention"),
        ("bloom", {"n_head": 4, "num_key_value_heads": None}, 20, "attention of bloom cannot be exchanged"),
        ("gpt_bigcode", {"attn_pdrop": 0.1}, 20, "dropout"),
        ("phi3-long", LONG, LONGEST + 1, "longer than 20 tokens, and then its rotation depends on"),
        ("gemma3_text", {"head_dim": 8, "rope_parameters": NESTED, "sliding_window": 64}, 22, "longer than 21 tokens"),
        ("llama", {"max_position_embeddings": LONGEST, "rope_parameters": DYNAMIC}, LONGEST + 1, "longer than 20"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_packed(kind: str, shape: dict[str, Any], longest: int, why: str) -> None:
    model = adapted(kind, **shape)
    with pytest.raises(NotPackable, match=why):
        PackedModel(model, longest)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("phi3-long", LONG), ("llama", {"max_position_embeddings": LONGEST, "rope_parameters": DYNAMIC})],
)
def test_rotations_that_no_row_changes_for_others(tokens: Tokens, kind: str, shape: dict[str, Any]) -> None:
    """They change for all rows at once where one is longer than what `PackedModel` is told of."""
    model = adapted(kind, **shape)
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), plain_pass(model, tokens))


def test_windows_that_rows_fit_into(tokens: Tokens) -> None:
    model = adapted("mistral", sliding_window=LONGEST)
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), plain_pass(model, tokens))
    PackedModel(adapted("qwen2", sliding_window=8, use_sliding_window=False), LONGEST)


SELECTING = {
    "model_type": "glm_moe_dsa", "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8,
    "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "head_dim": 4, "index_n_heads": 2, "index_head_dim": 8,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
}  # fmt: skip


def test_attention_that_selects_its_keys(tokens: Tokens) -> None:
    """Our attention sees all keys of a row, so no row may be longer than what the model's own selects."""
    model = stock("glm-dsa", **SELECTING, index_topk=LONGEST)
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), plain_pass(model, tokens))
    with pytest.raises(NotPackable, match="rows are longer than the 20 tokens that its attention selects"):
        PackedModel(model, LONGEST + 1)


def test_routers_that_would_read_the_mask(tokens: Tokens) -> None:
    """With `output_router_logits` a model computes the routers' loss, of which nothing is used."""
    shape = {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 4.0}
    model = stock("granitemoe", **shape, output_router_logits=True)
    assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), plain_pass(model, tokens))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("granite", {"residual_multiplier": 0.3, "attention_multiplier": 0.2}),
        ("helium", {"head_dim": 8}),
        ("ernie4_5", {"head_dim": 8}),
        ("smollm3", {"no_rope_layers": [1, 0]}),
        ("olmo", {"clip_qkv": 1.0}),
        ("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2}),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}),
    ],
)
def test_models_that_resemble_llama(tokens: Tokens, kind: str, shape: dict[str, Any]) -> None:
    """Other residuals, rotations of other pairs or in some layers only, norms without a weight, projections clipped in
    place, experts, sinks."""
    model = adapted(kind, **shape)
    wanted = plain_pass(model, tokens)
    with contextlib.suppress(NotPackable):
        assert_same(packed_pass(PackedModel(model, LONGEST), model, tokens), wanted)
