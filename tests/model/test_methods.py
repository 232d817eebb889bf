"""Every method: what it trains, that it starts where it should, comes back, resumes, exports; and what it refuses."""

from __future__ import annotations

import ast
import io
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline import stages
from pipeline.comparison import stage as comparison
from pipeline.comparison.answer_pairs import load_pairs
from pipeline.config.load import load as load_config
from pipeline.config.methods import METHODS, MethodSpec
from pipeline.config.schema import Adapter, Compare, Config
from pipeline.evaluation.shots import Shots
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.bottleneck import Bottleneck
from pipeline.model.fingerprint import fingerprint
from pipeline.model.generate import greedy
from pipeline.model.load import context_length, load_base, load_folder
from pipeline.model.loss import loss_sum
from pipeline.model.methods import BY_NAME
from pipeline.prompt.batch import pad
from pipeline.prompt.stage import encoder_of
from pipeline.release import verify
from pipeline.release.keep import keep
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.serving import chat as chatting
from pipeline.store.folder import Store
from pipeline.store.load import open_stored
from pipeline.training import checkpoint
from pipeline.training.plan import lines, plan
from scripts.benchmarks import methods as script
from tests.helpers.tiny import SHAPE, load_examples, make_base, make_config, run_to

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")
ROOT = Path(__file__).parents[2]
VOCABULARY = 64
# Name -> settings beside the method, small enough for the tiny base. The first word of the name is the method.
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "lora dora": {"r": 4, "dora": True},
    "lora rslora": {"r": 4, "rslora": True},
    "lora pissa": {"r": 4, "init": "pissa"},
    "lora olora": {"r": 4, "init": "olora", "rslora": True},
    "lora plus": {"r": 4, "lora_plus": 4.0},
    "full": {},
    "head": {},
    "norms": {},
    "ia3": {},
    "houlsby": {"bottleneck": 6},
    "pfeiffer": {"bottleneck": 6, "last_blocks": 1},
    "prefix": {"virtual_tokens": 5},
    "prompt": {"virtual_tokens": 5},
    "ptuning": {"virtual_tokens": 5},
}
# Plain LoRA and full go all the way in test_release; OLoRA is saved as PiSSA is.
CHAINS = [k for k in KINDS if k not in ("lora", "lora rslora", "lora olora", "lora plus", "full")]
UNMERGED = ("houlsby", "pfeiffer", "prefix", "prompt", "ptuning")
PLAIN = ("prefix", "prompt", "ptuning")
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


def adapter_of(kind: str) -> Adapter:
    return Adapter(method=kind.split()[0], **KINDS[kind])


def shape_of(**shape: Any) -> Any:
    values = {**SHAPE, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **shape}
    if values["model_type"] in ("gpt2", "gpt_neox", "bloom", "opt"):
        values.pop("num_key_value_heads")
    return AutoConfig.for_model(values.pop("model_type"), **values)


def stock(dtype: torch.dtype = torch.float32, **shape: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(shape_of(**shape), dtype=dtype).eval()


def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    ids = torch.arange(3, 20)[None] if ids is None else ids
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]


def moved(model: Any) -> Any:
    """As after some training: every trained number another one."""
    torch.manual_seed(3)
    for parameter in adapters.trained(model).values():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


# What is trained


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_trains_what_it_says(kind: str, tied: bool) -> None:
    """In float32 on a base in bf16; the plan counts the same without weights."""
    adapter, shared = adapter_of(kind), 64 * 32 if tied else 0
    model = adapters.attach(stock(torch.bfloat16, tie_word_embeddings=tied), adapter, seed=1)
    trained, everything = adapters.sizes(model)
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
@pytest.mark.parametrize("kind", [k for k in KINDS if METHODS[k.split()[0]].starts_as_base])
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
    made = greedy(model, prompts, end_id=-1, max_new_tokens=8, what="test", done=done.__setitem__)
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


# Whole chains


@pytest.fixture(scope="module")
def prepared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Data and tokens, which every method takes."""
    folder = tmp_path_factory.mktemp("prepared")
    return run_to(make_config(folder, base), "tokens", folder)


def chain(prepared: Run, base: Path, folder: Path, kind: str, *more: str) -> tuple[Config, Run]:
    name = kind.split()[0]
    folder.mkdir(exist_ok=True)
    words = [f"adapter.method={name}", *(f"adapter.{k}={str(v).lower()}" for k, v in KINDS.get(kind, {}).items())]
    steps = [] if name == "none" else ["train.max_steps=2"]
    config = make_config(folder, base, *words, "train.max_steps=0", *steps, "train.eval_every=9", "eval.rows=2", *more)
    run = Run(folder / config.name)
    for stage in ("dataset", "tokens"):
        shutil.copytree(prepared.folder(stage), run.folder(stage), dirs_exist_ok=True)
    return config, run


def adapter_tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.folder("adapter").glob("*model.safetensors")))


@pytest.mark.parametrize("kind", CHAINS)
def test_trains_resumes_and_exports(
    kind: str, prepared: Run, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Gone on after a step = not stopped; then the export, loaded as its card says."""
    config, run = chain(prepared, base, tmp_path, kind, "eval.prompts=[]", "chat.max_new_tokens=2")
    stages.bring_up_to_date(config, run, "train")
    counts = run.manifest("adapter")["counts"]
    assert counts["path"] == ("plain" if kind in PLAIN else "fast")
    assert f"{kind.split()[0]}: {counts['trained_parameters']:,} of " in capsys.readouterr().out
    whole = adapter_tensors(run)
    shutil.rmtree(run.folder("adapter"))
    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), 2))
    stages.bring_up_to_date(config, run, "export")
    assert "resuming from step 1 of 2" in capsys.readouterr().out
    resumed = adapter_tensors(run)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(t, whole[name]) for name, t in resumed.items())
    check_export(kind, config, run, base)
    if kind in UNMERGED:
        assert talks(config, run, monkeypatch) < 60
    if kind == "prompt":
        assert compares(config, run, tmp_path)


def check_export(kind: str, config: Config, run: Run, base: Path) -> None:
    export, encoder, examples = run.folder("export"), encoder_of(config, base), load_examples(run, "val")

    def says(model: Any) -> torch.Tensor:
        return verify.log_probabilities(model.eval(), encoder, examples)

    def plain() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    made = json.loads((export / "suri.json").read_text())
    assert (made["method"], made["base_hash"]) == (
        kind.split()[0],
        fingerprint(config, bases.resolve(config.model)),
    )
    names = {"reload", "tokenizer and chat template", "answers stop"}
    assert names < made["checks"].keys()
    assert str(base.parent) not in (export / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(export).eos_token_id == 2
    trained = says(adapters.load(plain(), run.folder("adapter")))
    assert verify.divergence(trained, says(plain())) > 1e-9
    if kind in UNMERGED:
        assert not list(export.glob("model*.safetensors"))
        named = json.loads((export / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert named == str(base)  # absolute: it loads from any folder
        if kind == "prefix":
            auto = AutoPeftModelForCausalLM.from_pretrained(export, dtype=torch.float32)
            assert verify.divergence(trained, says(auto)) < 1e-7
        stock_peft = kind not in ("houlsby", "pfeiffer")
        reloaded = PeftModel.from_pretrained(plain(), export) if stock_peft else adapters.load(plain(), export)
        assert ("PeftModel.from_pretrained(model" in (export / "README.md").read_text()) == stock_peft
    else:
        reloaded = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    assert verify.divergence(trained, says(reloaded)) < 1e-7
    if kind.startswith(("lora", "ia3")):  # on the original base, whatever the start did to it
        assert verify.divergence(trained, says(PeftModel.from_pretrained(plain(), run.folder("adapter")))) < 1e-9


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_started_from_the_base_and_saved_for_it(init: Any, rslora: bool, tmp_path: Path) -> None:
    """Stock peft on the original base gives the logits of the model that was trained on what was left of it."""
    adapter = Adapter(r=4, alpha=7, init=init, rslora=rslora)
    model = stock()
    untouched = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    trained = moved(adapters.attach(model, adapter, seed=1)).eval()
    assert (model.model.layers[0].mlp.up_proj.base_layer.weight - untouched).abs().max() > 1e-3
    adapters.save(trained, tmp_path, "base")
    loaded = PeftModel.from_pretrained(stock(), tmp_path).eval()
    assert (logits(loaded) - logits(trained)).abs().max() < 1e-5
    assert (logits(loaded) - logits(stock())).abs().max() > 1e-2


def test_tied_head_is_untied_in_the_export(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tie_word_embeddings=True)
    config = make_config(tmp_path, base, "adapter.method=head", "train.max_steps=2", "eval.rows=1", "eval.prompts=[]")
    export = run_to(config, "export", tmp_path).folder("export")
    assert json.loads((export / "config.json").read_text())["tie_word_embeddings"] is False
    model, before = load_folder(export, torch.float32), load_folder(base, torch.float32)
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)


@pytest.mark.parametrize("kind", ["ia3", "prefix"])
def test_on_four_bits(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    words = [f"adapter.{k}={str(v).lower()}" for k, v in KINDS[kind].items()]
    config = make_config(
        tmp_path, base, f"adapter.method={kind.split()[0]}", *words, "model.quantize=nf4", "train.max_steps=2",
        "eval.rows=1", "eval.prompts=[]",
    )  # fmt: skip
    run = run_to(config, "export", tmp_path)
    if kind not in UNMERGED:
        kinds = {t.dtype for t in load_file(run.folder("export") / "model.safetensors").values()}
        assert kinds == {torch.float32}


# In-context learning


def test_none_compares_with_examples(
    prepared: Run, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = chain(prepared, base, tmp_path, "none", "adapter.shots=2", "chat.max_new_tokens=2")
    stages.bring_up_to_date(config, run, "export")
    said = capsys.readouterr().out
    assert "nothing is trained" in said
    assert "0-shot" in said
    assert "2-shot" in said
    results = json.loads((run.folder("export") / "results.json").read_text())
    assert results["base"]["val"]["loss"] != results["tuned"]["val"]["loss"]
    assert not list(run.folder("export").glob("*.safetensors"))
    assert "| | 0-shot | 2-shot |" in (run.folder("export") / "README.md").read_text()
    encoder, examples = encoder_of(config, base), load_examples(run, "val")
    shots = Shots(encoder, load_examples(run, "train"), 2, 42, 512, 64)
    model = load_folder(base, torch.float32)
    total, learnt = 0.0, 0
    for example in examples[:2]:
        before, row = shots.before(example, 0), encoder.rows([example])[0]
        ids = before + row.ids if encoder.bos_id is None else [encoder.bos_id, *before, *row.ids[1:]]
        log_p = logits(model, torch.tensor([ids]))[0].log_softmax(-1)
        total -= sum(float(log_p[t - 1, ids[t]]) for t in range(len(ids) - row.labelled, len(ids)))
        learnt += row.labelled
    assert results["tuned"]["val"]["loss"] == pytest.approx(total / learnt, rel=1e-5)
    stages.bring_up_to_date(config, run, "export")
    assert capsys.readouterr().out.count("up to date") == 4
    assert compares(config, run, tmp_path)
    assert "2-shot: the same" in (run.folder("compare") / "page.html").read_text()


def test_examples_come_from_the_questions_task(prepared: Run, base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base)
    encoder, pool = encoder_of(config, base), load_examples(prepared, "train")
    shots, question = Shots(encoder, pool, 3, 1, 10_000, 10), load_examples(prepared, "val")[0]
    chosen = shots.chosen(question)
    same = sum(e.task == question.task for e in pool)
    assert [e.task for e in chosen][-min(3, same) :] == [question.task] * min(3, same)
    assert len({e.id for e in chosen}) == len(chosen) == 3
    assert shots.chosen(question) == chosen
    parts = [row.ids[encoder.bos_id is not None :] for row in encoder.rows(chosen)]
    own = encoder.prompt(question.instruction, question.input)
    bos = own[:1] if encoder.bos_id is not None else []
    assert shots.prompt(question) == [*bos, *itertools.chain(*parts), *own[len(bos) :]]
    narrow = Shots(encoder, pool, 3, 1, len(own) + len(parts[-1]) + 10, 10)
    assert narrow.prompt(question) == [*bos, *parts[-1], *own[len(bos) :]]
    assert Shots(encoder, pool, 0, 1, 10_000, 10).prompt(question) == own


def talks(config: Config, run: Run, monkeypatch: pytest.MonkeyPatch) -> int:
    """Asks one question in chat; returns how many tokens went in."""
    seen: list[int] = []
    reply = chatting.Talker.reply

    def watched(talker: Any, question: str, given: str) -> str:
        generate = talker.model.generate
        talker.model.generate = lambda **k: (seen.append(k["input_ids"].shape[1]), generate(**k))[1]
        return reply(talker, question, given)

    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("Say hello.\n"))
        patch.setattr(chatting.Talker, "reply", watched)
        chatting.chat(config, run)
    assert len(seen) == 1
    return seen[0]


def compares(config: Config, run: Run, folder: Path) -> bool:
    """Base and export answer two questions beside each other; whether they differ in one."""
    (folder / "asked.jsonl").write_text('{"instruction": "Say hello."}\n{"instruction": "What is 2 + 2?"}\n')
    asked = Compare(questions=(str(folder / "asked.jsonl"),), max_new_tokens=4)
    comparison.build(config.model_copy(update={"compare": asked}), run, {})
    return any(pair.base != pair.tuned for pair in load_pairs(run))


# What is refused


def refused(folder: Path, text: str, *overrides: str) -> str:
    path = folder / "bad.yaml"
    path.write_text("name: a\nmodel: {base: b/c, dtype: fp32}\n" + text)
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return caught.value.what


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adapter: {method: loar}", "adapter.method = 'loar': no such method; did you mean lora? there is lora, full,"),
        ("adapter: {method: 3}", "no such method; there is lora"),
        ("adapter: {method: ia3, r: 4}", "adapter.r: ia3 does not use it (it reads targets); remove it"),
        ("adapter: {method: full, dora: true}", "adapter.dora: full does not use it (it reads none of these keys)"),
        ("adapter: {method: lora, shots: 2}", "adapter.shots: lora does not use it"),
        ("adapter: {method: prefix, bottleneck: 2}", "adapter.bottleneck: prefix does not use it"),
        ("adapter: {dora: true, init: pissa}", "adapter.init: no pissa with DoRA"),
        ("adapter: {dora: true, rslora: true}", "adapter.rslora: no rsLoRA with DoRA"),
        ("adapter: {method: none}\ntrain: {max_steps: 4}", "train.max_steps: adapter.method=none trains nothing"),
        ("adapter: {method: prefix}\ntrain: {checkpointing: block}", "train.checkpointing: prefix keeps its keys"),
        ("adapter: {lora_plus: 0}", "adapter.lora_plus = 0"),
    ],
)  # fmt: skip
def test_configs_that_contradict_themselves(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize("quantize", ["nf4", "int8", "fp8"])
@pytest.mark.parametrize("kind", ["full", "head", "lora pissa", "lora olora"])
def test_quantised_bases_that_cannot_be(tmp_path: Path, kind: str, quantize: str) -> None:
    words = json.dumps({"method": kind.split()[0], **KINDS[kind]})
    said = refused(tmp_path, f"adapter: {words}\n", f"model.quantize={quantize}")
    assert quantize in said
    assert "set model.quantize=n" in said or "set quantize=none" in said


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_out_of_the_weights_needs_its_rank_in_each(init: str) -> None:
    """Keys have 16 rows, queries 32."""
    model = stock()
    with pytest.raises(UserError, match=r"takes 24 parts out of every matrix, and \S+k_proj has no more than 16"):
        adapters.attach(model, Adapter(r=24, init=init, targets=("q_proj", "k_proj")), seed=1)
    adapters.attach(model, Adapter(r=24, init=init, targets=("q_proj",)), seed=1)


def test_one_name_in_attention_and_in_the_mlp() -> None:
    """GPT-2's c_proj: behind the one, in front of the other, of 48 numbers."""
    model = adapters.attach(stock(model_type="gpt2", n_inner=48), Adapter(method="ia3", targets=("c_proj",)), seed=1)
    shapes = {name.split("transformer.")[1][:8]: tuple(p.shape) for name, p in adapters.trained(model).items()}
    assert shapes == {"h.0.attn": (32, 1), "h.0.mlp.": (1, 48), "h.1.attn": (32, 1), "h.1.mlp.": (1, 48)}


def test_full_names_leave_no_blocks_to_choose() -> None:
    with pytest.raises(UserError, match=r"q_proj names one layer in full"):
        adapters.attach(stock(), Adapter(r=4, targets=("model.layers.0.self_attn.q_proj",), last_blocks=1), seed=1)


def test_nothing_trained_is_nothing_held(tmp_path: Path) -> None:
    assert "train.ewc: adapter.method=none trains nothing" in refused(
        tmp_path, "adapter: {method: none}\ntrain: {ewc: 1.0, ewc_data: x}\n"
    )


def test_dora_needs_weights_that_peft_reads(tmp_path: Path) -> None:
    said = "adapter.dora: no DoRA on int8"
    assert said in refused(tmp_path, "adapter: {dora: true}\n", "model.quantize=int8")


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.no_tokens])
def test_new_tokens_need_a_method_that_trains_them(tmp_path: Path, method: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: a\nmodel: {{base: b/c, add_tokens: ['[X]']}}\nadapter: {{method: {method}}}\n")
    with pytest.raises(UserError, match=f"model.add_tokens: {method} cannot train new tokens"):
        load_config(path)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_one_key_apart(tmp_path: Path, method: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: {base: b/c}\nadapter: {r: 16, alpha: 32, targets: [all-linear]}\n")
    assert load_config(path, [f"adapter.method={method}"]).adapter.method == method


@pytest.mark.parametrize(
    ("adapter", "shape", "where", "what"),
    [
        ({"method": "houlsby"}, {"model_type": "bloom"}, "adapter.method", "where to stand in the blocks of bloom"),
        ({"method": "pfeiffer", "bottleneck": 4}, {"model_type": "opt"}, "adapter.method", "in the blocks of opt"),
        ({"method": "pfeiffer", "bottleneck": 33}, {}, "adapter.bottleneck", "wider than the model .32."),
        ({"method": "houlsby", "bottleneck": 4, "last_blocks": 3}, {}, "adapter.last_blocks", "2 blocks, not 3"),
        ({"method": "prompt", "virtual_tokens": 512}, {}, "adapter.virtual_tokens", "leave no room"),
        ({"method": "ia3", "targets": ("v_porj",)}, {}, "adapter.targets", "no linear layer is called 'v_porj'"),
        ({"method": "ia3"}, {"model_type": "phi3"}, "adapter.targets", "where ia3 scales a model of type phi3"),
        ({"init": "olora", "r": 4}, {"model_type": "gpt2"}, "adapter.init", "transposed weights of gpt2"),
        ({"r": 99}, {}, "adapter.r", "rank 99 is more than any"),
    ],
)
def test_bases_that_cannot_be_served(adapter: Any, shape: Any, where: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        adapters.attach(stock(**shape), Adapter(**{"bottleneck": 8, **adapter}), seed=1)
    assert caught.value.where == where
    assert caught.value.fix


def saved(kind: str, folder: Path) -> Path:
    adapters.save(moved(adapters.attach(stock(), adapter_of(kind), seed=1)), folder, "base")
    return folder


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


SPOILS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda f: (f / "adapter_model.safetensors").write_bytes(b""),
    "cut": lambda f: _cut(f / "adapter_model.safetensors"),
    "no tensors": lambda f: save_file({}, f / "adapter_model.safetensors"),
    "missing": lambda f: (f / "adapter_model.safetensors").unlink(),
    "settings": lambda f: (f / "adapter_config.json").write_text("{"),
    "unknown": lambda f: (f / "adapter_config.json").write_text('{"suri_method": "x"}'),
}


@pytest.mark.parametrize("kind", ["lora", "ia3", "head", "houlsby", "prefix"])
@pytest.mark.parametrize("spoil", SPOILS)
def test_damaged_adapters(kind: str, spoil: str, tmp_path: Path) -> None:
    SPOILS[spoil](saved(kind, tmp_path))
    with pytest.raises(UserError, match="adapter") as caught:
        adapters.load(stock(), tmp_path)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("kind", ["lora", "head", "norms", "ia3", "houlsby", "prefix", "prompt"])
def test_adapter_of_another_shape(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    other = stock(hidden_size=48, num_key_value_heads=4)
    with pytest.raises(UserError, match=r"does not fit this base|cannot adapt"):
        adapters.load(other, tmp_path)


@pytest.mark.parametrize(
    "kind", ["lora", "lora pissa", "head", "norms", "ia3", "houlsby", "prefix", "prompt", "ptuning"]
)
def test_nothing_learnt_is_seen(kind: str, tmp_path: Path) -> None:
    model = adapters.attach(stock(), adapter_of(kind), seed=1)
    adapters.save(model, tmp_path, "base")
    (tmp_path / "suri.json").write_text(json.dumps({"adapter": KINDS[kind]}))
    method = BY_NAME[kind.split()[0]]
    with pytest.raises(UserError, match="nothing was learnt"):
        verify.adapter_has_learnt(tmp_path, method, verify.Checks())
    adapters.save(moved(model), tmp_path, "base")
    verify.adapter_has_learnt(tmp_path, method, verify.Checks())


def test_adapter_of_another_base(tmp_path: Path) -> None:
    """Same shape, other weights: only the hash tells."""
    one, two = (make_base(tmp_path / name, seed=n) for n, name in enumerate("ab"))
    hashes = []
    for folder in (one, two):
        config = Config(name="a", model={"base": str(folder)})
        hashes.append(fingerprint(config, bases.resolve(config.model)))
    assert hashes[0] != hashes[1]
    saved("lora", tmp_path / "c")
    (tmp_path / "c" / "suri.json").write_text(json.dumps({"base": "a", "base_hash": hashes[0]}))
    adapters.load(stock(), tmp_path / "c", hashes[0])
    with pytest.raises(UserError, match=hashes[1]):
        adapters.load(stock(), tmp_path / "c", hashes[1])


# The registry


def test_table_needs_nothing_heavy() -> None:
    files = [ROOT / "pipeline" / "method_table.py", *(ROOT / "pipeline" / "model" / "methods").glob("*.py")]
    for path in files:
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"torch", "peft", "transformers", "safetensors"}, path


def test_every_method_is_described() -> None:
    table = (ROOT / "docs" / "methods.md").read_text()
    for name, spec in METHODS.items():
        assert (name, bool(spec.trains)) == (spec.name, True)
        assert f"| `{spec.name}` |" in table
        assert set(spec.keys) <= set(Adapter.model_fields)
    assert {name: method.spec for name, method in BY_NAME.items()} == METHODS


def test_one_more_method_is_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/methods.md shows: an entry in the table, and a class of a few lines."""
    from pipeline.model.methods.own_form import OwnForm

    class Biases(OwnForm):
        def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
            return {n: p for n, p in model.named_parameters() if n.endswith(".bias")}

    spec = MethodSpec("biases", "biases")
    monkeypatch.setitem(METHODS, "biases", spec)
    monkeypatch.setitem(BY_NAME, "biases", Biases(spec))
    model = adapters.attach(stock(model_type="gpt_neox"), Adapter(method="biases"), seed=1)
    assert all(name.endswith(".bias") for name in adapters.trained(model))


def test_loading_is_frozen(tmp_path: Path) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        saved(kind, folder)
        assert not adapters.trained(adapters.load(stock(), folder)), kind


def test_lora_plus_reaches_the_optimiser(prepared: Run, base: Path, tmp_path: Path) -> None:
    """B starts at zero: after a run's first step it is four times as far away as without."""
    sizes = []
    for kind in ("lora", "lora plus"):
        config, run = chain(prepared, base, tmp_path / kind.replace(" ", ""), kind, "train.max_steps=1")
        stages.bring_up_to_date(config, run, "train")
        sizes.append(sum(float(t.norm()) for n, t in adapter_tensors(run).items() if "lora_B" in n))
    assert sizes[1] == pytest.approx(4 * sizes[0], rel=1e-3)


def test_load_base_in_float32_for_full(base: Path) -> None:
    config = Config(name="a", model={"base": str(base), "dtype": "bf16"}, adapter={"method": "full"})
    assert load_base(config, bases.resolve(config.model)).dtype == torch.float32


# The store


@pytest.mark.parametrize("kind", ["houlsby", "norms", "prefix", "lora pissa"])
def test_the_store_keeps_every_kind_of_adapter(kind: str, prepared: Run, base: Path, tmp_path: Path) -> None:
    config, run = chain(prepared, base, tmp_path, kind, "train.save_every=9")
    stages.bring_up_to_date(config, run, "train")
    store, found = Store(tmp_path / "adapters"), bases.resolve(config.model)
    keep(config, run, found, store, "task", False)
    model, encoder = open_stored(config, found, store, "task")
    tuned = adapters.load(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run.folder("adapter"))
    examples = load_examples(run, "val")
    said = [verify.log_probabilities(m.eval(), encoder, examples) for m in (model, tuned)]
    assert torch.equal(*said)


def test_the_table_goes_on_where_it_was_stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make methods`: a finished variant is not started again, a failed one is left out, and the time is said."""
    monkeypatch.setenv("RUNS", str(tmp_path))
    finished, code = {"ia3"}, {"norms": 1}
    configs = {name: make_config(tmp_path, base, f"name={name}") for name in ("lora", "ia3", "norms")}
    monkeypatch.setattr(script, "stale", lambda config, _: [] if config.name in finished else ["train"])
    started: list[str] = []

    def process(command: list[str], check: bool) -> Any:
        started.append(command[0])
        finished.add(command[0])
        return SimpleNamespace(returncode=code.get(command[0], 0))

    monkeypatch.setattr(script.subprocess, "run", process)
    runs = script.run_all(configs, {name: [name] for name in configs})
    assert started == ["lora", "norms"]
    assert list(runs) == ["lora", "ia3"]
    said = capsys.readouterr().out
    assert "finished before: ia3\n--- lora, 1 of 2\n--- lora: 0 s; the other 1: about 0 min\n" in said
    assert "norms failed" in said


def test_context_length_is_without_virtual_tokens() -> None:
    shape = SimpleNamespace(max_position_embeddings=100)
    assert context_length(shape) == context_length(shape, Adapter(method="lora")) == 100
    assert context_length(shape, Adapter(method="prefix", virtual_tokens=5)) == 95
    assert context_length(SimpleNamespace()) is context_length(SimpleNamespace(), Adapter()) is None
