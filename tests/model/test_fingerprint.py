"""The fingerprint of a base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.base.fingerprint import fingerprint, settings_of
from pipeline.run.errors import UserError
from tests.helpers.stored_adapters import plain
from tests.helpers.tiny import make_config


def test_the_hash_of_a_base(base: Path, config: Config, tmp_path: Path) -> None:
    wanted = fingerprint(config.model, resolve(config.model), config.train.seed)
    sharded = tmp_path / "sharded"
    plain(base).save_pretrained(sharded, max_shard_size="20KB")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    again = make_config(tmp_path, sharded)
    assert fingerprint(again.model, resolve(again.model), again.train.seed) == wanted
    whole = plain(base)
    with torch.no_grad():
        whole.model.layers[1].mlp.up_proj.weight *= 1.01
    whole.save_pretrained(tmp_path / "trained")
    shutil.copytree(sharded, tmp_path / "trained", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))  # fmt: skip
    trained = make_config(tmp_path, tmp_path / "trained")
    assert fingerprint(trained.model, resolve(trained.model), trained.train.seed) != wanted
    settings = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    assert fingerprint(again.model, resolve(again.model), again.train.seed) != wanted
    shape = [make_config(tmp_path, base, "model.base=''", f"model.geometry={{model_type: llama, hidden_size: {n}}}",
                         f"model.tokenizer={base}") for n in (32, 64)]  # fmt: skip
    shape.append(make_config(tmp_path, base, "model.base=''", "model.geometry={model_type: llama, hidden_size: 32}",
                             f"model.tokenizer={base}", "train.seed=7"))  # fmt: skip
    assert len({fingerprint(c.model, resolve(c.model), c.train.seed) for c in shape}) == 3


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({}, {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
        ({"rope_theta": 5000, "rope_scaling": None},
         {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default", "partial_rotary_factor": 1.0}}),
        ({"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2}},
         {"rope_parameters": {"rope_theta": 5e3, "rope_type": "linear", "factor": 2.0}}),
        ({"model_type": "gemma3_text", "rope_theta": 5e5, "rope_local_base_freq": 7e3,
          "layer_types": ["full_attention"]},
         {"model_type": "gemma3_text", "rope_parameters": {
             "full_attention": {"rope_theta": 5e5, "rope_type": "default"},
             "sliding_attention": {"rope_theta": 7e3, "rope_type": "default"}}, "layer_types": ["full_attention"]}),
    ],
)  # fmt: skip
def test_settings_are_the_same_in_either_form(tmp_path: Path, older: dict[str, Any], newer: dict[str, Any]) -> None:
    """As transformers 4 and 5 write them."""
    found = []
    for name, values in (("4", older), ("5", newer)):
        (tmp_path / name).mkdir()
        shape = {"model_type": "llama", "num_hidden_layers": 1, **values}
        (tmp_path / name / "config.json").write_text(json.dumps(shape))
        found.append(settings_of(tmp_path / name))
    assert found[0] == found[1]
    rope = newer["rope_parameters"]
    assert found[0]["rope_parameters"] == {k: v for k, v in rope.items() if k != "partial_rotary_factor"}


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("llama", {"rope_theta": 5.0}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("llama", {"hidden_act": "relu"}),
        ("gpt2", {"activation_function": "relu"}),
        ("mistral", {"sliding_window": 7}),
        ("gemma2", {"attn_logit_softcapping": 7.0}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 7}),
        ("gemma2", {"hidden_activation": "relu"}),
        ("granite", {"residual_multiplier": 0.5}),
        ("granite", {"attention_multiplier": 0.5}),
        ("granite", {"embedding_multiplier": 0.5}),
        ("granite", {"logits_scaling": 0.5}),
        ("cohere", {"logit_scale": 0.5}),
        ("gpt_neox", {"rotary_pct": 0.5}),
        ("stablelm", {"partial_rotary_factor": 0.5}),
    ],
)
def test_settings_that_no_tensor_shows(tmp_path: Path, kind: str, changed: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind}))
    before = settings_of(tmp_path)
    assert None not in before.values()
    path.write_text(json.dumps({"model_type": kind, "transformers_version": "9", "use_cache": False}))
    assert settings_of(tmp_path) == before
    path.write_text(json.dumps({"model_type": kind, **changed}))
    assert settings_of(tmp_path) != before


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match="settings"):
        settings_of(tmp_path)
