"""Bases and adapters that are not fit: each ends in one error before anything is allocated by its numbers, or loads."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.comparison import answering
from pipeline.comparison.questions import CompareQuestion
from pipeline.config.schema import Adapter, Config, Model
from pipeline.evaluation.stage import Evaluation
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model import exported, hf_tokenizer
from pipeline.model.base_folder import check_folder, too_large
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import load_base, load_folder
from pipeline.prompt import template as templates
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.serving import chat
from pipeline.store.untrusted import inspect
from tests.helpers.tiny import make_base, make_config

CPU_SECONDS = 2.0
DEEP = "[" * 20_000 + "]" * 20_000
QUITE_DEEP = "[" * 300 + "]" * 300  # Python reads it, and fails later
Spoil = Callable[[Path], Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "base"))


def use(place: Path | str) -> None:
    """All that a run does with a base: its tokenizer, its hash, its weights, a pass, a token."""
    config = Config(name="x", model=Model(base=str(place), dtype="fp32"))
    base = bases.resolve(config.model)
    tokenizer = Tokenizer(base.tokenizer)
    fingerprint(config, base)
    hf_tokenizer.load(base.tokenizer)
    model = load_base(config, base)
    ids = torch.tensor([[i % model.config.vocab_size for i in tokenizer.encode(["a b"])[0]]])
    with torch.no_grad():
        model(input_ids=ids)


def outcome(work: Callable[[], Any]) -> UserError | None:
    """The error of a user; None where there is none. Anything else is raised, and so is a long wait."""
    began = time.process_time()
    try:
        work()
        error = None
    except UserError as caught:
        error = caught
        assert len(str(error)) < 2_000
        assert error.where
        assert error.fix
    assert time.process_time() - began < CPU_SECONDS
    return error


def edit(name: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        there = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**there, **values}))

    return spoil


def put(name: str, text: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def without(key: str) -> Spoil:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values.pop(key)
        (folder / "config.json").write_text(json.dumps(values))

    return spoil


# config.json, generation_config.json, tokenizer files

CONFIGS: dict[str, tuple[Spoil, str]] = {
    "newer model": (edit("config.json", model_type="llama9"), "transformers .* knows no model_type 'llama9'"),
    "no model_type": (without("model_type"), "no model_type"),
    "model_type a list": (edit("config.json", model_type=["llama"]), "model_type"),
    "model_type long": (edit("config.json", model_type="x" * 5000), "knows no model_type"),
    "zero heads": (
        edit("config.json", num_attention_heads=0),
        "num_attention_heads holds 0, not a whole",
    ),
    "negative heads": (edit("config.json", num_attention_heads=-4), "num_attention_heads"),
    "zero groups": (edit("config.json", num_key_value_heads=0), ""),
    "architectures of numbers": (edit("config.json", architectures=[5]), "architectures"),
    "architectures a text": (edit("config.json", architectures="LlamaForCausalLM"), "architectures"),
    "architectures long": (edit("config.json", architectures=["x" * 5000] * 9), "not a causal"),
    "quantization_config a list": (edit("config.json", quantization_config=[1]), "quantization_config"),
    "quant_method a list": (edit("config.json", quantization_config={"quant_method": ["a" * 5000]}), "quantised"),
    "vocab_size a text": (edit("config.json", vocab_size="400"), 'vocab_size holds "400"'),
    "vocab_size huge": (edit("config.json", vocab_size=10**12), "vocab_size"),
    "hidden_size infinite": (put("config.json", '{"model_type": "llama", "hidden_size": Infinity}'), "hidden_size"),
    "a number of 5,000 digits": (put("config.json", '{"hidden_size": ' + "9" * 5000 + "}"), "damaged"),
    "a number of 400 digits": (edit("config.json", hidden_size=10**400), "hidden_size"),
    "deep": (put("config.json", DEEP), "nested too deeply"),
    "quite deep": (put("config.json", '{"model_type": "llama", "x": ' + QUITE_DEEP + "}"), "nested too deeply"),
    "layers": (edit("config.json", num_hidden_layers=10**9), "num_hidden_layers says 1,000,000,000 layers|holds"),
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


# Headers of safetensors


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path: Path, head: bytes, data: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + data)


NORM = "model.norm.weight"


def entry(**values: Any) -> Spoil:
    """One tensor's entry with other values."""

    def spoil(folder: Path) -> None:
        head, data = header(folder / "model.safetensors")
        head[NORM].update(values)
        write(folder / "model.safetensors", json.dumps(head).encode(), data)

    return spoil


def raw(make: Callable[[dict[str, Any]], bytes], length: int | None = None) -> Spoil:
    def spoil(folder: Path) -> None:
        head, data = header(folder / "model.safetensors")
        write(folder / "model.safetensors", make(head), data, length)

    return spoil


def sparse(folder: Path) -> None:
    """A file of 3 GB on paper whose header says that it has 2 GB."""
    write(folder / "model.safetensors", b"{}", b"", 2 << 30)
    os.truncate(folder / "model.safetensors", 3 << 30)


HEADERS: dict[str, Spoil] = {
    "offsets short": entry(data_offsets=[0]),
    "offsets empty": entry(data_offsets=[]),
    "offsets of texts": entry(data_offsets=["0", "1"]),
    "offsets of fractions": entry(data_offsets=[0.5, 1.5]),
    "offsets an object": entry(data_offsets={"0": 1}),
    "offsets backwards": entry(data_offsets=[128, 0]),
    "offsets negative": entry(data_offsets=[-128, 0]),
    "offsets overlap": entry(data_offsets=[0, 128]),
    "offsets beyond": entry(data_offsets=[1 << 40, (1 << 40) + 128]),
    "offsets of 2^70": entry(data_offsets=[1 << 70, (1 << 70) + 128]),
    "type unknown": entry(dtype="F31"),
    "type a list": entry(dtype=["F32"]),
    "type of other size": entry(dtype="F64"),
    "shape negative": entry(shape=[-32]),
    "shape of two negatives": entry(shape=[-32, -1]),
    "shape huge": entry(shape=[1 << 62, 1 << 62]),
    "shape a text": entry(shape="32"),
    "shape of flags": entry(shape=[True] * 32),
    "an entry a list": raw(lambda head: json.dumps({**head, NORM: [1]}).encode()),
    "metadata a number": raw(lambda head: json.dumps({**head, "__metadata__": 5}).encode()),
    "metadata of numbers": raw(lambda head: json.dumps({**head, "__metadata__": {"format": 5}}).encode()),
    "deep": raw(lambda head: DEEP.encode()),
    "a list": raw(lambda head: b"[]"),
    "no tensors": raw(lambda head: b"{}"),
    "not JSON": raw(lambda head: b"{" * 50),
    "length of 2^63": raw(lambda head: json.dumps(head).encode(), 1 << 63),
    "length of 2 GB": sparse,
    "empty file": lambda folder: (folder / "model.safetensors").write_bytes(b""),
}


@pytest.mark.parametrize("spoil", HEADERS.values(), ids=HEADERS.keys())
def test_headers_of_bases_and_adapters(folder: Path, spoil: Spoil) -> None:
    spoil(folder)
    assert outcome(lambda: use(folder))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    assert outcome(lambda: inspect(folder))


INDEXES: dict[str, Any] = {
    "not an object": [1],
    "no map": {},
    "map a list": {"weight_map": ["model.safetensors"]},
    "map of numbers": {"weight_map": {"a": 5}},
    "map of lists": {"weight_map": {"a": ["x.safetensors"]}},
    "above": {"weight_map": {"a": "../x.safetensors"}},
    "below": {"weight_map": {"a": "x/y.safetensors"}},
    "absolute": {"weight_map": {"a": "/etc/x.safetensors"}},
    "a pickle": {"weight_map": {"a": "x.bin"}},
    "long": {"weight_map": {"a": "x" * 5000 + ".safetensors"}},
    "metadata a list": {"metadata": [1], "weight_map": {"a": "part.safetensors"}},
    "missing": {"weight_map": {"a": "other.safetensors"}},
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_indexes(folder: Path, index: Any) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    shutil.copyfile(folder / "part.safetensors", folder.parent / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert outcome(lambda: use(folder))


def test_an_index_deep_or_damaged(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    for text in (DEEP, '{"weight_map": {"a": ' + QUITE_DEEP + "}}", "{", ""):
        (folder / "model.safetensors.index.json").write_text(text)
        assert outcome(lambda: use(folder))


# Weights that are no weights


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_integers_are_no_base(folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    error = outcome(lambda: use(folder))
    assert error is not None
    assert "floating-point" in error.what


def test_masks_of_older_files_are_no_fault(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_folder(folder)


@pytest.mark.parametrize(("number", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_numbers_that_are_none_are_said_to_be_the_bases(folder: Path, number: float, word: str) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 5] = number
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error = outcome(lambda: use(folder))
    assert error is not None
    assert f"the base has {word} in the tensor {name}" in error.what
    assert "train.lr" not in error.fix


def test_large_numbers_are_numbers(folder: Path) -> None:
    """Their sum is infinite, they are not."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"].fill_(3e38)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    load_folder(folder, torch.float32)


# Adapters


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("adapter")
    adapters.save(adapters.attach(model, Adapter(r=4, targets=("q_proj", "v_proj")), 1), folder, "base")
    for path in folder.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    return folder


ADAPTERS: dict[str, Any] = {
    "peft_type a list": {"peft_type": ["LORA"]},
    "peft_type an object": {"peft_type": {"LORA": 1}},
    "peft_type a number": {"peft_type": 5},
    "peft_type none": {"peft_type": None},
    "peft_type long": {"peft_type": "x" * 5000},
    "rank a list": {"r": [4]},
    "rank huge": {"r": 10**9},
    "alpha infinite": {"lora_alpha": float("inf")},
    "alpha a text": {"lora_alpha": "8"},
    "targets a number": {"target_modules": 5},
    "targets of lists": {"target_modules": [["q_proj"]]},
    "ranks a list": {"rank_pattern": [1]},
    "base a list": {"base_model_name_or_path": ["x"]},
    "task a list": {"task_type": ["CAUSAL_LM"]},
    "module": {"megatron_core": "os"},
    "loftq a list": {"loftq_config": [1]},
    "unknown method": {"peft_type": None, "suri_method": ["x"]},
}


@pytest.mark.parametrize("values", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_adapters(saved: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "adapter"))
    inspect(folder)
    edit("adapter_config.json", **values)(folder)
    assert outcome(lambda: inspect(folder))


def test_adapters_with_deep_settings(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "adapter"))
    for text in (DEEP, '{"peft_type": "LORA", "x": ' + QUITE_DEEP + "}", '{"peft_type": "LORA"', "5"):
        (folder / "adapter_config.json").write_text(text)
        assert outcome(lambda: inspect(folder))


# GGUF


@pytest.fixture(scope="module")
def converted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaMA as llama.cpp's converter writes it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf_package.GGUFWriter(str(path), "llama")
    for name, value in {
        "context_length": 512, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8, "vocab_size": 400,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "model.layers.": "blk.",
    }  # fmt: skip
    for name, tensor in load_file(base / "model.safetensors").items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copyfile(converted, tmp_path / "tiny.gguf"))


def test_a_sound_gguf_loads(file: Path) -> None:
    use(file)


def patched(after: bytes, form: str, value: Any) -> Callable[[bytes], bytes]:
    """The file with a number put in behind some bytes."""

    def patch(data: bytes) -> bytes:
        at = data.index(after) + len(after)
        packed = struct.pack("<" + form, value)
        return data[:at] + packed + data[at + len(packed) :]

    return patch


GGUFS: dict[str, Callable[[bytes], bytes]] = {
    "a text of 2^40 bytes": patched(b"general.architecture\x08\0\0\0", "Q", 1 << 40),
    "a key of 2^40 bytes": lambda data: data[:24] + struct.pack("<Q", 1 << 40) + data[32:],
    "a text of 2^64 bytes": patched(b"general.architecture\x08\0\0\0", "Q", (1 << 64) - 1),
    "2^60 tensors": lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:],
    "2^60 keys": lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:],
    "one tensor more": lambda data: data[:8] + struct.pack("<Q", data[8] + 1) + data[16:],
    "version 9": lambda data: data[:4] + struct.pack("<I", 9) + data[8:],
    "other byte order": lambda data: data[:4] + struct.pack(">I", 3) + data[8:],
    "2^60 words": patched(b"tokenizer.ggml.tokens\x09\0\0\0\x08\0\0\0", "Q", 1 << 60),
    "words of arrays": patched(b"tokenizer.ggml.tokens\x09\0\0\0", "I", 9),
    "words of numbers": patched(b"tokenizer.ggml.tokens\x09\0\0\0", "I", 5),
    "unknown type": patched(b"llama.block_count", "I", 77),
    "a billion layers": patched(b"llama.block_count\x04\0\0\0", "I", 10**9),
    "no layers": patched(b"llama.block_count\x04\0\0\0", "I", 0),
    "a shape of 2^40": patched(b"output_norm.weight\x01\0\0\0", "Q", 1 << 40),
    "nine dimensions": patched(b"output_norm.weight", "I", 9),
    "no such tensor type": patched(b"output_norm.weight\x01\0\0\0\x20\0\0\0\0\0\0\0", "I", 999),
    "a tensor at 2^50": patched(b"output_norm.weight\x01\0\0\0\x20\0\0\0\0\0\0\0\0\0\0\0", "Q", 1 << 50),
    "no more than a name": lambda data: data[:4],
    "half a header": lambda data: data[:5_000],
    "half the tensors": lambda data: data[: len(data) // 2],
    "unknown architecture": lambda data: data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma"),
}


@pytest.mark.parametrize("change", GGUFS.values(), ids=GGUFS.keys())
def test_ggufs(file: Path, change: Callable[[bytes], bytes]) -> None:
    data = file.read_bytes()
    assert change(data) != data
    file.write_bytes(change(data))
    assert outcome(lambda: use(file))
    assert not [p for p in (file.parent / "cache").glob("base/*") if p.name != ".lock"]


# Random damage


def damaged(data: bytes, most: int, draw: random.Random) -> bytes:
    """Some bytes of the first `most` changed, one time in four cut off instead."""
    if draw.random() < 0.25:
        return data[: draw.randrange(most)]
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        made[draw.randrange(most)] ^= 1 << draw.randrange(8)
    return bytes(made)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_random_damage(folder: Path, name: str) -> None:
    whole, draw = (folder / name).read_bytes(), random.Random(name)
    most = 8 + struct.unpack("<Q", whole[:8])[0] if name.endswith("tensors") else len(whole)
    ended = 0
    for _ in range(40):
        (folder / name).write_bytes(damaged(whole, most, draw))
        ended += outcome(lambda: use(folder)) is not None
    assert ended > 10


def test_random_damage_to_a_gguf(file: Path) -> None:
    whole, draw = file.read_bytes(), random.Random(7)
    ended = 0
    for _ in range(30):
        file.write_bytes(damaged(whole, 12_000, draw))
        ended += outcome(lambda: use(file)) is not None
    assert ended > 5


def test_random_damage_to_an_adapter(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "adapter"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        whole, draw = (folder / name).read_bytes(), random.Random(name)
        for _ in range(60):
            (folder / name).write_bytes(damaged(whole, min(len(whole), 1_000), draw))
            outcome(lambda: inspect(folder))
        (folder / name).write_bytes(whole)


# One export, one type


def test_chat_comparison_and_evaluation_load_an_export_in_one_type(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, base, "export.dtype=bf16", "prompt.template=alpaca")
    run = Run(tmp_path / "run")
    shutil.copytree(base, run.folder("export"))
    template = {"hash": templates.load(config.prompt.template).hash}
    (run.folder("export") / "suri.json").write_text(json.dumps({"holds": "merged", "template": template}))
    (run.folder("export") / "manifest.json").write_text(json.dumps({"key": {}, "result": "x"}))
    loaded: list[torch.dtype] = []

    def load(folder: Path, dtype: torch.dtype, whose: str) -> Any:
        loaded.append(dtype)
        raise UserError("enough")

    monkeypatch.setattr(exported, "load_folder", load)
    evaluation = object.__new__(Evaluation)
    evaluation.config, evaluation.run = config, run
    question = CompareQuestion("1", "set", "category", "Say hello.", "", "", "here")
    found = bases.resolve(config.model)
    kept = SimpleNamespace(found={})
    for work in (
        lambda: chat.chat(config, run),
        lambda: evaluation.load("tuned"),
        lambda: answering._ask(config, run, found, None, 99, [question], kept, "tuned"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match="enough"):
            work()
    assert loaded == [torch.bfloat16] * 3
    assert exported.dtype_of_export(config, run) == "bf16"
    (run.folder("export") / "suri.json").write_text(json.dumps({"holds": "adapter"}))
    assert exported.dtype_of_export(config, run) == "fp32"  # that of the base it is put onto
