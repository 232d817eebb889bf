"""What each method trains, and where it starts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM

from pipeline.config.load import load as load_config
from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.generate import greedy
from pipeline.model.loss import loss_sum
from pipeline.model.methods import BY_NAME
from pipeline.model.methods.bottleneck import Bottleneck
from pipeline.prompt.batch import pad
from pipeline.training.plan import plan
from pipeline.training.plan_lines import lines
from tests.helpers.methods import KINDS, VOCABULARY, adapter_of, logits, moved, shape_of, stock
from tests.helpers.tiny import SHAPE

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


# Of the tiny LLaMA (2 blocks, hidden 32, inner 48, keys 16, 64 words): rank 4 in q, k, v, o, gate, up, down.
LORA = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))


COUNTS = {
    "lora": LORA,
    "lora dora": LORA + 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32),  # a norm for each row of W
    "lora rslora": LORA,
    "lora pissa": LORA,
    "lora olora": LORA,
    "lora plus": LORA,
    "full": 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32 + 2 * 64 * 32,
    "head": 64 * 32,
    "norms": 5 * 32,
    "ia3": 2 * (16 + 16 + 48),
    "houlsby": 4 * (2 * 6 * 32 + 6 + 32),
    "pfeiffer": 2 * 6 * 32 + 6 + 32,
    "prefix": 5 * 2 * 2 * 16,
    "prompt": 5 * 32,
    "ptuning": 5 * 32 + 3 * (32 * 32 + 32),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_trains_what_it_says(kind: str, tied: bool) -> None:
    """In float32 on a base in bf16; the plan counts the same without weights."""
    adapter, shared = adapter_of(kind), 64 * 32 if tied else 0
    model = adapters.attach(stock(torch.bfloat16, tie_word_embeddings=tied), adapter, seed=1)
    trained, everything = adapters.parameter_counts(model)
    assert trained == COUNTS[kind] - (shared if kind == "full" else 0)
    own = kind in ("full", "norms") or (kind == "head" and not tied)  # part of the base itself
    assert everything == COUNTS["full"] - shared + (0 if own else trained)
    if kind != "full":  # `load_base` gives that one float32
        assert {p.dtype for p in adapters.trained(model).values()} == {torch.float32}
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(shape_of(tie_word_embeddings=tied))
    empty.tie_weights()
    with init_empty_weights():
        planned = adapters.attach(empty, adapter, seed=0)
    assert sum(p.numel() for p in adapters.trained(planned).values()) == trained


@pytest.mark.parametrize("kind", KINDS)
def test_plan_of_every_method(kind: str, tmp_path: Path) -> None:
    text = {**SHAPE, "vocab_size": VOCABULARY, "tie_word_embeddings": False}
    words = json.dumps({"method": kind.split()[0], **KINDS[kind]})
    path = tmp_path / "a.yaml"
    path.write_text(f"name: a\nmodel: {{geometry: {json.dumps(text)}}}\nadapter: {words}\n"
                    "data: {sources: [{path: families, rows: 9}]}")  # fmt: skip
    config = load_config(path)
    found = plan(config)
    assert found.trained == COUNTS[kind]
    assert any(f"trained {found.trained:,}" in line for line in lines(config, found))


@pytest.mark.parametrize("base", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("kind", [k for k in KINDS if "virtual_tokens" not in METHODS[k.split()[0]].keys])
def test_starts_as_the_base(kind: str, base: str) -> None:
    if kind == "lora olora" and base == "gpt2":
        pytest.skip("refused: see test_bases_that_cannot_be_served")
    model = stock(model_type=base, tie_word_embeddings=False)
    before = logits(model)
    adapted = adapters.attach(model, adapter_of(kind), seed=1).eval()
    assert (logits(adapted) - before).abs().max() < 1e-6
    assert (logits(moved(adapted)) - before).abs().max() > 1e-3


@pytest.mark.parametrize("base", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("kind", ["prefix", "prompt", "ptuning"])
def test_virtual_tokens_are_seen(kind: str, base: str) -> None:
    """Loss and answers see them: with padding as one by one, and as the whole input says it."""
    model = moved(adapters.attach(stock(model_type=base), adapter_of(kind), seed=1)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight *= 30  # clear choices
    random = np.random.default_rng(0)
    rows = [(ids, ids) for ids in (random.integers(3, VOCABULARY, n) for n in (9, 4, 12))]
    alone = 0.0
    for ids, _ in rows:
        log_p = logits(model, torch.from_numpy(ids)[None])[0].log_softmax(-1)
        alone -= sum(float(log_p[t, ids[t + 1]]) for t in range(len(ids) - 1))
    assert float(loss_sum(model, pad(rows)).detach()) == pytest.approx(alone, rel=1e-5)
    prompts = [ids.tolist() for ids, _ in rows]
    wanted = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(5):
            ids.append(int(logits(model, torch.tensor([ids]))[0, -1].argmax()))
        wanted.append(ids[len(prompt) :])
    assert greedy(model, prompts, end_id=-1, max_new_tokens=5, what="test") == wanted


@pytest.mark.parametrize("shape", [{"model_type": "gpt2"}, {"model_type": "mistral", "sliding_window": 24}], ids=str)
@pytest.mark.parametrize("kind", ["prefix", "prompt", "ptuning", "houlsby"])
def test_answers_do_not_depend_on_who_else_is_asked(kind: str, shape: dict[str, Any]) -> None:
    """Where positions are learnt, and where a window is shorter than what the longest prompt adds to the others."""
    model = moved(adapters.attach(stock(**shape), adapter_of(kind), seed=1)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight *= 30  # clear choices
    random = np.random.default_rng(0)
    prompts = [random.integers(3, VOCABULARY, n).tolist() for n in (4, 60, 30, 4)]

    def asked(chosen: list[list[int]]) -> list[list[int]]:
        return greedy(model, chosen, end_id=-1, max_new_tokens=6, what="test")

    assert asked(prompts) == [asked([prompt])[0] for prompt in prompts]


def test_answers_end_where_the_model_does() -> None:
    model = stock(model_type="gpt2", max_position_embeddings=32)
    prompts = [[5] * 29, [6] * 4, [7] * 32]
    done: dict[int, list[int]] = {}
    made = greedy(model, prompts, end_id=-1, max_new_tokens=8, what="test", done=done.update)
    assert [len(ids) for ids in made] == [3, 8, 0]
    assert [done[n] for n in range(3)] == made


@pytest.mark.parametrize("base", ["llama", "gpt_neox", "gpt2"])
def test_prefix_starts_as_words_in_front(base: str) -> None:
    model, ids = stock(model_type=base), torch.arange(3, 20)[None]
    words = torch.randint(VOCABULARY, (1, 5), generator=torch.Generator().manual_seed(7))
    wanted = logits(model, torch.cat([words, ids], dim=1))[:, 5:]
    adapted = adapters.attach(model, adapter_of("prefix"), seed=7).eval()
    assert (logits(adapted, ids) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_bottleneck_gradients(activation: str) -> None:
    """Against the formulas written out."""
    torch.manual_seed(0)
    made = Bottleneck(7, 3, activation).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, g = torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.randn(5, 7, dtype=torch.float64)
    y = made(x)
    y.backward(g)
    down, up = made.down.weight.detach(), made.up.weight.detach()
    z = x.detach() @ down.T + made.down.bias.detach()
    normal = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    f = z * normal if activation == "gelu" else z.clamp(min=0)
    slope = normal + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) if activation == "gelu" else (z > 0).double()
    dz = g @ up * slope
    wanted = [x.detach() + f @ up.T + made.up.bias.detach(), dz.T @ x.detach(), dz.sum(0), g.T @ f, g.sum(0),
              g + dz @ down]  # fmt: skip
    found = [y.detach(), made.down.weight.grad, made.down.bias.grad, made.up.weight.grad, made.up.bias.grad, x.grad]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("method", ["houlsby", "pfeiffer"])
def test_bottlenecks_stand_in_front_of_the_residual(method: str) -> None:
    model = moved(adapters.attach(stock(), Adapter(method=method, bottleneck=6), seed=1)).eval()
    block, seen = model.model.layers[0], {}
    block.register_forward_hook(
        lambda m, args, kwargs, out: seen.update(x=args[0], kwargs=kwargs, y=out), with_kwargs=True
    )
    logits(model)
    parts = [block.self_attn, block.mlp]
    own = [m.bottleneck if hasattr(m, "bottleneck") else torch.nn.Identity() for m in parts]
    assert isinstance(own[0], Bottleneck) == (method == "houlsby")
    for module in parts:
        module._forward_hooks.clear()
    with torch.inference_mode():
        h = seen["x"] + own[0](block.self_attn(hidden_states=block.input_layernorm(seen["x"]), **seen["kwargs"])[0])
        y = h + own[1](block.mlp(block.post_attention_layernorm(h)))
        got = seen["y"][0] if isinstance(seen["y"], tuple) else seen["y"]
    assert (y - got).abs().max() < 1e-6


def test_lora_plus_moves_b_faster() -> None:
    """AdamW's first step is the learning rate for every number."""
    adapter = adapter_of("lora plus")
    model = adapters.attach(stock(), adapter, seed=1)
    weights = adapters.trained(model)
    before = {name: p.detach().clone() for name, p in weights.items()}
    groups = BY_NAME["lora"].groups(weights, adapter)
    assert sum(len(g["params"]) for g in groups) == len(weights)
    optimizer = torch.optim.AdamW([{**g, "lr": 1e-3 * g["ratio"]} for g in groups], weight_decay=0)
    for parameter in weights.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in weights.items():
        step = (before[name] - parameter.detach()).mean()
        assert float(step) == pytest.approx(4e-3 if "lora_B" in name else 1e-3, rel=1e-3)
