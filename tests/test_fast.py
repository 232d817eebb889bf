"""The fast path gives the loss and the gradients of the plain one, for any model that it takes, and leaves no trace."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN

from pipeline.config import Adapter
from pipeline.kernels import lora
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model import ready
from pipeline.model.fast import Fast, NotPackable
from pipeline.model.load import load_base
from pipeline.model.loss import loss_sum
from pipeline.prompt.batch import batches
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from tests.test_pack import A, B, random_tokens, tokens_of
from tests.tiny import SHAPE, make_base, make_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")
LONGEST = 20
Gradients = dict[str, torch.Tensor]
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-head-size": {"model_type": "llama", "head_dim": 16, "num_key_value_heads": 4},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": None},
    "gpt_neox": {},
    "phi3": {},
    "cohere": {"logit_scale": 0.25},
    "granite-scaled-logits": {"model_type": "granite", "logits_scaling": 4.0, "embedding_multiplier": 3.0},
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
LONG: dict[str, Any] = {
    "model_type": "phi3", "max_position_embeddings": 512, "original_max_position_embeddings": LONGEST,
    "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4,
        "original_max_position_embeddings": LONGEST,
    },
}  # fmt: skip
NESTED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {**LONG["rope_parameters"], "original_max_position_embeddings": LONGEST + 1},
}
BLOCKS = ("llama", "llama-biases", "llama-head-size", "mistral", "qwen2", "gemma")
OWN_HEAD = ("gemma2", "cohere", "granite-scaled-logits")  # what they do to their logits is left to them


def stock(kind: str = "llama", **shape: Any) -> Any:
    """A random model, its norms and biases too."""
    values = {**SHAPE, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "model_type": kind}
    values |= {**KINDS.get(kind, {}), **shape}
    torch.manual_seed(0)
    name = values.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **values), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapted(kind: str = "llama", added: tuple[int, ...] = (), adapter: Adapter | None = None, **shape: Any) -> Any:
    """With an adapter that has been trained: B is not zero."""
    return started(adapters.attach(stock(kind, **shape), adapter or Adapter(r=4), seed=1, added=added))


def started(model: Any) -> Any:
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return random_tokens(tmp_path, [A, B], 14)


def taken(model: Any) -> Gradients:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plainly(model: Any, tokens: Tokens, rows: Sequence[int] | None = None) -> tuple[float, Gradients]:
    total = 0.0
    for batch in batches(tokens, range(len(tokens)) if rows is None else rows, 80):
        value = loss_sum(model, batch)
        value.backward()
        total += float(value.detach())
    return total, taken(model)


def packed(
    fast: Fast, model: Any, tokens: Tokens, capacity: int = 50, leading: Sequence[list[int]] = (A, B)
) -> tuple[float, Gradients]:
    total = 0.0
    for pack in Packer(tokens, leading, capacity).packs(range(len(tokens))):
        value = fast.loss_sum(fast.ready(pack))
        if value.requires_grad:
            value.backward()
        total += float(value.detach())
    return total, taken(model)


def computed_again(fast: Fast, model: Any, tokens: Tokens) -> tuple[float, Gradients]:
    """`packed`, keeping less; transformers' own blocks do so in training only. Each MLP of theirs begins twice."""
    layers = getattr(fast.decoder, "layers", None) or fast.decoder.h
    runs: list[int] = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda *_, n=n: runs.append(n)) for n, layer in enumerate(layers)]
    model.train()
    fast.recompute = True
    found = packed(fast, model, tokens)
    fast.recompute = False
    model.eval()
    for hook in hooks:
        hook.remove()
    packs = sum(1 for _ in Packer(tokens, (A, B), 50).packs(range(len(tokens))))
    assert fast.blocks or len(runs) >= 2 * packs * len(layers) - 1
    return found


def assert_same(
    ours: tuple[float, Gradients], theirs: tuple[float, Gradients], loss: float = 1e-6, gradient: float = 1e-5
) -> None:
    """Up to `loss` and `gradient` of their size, gradients one by one."""
    assert ours[0] == pytest.approx(theirs[0], rel=loss)
    assert ours[1].keys() == theirs[1].keys()
    apart = {name: float((ours[1][name] - wanted).norm() / wanted.norm()) for name, wanted in theirs[1].items()}
    assert max(apart.values()) <= gradient, {name: value for name, value in apart.items() if value > gradient}


# --- the same as plain


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_fast_is_plain(kind: str, masked: bool, tmp_path: Path) -> None:
    """Several packs with preambles, everything kept and blocks computed again."""
    tokens = random_tokens(tmp_path, [A, B], 14, masked=masked)
    model = adapted(kind)
    wanted = plainly(model, tokens)
    fast = Fast(model, LONGEST)
    assert bool(fast.blocks) == (kind in BLOCKS) or kind.startswith("granite")  # may be taken as blocks or not
    assert fast.fused_head == (kind not in OWN_HEAD)
    assert_same(packed(fast, model, tokens), wanted)
    assert_same(computed_again(fast, model, tokens), wanted)


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
    fast = Fast(model, LONGEST)
    assert len(fast.blocks) == blocks
    assert_same(packed(fast, model, tokens), plainly(model, tokens))


def test_the_activation_of_one_block_only(tokens: Tokens) -> None:
    model = adapted()
    layer = model.get_base_model().get_decoder().layers[1]
    layer.mlp.act_fn = ACT2FN["gelu_pytorch_tanh"]
    assert_same(packed(Fast(model, LONGEST), model, tokens), plainly(model, tokens))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("capacity", [1, 30, 10_000])
@pytest.mark.parametrize("leading", [[], [A, B]])
def test_any_cut_of_a_step_is_the_same(tokens: Tokens, kind: str, capacity: int, leading: list[list[int]]) -> None:
    """From one row a pack to everything in one, with and without what is shared."""
    model = adapted(kind)
    assert_same(packed(Fast(model, LONGEST), model, tokens, capacity, leading), plainly(model, tokens))


@pytest.mark.parametrize(
    ("settings", "trained"),
    [({"targets": ("q_proj", "v_proj")}, 8), ({"targets": ("down_proj",)}, 4), ({"last_blocks": 1}, 14)],
)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_some_layers_have_adapters(tokens: Tokens, kind: str, settings: dict[str, Any], trained: int) -> None:
    model = adapted(kind, adapter=Adapter(r=4, **settings))
    wanted = plainly(model, tokens)
    assert len(wanted[1]) == trained
    fast = Fast(model, LONGEST)
    for recompute in (False, True):
        fast.recompute = recompute
        assert_same(packed(fast, model, tokens), wanted)


def test_three_blocks_of_which_the_second_is_adapted(tokens: Tokens) -> None:
    """Below it nothing goes back, above it only through."""
    model = stock(num_hidden_layers=3)
    model.requires_grad_(False)
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[1], use_rslora=True)
    model = started(get_peft_model(model, lora))
    wanted = plainly(model, tokens)
    assert len(wanted[1]) == 4
    assert_same(packed(Fast(model, LONGEST), model, tokens), wanted)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_new_tokens_are_trained(tmp_path: Path, kind: str, tied: bool) -> None:
    """Their rows of the embedding and of the head, besides the adapter."""
    rows = [[*B, 62, 30, 63], [*B, 31, 62, 62], [5, 63, 6]]
    tokens = tokens_of(tmp_path, rows, [4, 4, 1])
    model = adapted(kind, added=(62, 63), tie_word_embeddings=tied)
    wanted = plainly(model, tokens)
    assert sum("trainable_tokens" in name for name in wanted[1]) == (1 if tied else 2)
    assert_same(packed(Fast(model, LONGEST), model, tokens), wanted)


def test_an_adapter_on_the_head(tokens: Tokens) -> None:
    for kind in ("llama", "qwen3"):
        model = adapted(kind, adapter=Adapter(r=4, targets=("q_proj", "lm_head")))
        assert_same(packed(Fast(model, LONGEST), model, tokens), plainly(model, tokens))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_every_weight_trained(tokens: Tokens, kind: str, tied: bool) -> None:
    model = adapters.attach(stock(kind, tie_word_embeddings=tied), Adapter(method="full"), seed=1)
    wanted = plainly(model, tokens)
    assert len(wanted[1]) == len(list(model.parameters()))
    fast = Fast(model, LONGEST)
    assert_same(packed(fast, model, tokens), wanted)
    assert_same(computed_again(fast, model, tokens), wanted)


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
    model = started(adapt(stock(kind).requires_grad_(False))).eval()
    wanted = plainly(model, tokens)
    fast = Fast(model, LONGEST)
    assert fast.forwards == []
    assert_same(packed(fast, model, tokens), wanted)
    assert_same(computed_again(fast, model, tokens), wanted)
    with pytest.raises(NotPackable, match="not plain LoRA"):
        Fast(model, LONGEST, fp8=True)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_kept_the_other_way_round(tokens: Tokens, method: str) -> None:
    """GPT-2's linear layers hold their weights transposed, and its positions are learnt."""
    model = stock("gpt2", attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    model = started(adapters.attach(model, Adapter(method=method), seed=1, added=()))
    wanted = plainly(model, tokens)
    fast = Fast(model, LONGEST)
    assert_same(packed(fast, model, tokens), wanted)
    assert_same(computed_again(fast, model, tokens), wanted)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    "adapter",
    [{"method": name} for name in ("full", "head", "norms", "ia3")]
    + [{"method": "houlsby", "bottleneck": 8}, {"r": 4, "dora": True}],
    ids=str,
)
def test_own_layers_in_bf16(tokens: Tokens, adapter: dict[str, Any], again: bool) -> None:
    """What is trained stays in float32; as near to float32 as the plain path, both under autocast."""
    model = started(adapters.attach(stock(), Adapter(**adapter), seed=1, added=()))
    for parameter in adapters.trained(model).values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)  # bottlenecks start at zero
    exact = plainly(model, tokens)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        plain = plainly(model, tokens)
    fast = Fast(model, LONGEST, dtype=torch.bfloat16)
    ours = computed_again(fast, model, tokens) if again else packed(fast, model, tokens)
    assert all(g.dtype == torch.float32 for g in ours[1].values())
    assert_same(ours, exact, 2e-3, 0.1)
    assert distance(ours[1], exact[1]) < 1.5 * distance(plain[1], exact[1])
    with pytest.raises(NotPackable, match="not plain LoRA"):
        Fast(model, LONGEST, fp8=True)


def distance(ours: Gradients, theirs: Gradients) -> float:
    return sum(float((ours[name] - wanted).pow(2).sum()) for name, wanted in theirs.items()) ** 0.5


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen3"])
def test_arithmetic_in_bf16(tokens: Tokens, kind: str) -> None:
    """Adapters stay in float32; as near to float32 as the plain path under autocast."""
    model = adapted(kind)
    exact = plainly(model, tokens)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    ours = packed(Fast(model, LONGEST), model, tokens)
    assert all(g.dtype == torch.float32 for g in ours[1].values())
    assert_same(ours, exact, 2e-3, 0.1)


@pytest.mark.parametrize(("how", "loss", "gradient"), [("nf4", 1e-6, 1e-5), ("int8", 1e-2, 0.2)])
def test_quantised_base(tokens: Tokens, tmp_path: Path, how: str, loss: float, gradient: float) -> None:
    """The same weights as bitsandbytes multiplies with; its int8 also rounds what they are multiplied with."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    config = make_config(tmp_path, base, f"model.quantize={how}")
    model = started(adapters.attach(load_base(config, bases.resolve(config.model)), Adapter(r=4), seed=1))
    wanted = plainly(model, tokens)
    fast = Fast(model, LONGEST)
    assert len(fast.blocks) == 2
    for recompute in (False, True):
        fast.recompute = recompute
        assert_same(packed(fast, model, tokens), wanted, loss, gradient)
    again = plainly(model, tokens)
    assert_same(again, wanted, 0, 0)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_weights_in_fp8(tokens: Tokens, kind: str) -> None:
    """As far off as rounding to 2^-4 explains; less far from the plain path with the same rounded weights."""
    model = adapted(kind, hidden_size=64, intermediate_size=128)
    exact = plainly(copy.deepcopy(model), tokens)
    fast = Fast(model, LONGEST, fp8=True)
    ours = packed(fast, model, tokens)
    assert_same(ours, exact, 2e-2, 0.5)
    assert ours[0] != exact[0]
    assert_same(ours, plainly(model, tokens), 1e-2, 0.3)


# --- dropout


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_dropout_is_off_in_without_dropout(tokens: Tokens, kind: str) -> None:
    model = adapted(kind, adapter=Adapter(r=4, dropout=0.5))
    wanted = plainly(model.eval(), tokens)
    fast = Fast(model, LONGEST)
    with fast.without_dropout():
        assert_same(packed(fast, model, tokens), wanted)
    with pytest.raises(ZeroDivisionError), fast.without_dropout():
        raise ZeroDivisionError
    assert all(linear.drops for linear in fast.linears)
    assert packed(fast, model, tokens)[0] != pytest.approx(wanted[0], rel=1e-5)


def test_dropout_depends_on_the_seed_and_not_on_what_is_kept(tokens: Tokens) -> None:
    model = adapted(adapter=Adapter(r=4, dropout=0.5))
    fast = Fast(model, LONGEST)

    def seeded(seed: int, recompute: bool) -> tuple[float, Gradients]:
        torch.manual_seed(seed)
        fast.recompute = recompute
        return packed(fast, model, tokens)

    first = seeded(7, False)
    assert_same(seeded(7, False), first, 0, 0)
    assert_same(seeded(7, True), first)
    assert seeded(8, False)[0] != first[0]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_every_adapter_drops_something_else(tokens: Tokens, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed for each of the fourteen, and the same ones on the way back."""
    seeds: list[tuple[int, int]] = []
    drop = lora.drop

    def noted(x: torch.Tensor, share: float, seed: lora.Seed) -> torch.Tensor:
        seeds.append((int(seed.value), seed.place))
        return drop(x, share, seed)

    monkeypatch.setattr(lora, "drop", noted)
    fast = Fast(adapted(kind, adapter=Adapter(r=4, dropout=0.5)), LONGEST)
    loss = fast.loss_sum(fast.ready(Packer(tokens, [], 1000).pack(range(14))))
    forward = set(seeds)
    assert len(seeds) == len(forward) == 14
    loss.backward()
    assert set(seeds) == forward


# --- no trace


class Broken(Exception):
    pass


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("breaks", [False, True])
def test_the_stock_forward_is_untouched(
    tokens: Tokens, kind: str, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a pack went through or something broke on the way."""
    model = adapted(kind)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        first = model(input_ids=ids).logits
    fast = Fast(model, LONGEST)
    with torch.no_grad():
        before = model(input_ids=ids).logits
    attention = model.config._attn_implementation
    if breaks:

        def broken(*args: Any) -> None:
            raise Broken

        monkeypatch.setattr("pipeline.kernels.attention.attend_plain", broken)
        with pytest.raises(Broken):
            packed(fast, model, tokens)
        monkeypatch.undo()
    else:
        packed(fast, model, tokens)
    with torch.no_grad():
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert torch.allclose(first, after, atol=1e-5)
    assert model.config._attn_implementation == fast.decoder.config._attn_implementation == attention != ready.NAME
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == []
    assert [name for name, module in model.named_modules() if module._forward_pre_hooks] == []
    assert ready.now == []


def test_nothing_keeps_a_model_alive(tokens: Tokens) -> None:
    for kind in ("llama", "qwen3"):
        model = adapted(kind)
        fast = Fast(model, LONGEST)
        packed(fast, model, tokens)
        kept = [weakref.ref(thing) for thing in (model, fast.decoder, fast)]
        del model, fast
        gc.collect()
        assert [ref() for ref in kept] == [None] * 3


def test_adapters_follow_the_optimiser(tokens: Tokens) -> None:
    for kind in ("llama", "qwen3"):
        model = adapted(kind)
        fast = Fast(model, LONGEST)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.mul_(0.9)
        fast.refresh()
        assert_same(packed(fast, model, tokens), plainly(model, tokens))


def test_a_pack_without_labels(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, [[5], [*B, 6]], [0, 5])
    model = adapted()
    fast = Fast(model, LONGEST)
    (pack,) = Packer(tokens, [B], 100).packs([0, 1])
    loss = fast.loss_sum(fast.ready(pack))
    assert (float(loss), loss.requires_grad) == (0, False)


# --- what cannot be packed


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
        Fast(model, longest)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("phi3-long", LONG), ("llama", {"max_position_embeddings": LONGEST, "rope_parameters": DYNAMIC})],
)
def test_rotations_that_no_row_changes_for_others(tokens: Tokens, kind: str, shape: dict[str, Any]) -> None:
    """They change for all rows at once where one is longer than what `Fast` is told of."""
    model = adapted(kind, **shape)
    assert_same(packed(Fast(model, LONGEST), model, tokens), plainly(model, tokens))


def test_windows_that_rows_fit_into(tokens: Tokens) -> None:
    model = adapted("mistral", sliding_window=LONGEST)
    assert_same(packed(Fast(model, LONGEST), model, tokens), plainly(model, tokens))
    Fast(adapted("qwen2", sliding_window=8, use_sliding_window=False), LONGEST)


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
    wanted = plainly(model, tokens)
    with contextlib.suppress(NotPackable):
        assert_same(packed(Fast(model, LONGEST), model, tokens), wanted)
