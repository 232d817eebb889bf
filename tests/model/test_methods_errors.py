"""Configs, bases and adapters that a method refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from pipeline.config.load import load as load_config
from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter, Config
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.methods import BY_NAME
from pipeline.release import verify
from pipeline.run.errors import UserError
from tests.helpers.methods import KINDS, adapter_of, moved, save, saved, stock
from tests.helpers.tiny import make_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


ROOT = Path(__file__).parents[2]


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
        ("adapter: {method: none}\ntrain: {neftune: 5}", "train.neftune: adapter.method=none trains nothing"),
        ("adapter: {method: prefix}\ntrain: {checkpointing: block}", "train.checkpointing: prefix keeps its keys"),
        ("adapter: {method: full}\ntrain: {checkpointing: stream}", "train.checkpointing: no stream with full: plain"),
        ("adapter: {dora: true}\ntrain: {checkpointing: stream}", "train.checkpointing: no stream with DoRA: plain"),
        ("adapter: {init: olora}\ntrain: {checkpointing: stream}", "train.checkpointing: no stream with adapter.init"),
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
    with pytest.raises(UserError, match=r"k_proj\b.*\b16"):
        adapters.attach(model, Adapter(r=24, init=init, targets=("q_proj", "k_proj")), seed=1)
    adapters.attach(model, Adapter(r=24, init=init, targets=("q_proj",)), seed=1)


def test_one_name_in_attention_and_in_the_mlp() -> None:
    """GPT-2's c_proj: behind the one, in front of the other, of 48 numbers."""
    model = adapters.attach(stock(model_type="gpt2", n_inner=48), Adapter(method="ia3", targets=("c_proj",)), seed=1)
    shapes = {name.split("transformer.")[1][:8]: tuple(p.shape) for name, p in adapters.trained(model).items()}
    assert shapes == {"h.0.attn": (32, 1), "h.0.mlp.": (1, 48), "h.1.attn": (32, 1), "h.1.mlp.": (1, 48)}


def test_full_names_leave_no_blocks_to_choose() -> None:
    with pytest.raises(UserError, match="q_proj"):
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
    with pytest.raises(UserError, match=r"model\.add_tokens"):
        load_config(path)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_one_key_apart(tmp_path: Path, method: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: {base: b/c}\nadapter: {r: 16, alpha: 32, targets: [all-linear]}\n")
    assert load_config(path, [f"adapter.method={method}"]).adapter.method == method


@pytest.mark.parametrize(
    ("adapter", "shape", "where", "what"),
    [
        ({"method": "houlsby"}, {"model_type": "bloom"}, "adapter.method", "in the blocks of bloom"),
        ({"method": "pfeiffer", "bottleneck": 4}, {"model_type": "opt"}, "adapter.method", "in the blocks of opt"),
        ({"method": "pfeiffer", "bottleneck": 33}, {}, "adapter.bottleneck", "wider than the model .32."),
        ({"method": "houlsby", "bottleneck": 4, "last_blocks": 3}, {}, "adapter.last_blocks", "2 blocks, not 3"),
        ({"method": "prompt", "virtual_tokens": 512}, {}, "adapter.virtual_tokens", "leave no room"),
        ({"method": "ia3", "targets": ("v_porj",)}, {}, "adapter.targets", "no linear layer is called 'v_porj'"),
        ({"method": "ia3"}, {"model_type": "phi3"}, "adapter.targets", "where ia3 scales a model of type phi3"),
        ({"init": "olora", "r": 4}, {"model_type": "gpt2"}, "adapter.init", "transposed weights of gpt2"),
        ({"r": 99}, {}, "adapter.r", "99"),
    ],
)
def test_bases_that_cannot_be_served(adapter: Any, shape: Any, where: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        adapters.attach(stock(**shape), Adapter(**{"bottleneck": 8, **adapter}), seed=1)
    assert caught.value.where == where
    assert caught.value.fix


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
    save(model, tmp_path)
    (tmp_path / "suri.json").write_text(json.dumps({"adapter": KINDS[kind]}))
    method = BY_NAME[kind.split()[0]]
    with pytest.raises(UserError, match="nothing was learnt"):
        verify.adapter_has_learnt(tmp_path, method, verify.Checks())
    save(moved(model), tmp_path)
    verify.adapter_has_learnt(tmp_path, method, verify.Checks())


def test_adapter_of_another_base(tmp_path: Path) -> None:
    """Same shape, other weights: only the hash tells."""
    one, two = (make_base(tmp_path / name, seed=n) for n, name in enumerate("ab"))
    hashes = []
    for folder in (one, two):
        config = Config(name="a", model={"base": str(folder)})
        hashes.append(fingerprint(config.model, bases.resolve(config.model), config.train.seed))
    assert hashes[0] != hashes[1]
    saved("lora", tmp_path / "c")
    (tmp_path / "c" / "suri.json").write_text(json.dumps({"base": "a", "base_hash": hashes[0]}))
    adapters.load(stock(), tmp_path / "c", hashes[0])
    with pytest.raises(UserError, match=hashes[1]):
        adapters.load(stock(), tmp_path / "c", hashes[1])
