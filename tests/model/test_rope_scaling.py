"""Scaled rotary positions: what they become, what is refused, and a run on a base with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.load import load
from pipeline.config.rope import longer
from pipeline.config.schema import Model
from pipeline.model.base import resolve
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.base.rope_scaling import scale
from pipeline.model.load import geometry_config, load_folder
from pipeline.release.gguf.supported import check_architecture, check_early
from pipeline.release.gguf.weights import settings
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.stages import BY_NAME
from tests.helpers.tiny import SHAPE, make_base, make_config, run_to
from tests.helpers.training_runs import losses_of

LLAMA3 = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = "model.rope_scaling={rope_type: yarn, factor: 4}"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))


def shape_of(kind: str = "llama", **values: Any) -> Any:
    own = {name: value for name, value in SHAPE.items() if name != "model_type"}
    return AutoConfig.for_model(kind, **{**own, "vocab_size": 64, **values})


@pytest.mark.parametrize(("scaling", "context", "more"), [
    ({"rope_type": "linear", "factor": 4}, 2048, {}),
    ({"rope_type": "yarn", "factor": 3.5}, 1792, {"original_max_position_embeddings": 512}),
    ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256}, 1024, {}),
    (LLAMA3, 1024, {"original_max_position_embeddings": 512}),
    ({"rope_type": "dynamic", "factor": 4, "rope_theta": 500.0}, 512, {}),
])  # fmt: skip
def test_parameters_and_context(scaling: dict[str, Any], context: int, more: dict[str, Any]) -> None:
    shape = shape_of(rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    scale(shape, scaling)
    assert shape.max_position_embeddings == context
    assert shape.rope_parameters == {"rope_theta": 5e4, **more, **scaling}


def test_linear_is_positions_divided_by_the_factor() -> None:
    shape = shape_of()
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(shape).eval()
    scale(shape, {"rope_type": "linear", "factor": 4})
    scaled = AutoModelForCausalLM.from_config(shape).eval()
    scaled.load_state_dict(plain.state_dict())
    ids = torch.arange(8)[None]
    there = plain(ids, position_ids=torch.arange(8)[None] / 4).logits
    torch.testing.assert_close(scaled(ids).logits, there, rtol=1e-5, atol=1e-6)


def test_a_base_that_is_scaled_already_says_its_own_context_or_is_asked_for() -> None:
    llama3 = {**LLAMA3, "rope_theta": 1e4, "original_max_position_embeddings": 512}
    shape = shape_of(rope_parameters=llama3, max_position_embeddings=1024)
    scale(shape, {**LLAMA3, "factor": 8})
    assert shape.max_position_embeddings == 4096
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UserError, match=r"scaled already \(linear, factor 2.0\)") as caught:
        scale(shape_of(rope_parameters=linear), {"rope_type": "yarn", "factor": 4})
    assert "give original_max_position_embeddings" in caught.value.fix
    shape = shape_of(rope_parameters=linear)
    scale(shape, {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 300})
    assert shape.max_position_embeddings == 1200


@pytest.mark.parametrize(("kind", "match"), [
    ("gpt2", "gpt2 has no rotary positions"), ("opt", "opt has no rotary positions"),
    ("gemma3_text", "other rotary positions in each kind of layer"),
])  # fmt: skip
def test_models_that_take_none(kind: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        scale(AutoConfig.for_model(kind), {"rope_type": "linear", "factor": 2})
    assert caught.value.where == "model.rope_scaling"


def test_a_context_of_too_many_tokens_is_refused_before_a_folder_is_made(tmp_path: Path, base: Path) -> None:
    with pytest.raises(UserError, match="512 tokens times 100000 is more than 16,777,216") as caught:
        resolve(Model(base=str(base), rope_scaling={"rope_type": "linear", "factor": 100_000}))
    assert caught.value.where == "model.rope_scaling"
    assert not list((tmp_path / "cache").rglob("config.json"))


@pytest.mark.parametrize(("scaling", "context", "said"), [
    (None, 512, "model.rope_scaling='{rope_type: yarn, factor: 3}'"),
    ({"rope_type": "yarn", "factor": 2}, 1024, "factor: 3 in model.rope_scaling"),  # of the base's 512, not of 1,024
    ({"rope_type": "linear", "factor": 1.5}, 768, "factor: 3 in model.rope_scaling"),
    ({"rope_type": "dynamic", "factor": 4}, 512,
     "dynamic trains no longer rows; model.rope_scaling='{rope_type: yarn, factor: 3}'"),
])  # fmt: skip
def test_the_factor_that_rows_of_1300_tokens_need(scaling: dict[str, Any] | None, context: int, said: str) -> None:
    assert longer(scaling, context, 1300) == said


def test_code_that_does_not_read_them_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    whole = LlamaRotaryEmbedding.__init__

    def ignores(self: Any, config: Any) -> None:
        whole(self, config)
        self.rope_type = "default"

    monkeypatch.setattr(LlamaRotaryEmbedding, "__init__", ignores)
    with pytest.raises(UserError, match="cannot be scaled by linear: its code does not read them"):
        scale(shape_of(), {"rope_type": "linear", "factor": 2})


@pytest.mark.parametrize(("value", "match"), [
    ("{rope_type: ntk, factor: 2}", "must be one of linear, dynamic, yarn, llama3"),
    ("{rope_type: yarn}", "rope_type yarn needs factor"),
    ("{rope_type: linear, factor: 1}", "factor must be above 1"),
    ("{rope_type: linear, factor: two}", "factor must be a number above 0"),
    ("{rope_type: linear, factor: 2, beta_fast: 3}", "rope_type linear has no beta_fast"),
    ("{rope_type: yarn, factr: 4}", r"rope_type yarn has no factr; did you mean factor\?"),
    ("{rope_type: [yarn], factor: 4}", "must be one of linear, dynamic, yarn, llama3"),
    ("{rope_type: yarn, type: linear, factor: 4}", "type is the older name of rope_type, and the two differ"),
    ("yarn", "expected a table, such as {rope_type: yarn, factor: 4}"),
    ("{rope_type: linear, factor: 1e30}", "factor must be at most 1,000,000,000,000"),
    ("{rope_type: linear, factor: 2, rope_theta: 1}", "rope_theta must be above 1"),
    ("{rope_type: linear, factor: 2, original_max_position_embeddings: 99999999}", "at most 16,777,216"),
    ("{rope_type: yarn, factor: 2, beta_fast: 0.5}", r"beta_fast \(0.5\) must be above beta_slow \(1\)"),
    ("{rope_type: llama3, factor: 2}", "needs low_freq_factor and high_freq_factor"),
    ("{type: llama3, factor: 2, low_freq_factor: 4, high_freq_factor: 1}", "high_freq_factor must be above"),
])  # fmt: skip
def test_mappings_that_scale_nothing(base: Path, tmp_path: Path, value: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        make_config(tmp_path, base, f"model.rope_scaling={value}")


def test_the_older_name_of_the_type(base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "model.rope_scaling={type: linear, factor: 2}")
    assert config.model.rope_scaling == {"rope_type": "linear", "factor": 2}
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps({"name": "x", "model": config.model.model_dump(mode="json", exclude_defaults=True)}))
    assert load(again, []).model.rope_scaling == config.model.rope_scaling


def test_a_geometry_is_scaled(base: Path) -> None:
    model = Model(geometry={**SHAPE, "vocab_size": 64}, rope_scaling={"rope_type": "linear", "factor": 2})
    assert geometry_config(model).max_position_embeddings == 1024
    files = resolve(Model(base=str(base)))
    alone = Model(geometry=model.geometry)
    random = replace(files, folder=None)
    assert fingerprint(model, random, 1) != fingerprint(alone, random, 1)


def test_a_scaled_base_is_the_base_with_another_config(base: Path) -> None:
    before = (base / "config.json").read_bytes()
    model = Model(base=str(base), rope_scaling={"rope_type": "yarn", "factor": 4})
    plain, scaled = resolve(Model(base=str(base))), resolve(model)
    assert scaled == replace(plain, folder=scaled.folder, unscaled=base)
    assert resolve(model).folder == scaled.folder != plain.folder
    assert scaled.folder is not None
    assert (base / "config.json").read_bytes() == before
    ours, theirs = (load_folder(folder, torch.float32) for folder in (scaled.folder, base))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert ours.config.max_position_embeddings == 2048
    assert ours.model.rotary_emb.rope_type == "yarn"
    assert not torch.equal(ours.model.rotary_emb.inv_freq, theirs.model.rotary_emb.inv_freq)
    assert fingerprint(model, scaled, 0) != fingerprint(Model(base=str(base)), plain, 0)


def test_rows_beyond_the_context_are_refused_or_lifted(tmp_path: Path) -> None:
    """Trained, exported and loaded by stock transformers with the scaled positions; rows of twice the context."""
    small = make_base(tmp_path / "base", max_position_embeddings=64)
    words = ("train.max_steps=2", "eval.prompts=[]", "eval.rows=2", "prompt.cutoff=200")
    with pytest.raises(UserError, match="this model sees 64") as caught:
        run_to(make_config(tmp_path, small, *words), "train", tmp_path)
    assert "model.rope_scaling='{rope_type: yarn, factor: 3}'" in caught.value.fix
    run = run_to(make_config(tmp_path, small, *words, YARN), "export", tmp_path)
    assert run.manifest("adapter")["counts"]["path"] == "fast"
    assert len(losses_of(run)) == 2
    record = json.loads((run.folder("adapter") / "suri.json").read_text())
    assert record["rope_scaling"] == {"rope_type": "yarn", "factor": 4}
    assert record["base"] == small.name
    exported = AutoConfig.from_pretrained(run.folder("export"))
    assert exported.max_position_embeddings == 256
    assert exported.rope_parameters == {
        "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "rope_theta": 10000.0,
    }  # fmt: skip
    card = (run.folder("adapter") / "README.md").read_text()
    assert "rotary positions were scaled" in card


def test_it_is_part_of_the_training_s_key(base: Path, tmp_path: Path) -> None:
    keys = [BY_NAME["train"].key(make_config(tmp_path, base, *words), Run(tmp_path / "x")) for words in ((), (YARN,))]
    assert "rope_scaling" not in keys[0]["model"]
    assert keys[1]["model"]["rope_scaling"] == {"rope_type": "yarn", "factor": 4}


def test_gguf_of_a_scaled_model(base: Path, tmp_path: Path) -> None:
    shape = shape_of()
    scale(shape, {"rope_type": "yarn", "factor": 4})
    keys = settings(shape, 64)
    assert keys["context_length"] == 2048
    assert keys["rope.scaling.type"] == "yarn"
    assert (keys["rope.scaling.factor"], keys["rope.scaling.original_context_length"]) == (4.0, 512)
    assert check_architecture({"model_type": "llama", "rope_parameters": shape.rope_parameters}, "here") == "llama"
    words = ("export.formats=[hf,gguf]", "model.rope_scaling={rope_type: dynamic, factor: 2}")
    with pytest.raises(UserError, match="dynamic"):
        check_early(make_config(tmp_path, base, *words))
    words = ("export.formats=[hf,gguf]", "model.rope_scaling={rope_type: yarn, factor: 2, beta_fast: 16}")
    with pytest.raises(UserError, match="YaRN with its defaults; this model sets beta_fast"):
        check_early(make_config(tmp_path, base, *words))
