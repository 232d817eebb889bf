"""Settings of a base that are damaged, impossible or unsafe: one error before anything is allocated."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pipeline.config.schema import Model
from pipeline.model import base as bases
from pipeline.model.base.folder import check_folder, too_large
from pipeline.run.errors import UserError
from tests.helpers.damage import DEEP, QUITE_DEEP, Spoil, edit, outcome, put, use


def without(key: str) -> Spoil:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values.pop(key)
        (folder / "config.json").write_text(json.dumps(values))

    return spoil


CONFIGS: dict[str, tuple[Spoil, str]] = {
    "newer model": (edit("config.json", model_type="llama9"), "transformers .* knows no model_type 'llama9'"),
    "no model_type": (without("model_type"), "no model_type"),
    "model_type a list": (edit("config.json", model_type=["llama"]), "model_type"),
    "model_type long": (edit("config.json", model_type="x" * 5000), "knows no model_type"),
    "zero heads": (
        edit("config.json", num_attention_heads=0),
        "num_attention_heads is 0, not a whole",
    ),
    "negative heads": (edit("config.json", num_attention_heads=-4), "num_attention_heads"),
    "zero groups": (edit("config.json", num_key_value_heads=0), ""),
    "architectures of numbers": (edit("config.json", architectures=[5]), "architectures"),
    "architectures a text": (edit("config.json", architectures="LlamaForCausalLM"), "architectures"),
    "architectures long": (edit("config.json", architectures=["x" * 5000] * 9), "not a causal"),
    "quantization_config a list": (edit("config.json", quantization_config=[1]), "quantization_config"),
    "quant_method a list": (edit("config.json", quantization_config={"quant_method": ["a" * 5000]}), "quantised"),
    "vocab_size a text": (edit("config.json", vocab_size="400"), 'vocab_size is "400"'),
    "vocab_size huge": (edit("config.json", vocab_size=10**12), "vocab_size"),
    "hidden_size infinite": (put("config.json", '{"model_type": "llama", "hidden_size": Infinity}'), "hidden_size"),
    "a number of 5,000 digits": (put("config.json", '{"hidden_size": ' + "9" * 5000 + "}"), "damaged"),
    "a number of 400 digits": (edit("config.json", hidden_size=10**400), "hidden_size"),
    "deep": (put("config.json", DEEP), "nested too deeply"),
    "quite deep": (put("config.json", '{"model_type": "llama", "x": ' + QUITE_DEEP + "}"), "nested too deeply"),
    "layers": (edit("config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    "more layers than tensors": (edit("config.json", num_hidden_layers=3000), "its files hold"),
    "layers below": (edit("config.json", text_config={"num_hidden_layers": 10**9}), "'num_hidden_layers' says"),
    "dimension": (edit("config.json", head_dim=10**10), "'head_dim' holds"),
    "large config": (put("config.json", '{"x": "' + "x" * 17_000_000 + '"}'), "larger than"),
    "not UTF-8": (put("config.json", b'{"x": "\xff"}'), "damaged"),
    "activation": (edit("config.json", hidden_act="no-such"), ""),
    "activation a number": (edit("config.json", hidden_act=5), ""),
    "rope a list": (edit("config.json", rope_parameters=[1]), ""),
    "rope unknown": (edit("config.json", rope_parameters={"rope_type": "no-such", "rope_theta": 1e4}), ""),
    "eps a text": (edit("config.json", rms_norm_eps="small"), ""),
    "eos a text": (edit("config.json", eos_token_id="</s>"), "eos_token_id"),
    "dtype a number": (edit("config.json", dtype=5), "dtype"),
    "dtype unknown": (edit("config.json", dtype="float5"), ""),
    "attention from the hub": (edit("config.json", attn_implementation="some/kernel"), "attn_implementation"),
    "weights elsewhere": (edit("config.json", transformers_weights="../x.safetensors"), "transformers_weights"),
    "generation a list": (put("generation_config.json", "[]"), "generation_config.json"),
    "generation deep": (put("generation_config.json", DEEP), "generation_config.json"),
    "generation eos": (edit("generation_config.json", eos_token_id=["</s>"]), "eos_token_id"),
    "generation temperature": (edit("generation_config.json", temperature="hot"), "temperature"),
    "tokenizer deep": (put("tokenizer.json", DEEP), "tokenizer.json"),
    "tokenizer a list": (put("tokenizer.json", "[]"), "tokenizer.json"),
    "tokenizer model": (edit("tokenizer.json", model={"type": "BPE", "vocab": 5, "merges": 7}), "tokenizer.json"),
    "tokenizer added": (edit("tokenizer.json", added_tokens=[{"id": -1}]), "tokenizer.json"),
    "tokenizer settings deep": (put("tokenizer_config.json", '{"x":' + QUITE_DEEP + "}"), "tokenizer_config.json"),
    "tokenizer settings a list": (put("tokenizer_config.json", "[1]"), "tokenizer_config.json"),
    "bos a number": (edit("tokenizer_config.json", bos_token=5), "bos_token"),
    "decoder a list": (edit("tokenizer_config.json", added_tokens_decoder=[1]), "added_tokens_decoder"),
    "decoder of text": (edit("tokenizer_config.json", added_tokens_decoder={"x": 1}), "added_tokens_decoder"),
    "length a text": (edit("tokenizer_config.json", model_max_length="long"), "model_max_length"),
    "class a list": (edit("tokenizer_config.json", tokenizer_class=[1]), "tokenizer_class"),
    "class unknown": (edit("tokenizer_config.json", tokenizer_class="NoSuchTokenizer"), ""),
    "template a number": (edit("tokenizer_config.json", chat_template=5), "chat_template"),
    "template large": (put("chat_template.jinja", "x" * 2_000_000), "chat_template.jinja"),
    "template not UTF-8": (put("chat_template.jinja", b"\xff\xfe"), "chat_template.jinja"),
    "special tokens": (edit("special_tokens_map.json", eos_token=[1]), "eos_token"),
    "added tokens": (put("added_tokens.json", '{"x": "y"}'), "added_tokens.json"),
    "a folder for a file": (lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "plain file"),
    "a pipe for a file": (lambda f: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")), "plain file"),
}


@pytest.mark.parametrize(("spoil", "what"), CONFIGS.values(), ids=CONFIGS.keys())
def test_settings(folder: Path, spoil: Spoil, what: str) -> None:
    spoil(folder)
    error = outcome(lambda: use(folder))
    if what:
        assert error is not None
        assert re.search(what, error.what), error.what


def test_message_for_a_newer_model_names_the_installed_transformers(folder: Path) -> None:
    import transformers

    edit("config.json", model_type="llama9")(folder)
    with pytest.raises(UserError) as caught:
        check_folder(folder)
    assert transformers.__version__ in caught.value.what
    assert "newer transformers" in caught.value.fix


@pytest.mark.parametrize("name", ["a" * 5000, "/tmp/" + "a" * 5000, "a/" * 3000, "a\0b"])
def test_names_that_are_no_path(name: str) -> None:
    assert outcome(lambda: bases.resolve(Model(base=name)))
    assert outcome(lambda: bases.resolve(Model(geometry={"vocab_size": 5}, tokenizer=name)))


def test_geometry_of_many_layers() -> None:
    assert "num_hidden_layers" in too_large({"num_hidden_layers": 10**9})
    assert not too_large({"num_hidden_layers": 126, "rope_theta": 10**11, "layer_types": ["full_attention"]})
    # Of published models: names with other kinds of values
    assert not too_large({"time_step_limit": [0.0, float("inf")], "mamba_dt_rank": "auto", "num_params": 7 * 10**9}, 9)
