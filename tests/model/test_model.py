"""The base model and what is done to it: every bad base, adapters, new tokens, quantising, decoding."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Adapter, Config, Model
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model import gguf
from pipeline.model.generate import greedy
from pipeline.model.identity import identity
from pipeline.model.load import add_tokens, dtype_name, load_base, load_folder
from pipeline.model.loss import loss_sum
from pipeline.prompt.batch import PaddedBatch, pad
from pipeline.prompt.stage import encoder_of
from pipeline.release import verify
from pipeline.run.errors import UserError
from tests.helpers.tiny import SHAPE, load_examples, make_base, make_config, make_tokenizer, run_to

ROOT = Path(__file__).parents[2]
DEMO = ROOT / ".cache" / "demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def model(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """The base in a folder of its own, to be spoilt."""
    return Path(shutil.copytree(base, tmp_path / "base"))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Which base it is


def test_kinds(base: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert bases.kind_of(Model(base=str(base))) == "folder"
    assert bases.kind_of(Model(base=str(tmp_path / "model.gguf"))) == "gguf"
    assert bases.kind_of(Model(base="huggyllama/llama-7b")) == "hub"
    assert bases.kind_of(Model(geometry=SHAPE)) == "geometry"
    found = bases.resolve(Model(base=str(base)))
    assert (found.folder, found.tokenizer, found.vocabulary, found.eos) == (base, base, 400, (2,))


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("bse", "no such base model", "did you mean .*base"),
        ("nothing-like-it/at/all", "no such base model", "hub id"),
        ("notes.gguf", "not a GGUF file", "folder with safetensors"),
    ],
)
def test_names_that_are_no_base(folder: Path, name: str, what: str, fix: str) -> None:
    (folder.parent / "notes.gguf").write_text("not weights")
    with pytest.raises(UserError, match=what) as caught:
        bases.resolve(Model(base=str(folder.parent / name)))
    assert caught.value.where == "model.base"
    assert re.search(fix, caught.value.fix)


def _shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def _cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])


SPOILS: list[tuple[Callable[[Path], Any], str, str]] = [
    (lambda f: (f / "config.json").unlink(), "no config.json", "save_pretrained"),
    (lambda f: (f / "config.json").write_text("{not json"), "config.json is damaged", "fetch"),
    (lambda f: (f / "config.json").write_text("[]"), "config.json is damaged", "fetch"),
    (lambda f: (f / "adapter_config.json").write_text("{}"), "this is an adapter", "base that it was trained on"),
    (lambda f: edit(f / "config.json", architectures=["BertForMaskedLM"]), "BertForMaskedLM", "ForCausalLM"),
    (lambda f: edit(f / "config.json", auto_map={"AutoModel": "x.Y"}), "needs code from its repository", "choose"),
    (lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq"}), "quantised .gptq.", "quantize"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickles .pytorch_model.bin.", "convert"),
    (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors", "fetch"),
    (_shards, "1 of 2 weight files are missing, such as model-00002", "fetch"),
    (_cut, "model.safetensors is damaged: .* bytes, .* by its header", "fetch"),
    (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "no safetensors header", "git lfs"),
    (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"xxxx"),
        "header is not readable",
        "fetch",
    ),
]


@pytest.mark.parametrize("spoil", SPOILS, ids=[what for _, what, _ in SPOILS])
def test_bad_folders(folder: Path, spoil: tuple[Callable[[Path], Any], str, str]) -> None:
    spoil[0](folder)
    with pytest.raises(UserError, match=spoil[1]) as caught:
        bases.resolve(Model(base=str(folder)))
    assert caught.value.where == str(folder)
    assert spoil[2] in caught.value.fix


def test_config_and_weights_disagree(folder: Path) -> None:
    edit(folder / "config.json", model_type="llamma")
    with pytest.raises(UserError, match=r"cannot load the model: .*llamma"):
        load_folder(folder, torch.float32)
    edit(folder / "config.json", model_type="llama", hidden_size=64)
    with pytest.raises(UserError, match="cannot load the model"):
        load_folder(folder, torch.float32)
    edit(folder / "config.json", hidden_size=32, num_hidden_layers=3)  # random numbers in the third, and no word of it
    with pytest.raises(UserError, match=r"tensors are not in its files, such as model.layers.2"):
        load_folder(folder, torch.float32)


def test_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", vocab_size=300)
    with pytest.raises(UserError, match=r"ids up to 399, the base's embedding only 300 rows"):
        run_to(make_config(tmp_path, base), "tokens", tmp_path)


def test_geometry(tmp_path: Path) -> None:
    size = make_tokenizer(tmp_path / "tokenizer")
    shape = {**SHAPE, "vocab_size": size}
    with pytest.raises(UserError, match="no tokenizer of its own"):
        bases.resolve(Model(geometry=shape))
    with pytest.raises(UserError, match="no such folder") as caught:
        bases.resolve(Model(geometry=shape, tokenizer=str(tmp_path / "tokeniser")))
    assert "did you mean" in caught.value.fix

    def made(**changes: Any) -> Any:
        geometry = {**shape, **changes}
        config = Config(name="g", model=Model(geometry=geometry, tokenizer=str(tmp_path / "tokenizer"), dtype="fp32"))
        return load_base(config, bases.resolve(config.model))

    one, two = made(), made()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    for changes in ({"model_type": "lama"}, {"hidden_size": 30}, {"num_key_value_heads": 3}, {"hiden_size": 3}):
        with pytest.raises(UserError) as caught:
            made(**changes)
        assert caught.value.where == "model.geometry"


def test_hub_without_network() -> None:
    began = time.time()
    with pytest.raises(UserError, match=r"'no-such/model' is no folder here, and cannot be fetched") as caught:
        bases.resolve(Model(base="no-such/model"))
    assert time.time() - began < 5
    assert "network" in caught.value.fix


def test_hub_id_in_the_cache(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out as the hub's client does it, so that no network is needed."""
    import huggingface_hub

    commit = "a" * 40
    root = tmp_path / "hub" / "models--org--name"
    shutil.copytree(base, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    fetch = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: fetch(*a, cache_dir=tmp_path / "hub", **k)
    )
    found = bases.resolve(Model(base="org/name"))
    assert found.folder == root / "snapshots" / commit
    assert (found.vocabulary, found.commit) == (400, commit)
    assert bases.resolve(Model(base="org/name", revision=commit)) == found
    with pytest.raises(UserError, match="'org/name' at 'v2' is no folder here, and cannot be fetched"):
        bases.resolve(Model(base="org/name", revision="v2"))
    (root / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model.safetensors") as caught:
        bases.resolve(Model(base="org/name"))
    assert "only safetensors are fetched" in caught.value.fix


def test_a_whole_snapshot_in_the_cache_is_taken_without_asking_the_hub(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a run would go on with another base when the hub's main branch moves."""
    import huggingface_hub

    held, asked = tmp_path / ("a" * 40), []
    shutil.copytree(base, held)

    def fetch(id: str, **more: Any) -> str:
        asked.append((more["revision"], more.get("local_files_only", False)))
        return str(held)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert bases.resolve(Model(base="org/name")).commit == "a" * 40
    assert asked == [(None, True)]
    bases.resolve(Model(base="org/name", revision="main"))
    assert asked[1:] == [("main", False)]
    os.truncate(held / "model.safetensors", 100)
    with pytest.raises(UserError, match="damaged"):
        bases.resolve(Model(base="org/name"))
    assert asked[2:] == [(None, True), (None, False)]
    assert identity(Model(base="org/name", revision="v1"))["id"] == "org/name@v1"


# GGUF


def test_gguf_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="this GGUF file is damaged") as caught:
        bases.resolve(Model(base=str(tmp_path / "model.gguf")))
    assert caught.value.where == str(tmp_path / "model.gguf")
    assert not list((tmp_path / "cache").glob("base/*/"))


def entry(key: str, kind: int, value: bytes) -> bytes:
    """A key with its value, as they stand in the header of a GGUF file."""
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + entry("tokenizer.ggml.prefix_token_id", 4, struct.pack("<I", 8))


@pytest.mark.parametrize(
    ("rest", "value"),
    [
        (entry("tokenizer.ggml.pre", 8, text("smollm")), "smollm"),
        (entry("tokenizer.ggml.model", 8, text("gpt2")), None),
        (entry("tokenizer.ggml.pre", 4, struct.pack("<I", 70_000)) + bytes(8), 70_000),
        (entry("tokenizer.ggml.pre", 7, b"1") + bytes(8), None),
        (entry("tokenizer.ggml.pre", 8, b"")[:-4], None),
    ],
)
def test_values_are_read_from_the_header(rest: bytes, value: str | int | None) -> None:
    assert gguf._value(HEAD + rest, "tokenizer.ggml.pre") == value


def test_special_tokens_are_those_of_the_file(tmp_path: Path) -> None:
    """transformers 5.17 reads the demo's end of a turn as its beginning, and no padding."""
    make_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.eos_token = "<s>"
    file = tmp_path / "x.gguf"
    ids = {"bos": 1, "eos": 2, "padding": 10**6}
    numbers = [entry(f"tokenizer.ggml.{key}_token_id", 4, struct.pack("<I", id)) for key, id in ids.items()]
    file.write_bytes(b"".join([HEAD, *numbers, entry("tokenizer.ggml.pre", 8, text("other"))]))
    before = tokenizer.pad_token
    gguf._mend_tokenizer(tokenizer, file)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", before)
    assert tokenizer.eos_token_id == 2


def test_converted_demo_splits_digits() -> None:
    folders = list((ROOT / ".cache" / "base").glob("SmolLM2-135M-Instruct*"))
    if not DEMO.is_file() or not folders:
        pytest.skip("needs the demo's base, fetched and converted by `make export`")
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert tokenizer.convert_ids_to_tokens(tokenizer("12345").input_ids) == list("12345")


# Adapters and new tokens


def test_adapter_counts(model: Any) -> None:
    """q: 32 -> 32, v: 32 -> 16, both of two layers; rank 4 has 4 numbers for each row and column."""
    adapted = adapters.attach(model, Adapter(r=4, targets=("q_proj", "v_proj")), seed=1)
    weights = adapters.trained(adapted)
    assert sum(p.numel() for p in weights.values()) == 2 * 4 * ((32 + 32) + (32 + 16))
    assert all("lora_" in name for name in weights)
    everything = dict(adapted.named_parameters())
    assert {n for n, p in everything.items() if p.requires_grad} == set(weights)


def test_all_linear_leaves_out_the_head(model: Any) -> None:
    names = adapters.trained(adapters.attach(model, Adapter(r=4), seed=1))
    assert {n.split(".lora_")[0].split(".")[-1] for n in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_adapter_starts_depend_on_the_seed(base: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        weights = adapters.trained(adapters.attach(model, Adapter(r=4, targets=("q_proj",)), seed))
        return torch.cat([p.detach().flatten() for p in weights.values()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_adapters_are_float32_on_a_bf16_base(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    add_tokens(model, 401)
    adapted = adapters.attach(model, Adapter(r=4, targets=("q_proj",)), seed=1, added=(400,))
    assert {p.dtype for p in adapters.trained(adapted).values()} == {torch.float32}
    assert adapted.get_base_model().lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("targets", "rank", "what", "fix"),
    [
        (("q_porj",), 4, "no linear layer is called 'q_porj'", "did you mean q_proj"),
        (("query_key_value",), 4, "no linear layer is called 'query_key_value'", "this model has .*q_proj"),
        (("mlp.q_proj",), 4, "no linear layer is called 'mlp.q_proj'", "q_proj"),
        ((), 4, "no targets", "all-linear"),
        (("k_proj", "v_proj"), 17, r"rank 17 is more than any of the targets can use \(16\)", "lower"),
        (("all-linear",), 33, r"rank 33 is more than any of the targets can use \(32\)", "lower"),
    ],
)
def test_bad_adapters(model: Any, targets: tuple[str, ...], rank: int, what: str, fix: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        adapters.attach(model, Adapter(r=rank, targets=targets), seed=1)
    assert caught.value.where in ("adapter.targets", "adapter.r")
    assert re.search(fix, caught.value.fix)


def test_rank_above_some_targets_is_said(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    adapters.attach(model, Adapter(r=20, targets=("q_proj", "v_proj")), seed=1)
    assert "more than 2 of 4 targets can use, such as model.layers.0.self_attn.v_proj (16)" in capsys.readouterr().out


def test_tied_head_cannot_be_a_target(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base", tie_word_embeddings=True))
    with pytest.raises(UserError, match="shares its weights"):
        adapters.attach(model, Adapter(r=4, targets=("lm_head",)), seed=1)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_trained_saved_and_merged(tied: bool, tmp_path: Path) -> None:
    """[PAD] begins at the mean, learns with the adapter in the embedding and in the head, and is in the export."""
    base = make_base(tmp_path / "base", tie_word_embeddings=tied)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tables = [plain.get_input_embeddings().weight.detach().clone(), plain.lm_head.weight.detach().clone()]
    add_tokens(plain, 401)
    for table, old in zip((plain.get_input_embeddings(), plain.lm_head), tables, strict=True):
        assert torch.allclose(table.weight[400], old.mean(0))
        assert torch.equal(table.weight[:400], old)
    assert (plain.lm_head.weight is plain.get_input_embeddings().weight) == tied
    config = make_config(tmp_path, base, 'model.add_tokens=["[PAD]"]', "eval.rows=1", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    saved = load_file(run.folder("adapter") / "adapter_model.safetensors")
    assert sum("token_adapter" in name for name in saved) == (1 if tied else 2)
    merged = AutoModelForCausalLM.from_pretrained(run.folder("export"), dtype=torch.float32)
    assert merged.config.vocab_size == merged.lm_head.weight.shape[0] == 401
    assert not torch.allclose(merged.lm_head.weight[400], plain.lm_head.weight[400], atol=1e-4)  # the head learnt
    assert merged.generation_config.pad_token_id == 400
    tokenizer = AutoTokenizer.from_pretrained(run.folder("export"))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 400)
    ids = torch.tensor([[5, 400, 7, 9]])
    adapted = adapters.load(plain, run.folder("adapter"))
    with torch.inference_mode():
        assert (adapted(input_ids=ids).logits - merged.eval()(input_ids=ids).logits).abs().max() < 1e-4


def test_dtype_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [dtype_name(Model(dtype=d)) for d in ("auto", "bf16", "fp32")] == ["fp32", "bf16", "fp32"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert dtype_name(Model()) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)  # a T4
    assert dtype_name(Model()) == "fp32"


def test_loss_ignores_right_padding(model: Any) -> None:
    ids = np.arange(10, 22, dtype=np.int64)
    short = (ids[:5], ids[:5])
    alone = float(loss_sum(model, pad([short])).detach())
    batch = pad([(ids, np.full(12, -100)), short])  # the long row learns nothing
    assert float(loss_sum(model, batch).detach()) == pytest.approx(alone, rel=1e-5)
    none = loss_sum(model, PaddedBatch(batch.ids, np.full_like(batch.labels, -100)))
    assert float(none.detach()) == 0
    none.backward()


# Decoding


def one_by_one(model: Any, prompt: list[int], limit: int, end: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + limit and (len(ids) == len(prompt) or ids[-1] != end):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_greedy(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    with torch.no_grad():
        model.lm_head.weight *= 30  # clear choices, so that rounding cannot turn one
    prompts = [random.integers(3, 400, n).tolist() for n in (9, 3, 14, 1, 6)]
    free = [one_by_one(model, p, 8, -1) for p in prompts]
    end = free[0][2]  # a token that the first answer reaches
    model.generation_config.repetition_penalty = 5.0  # as some bases ship; the measurement must not see it
    model.generation_config.min_new_tokens = 8
    model.train()
    model.config.use_cache = False
    for batch in (1, 2, 32):
        monkeypatch.setattr("pipeline.model.generate.CPU_ROWS", batch)
        found = greedy(model, prompts, end_id=end, max_new_tokens=8, what="test")
        assert found == [one_by_one(model.eval(), p, 8, end) for p in prompts]
        assert all(len(a) <= 8 and end not in a[:-1] for a in found)
        assert found[0][-1] == end
        model.train()
    assert model.training
    assert not model.config.use_cache
    assert model.generation_config.repetition_penalty == 5.0
    assert greedy(model, [], end_id=end, max_new_tokens=8, what="test") == []


def test_greedy_with_an_adapter_gives_everything_back(model: Any) -> None:
    model.generation_config.repetition_penalty = 5.0
    wanted = one_by_one(model, [5, 6, 7], 4, 2)
    adapted = adapters.attach(model, Adapter(r=4, targets=("q_proj",)), seed=1)
    assert greedy(adapted, [[5, 6, 7]], end_id=2, max_new_tokens=4, what="test") == [wanted]
    assert adapted.get_base_model().generation_config.repetition_penalty == 5.0


# Whole chains


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_quantised_base(how: str, tmp_path: Path) -> None:
    """Trained on 4 or 8 bits, merged into full precision: the export says what the adapter said, unquantised."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    config = make_config(tmp_path, base, f"model.quantize={how}", "eval.rows=2", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    made = json.loads((run.folder("export") / "config.json").read_text())
    assert "quantization_config" not in made
    assert {t.dtype for t in load_file(run.folder("export") / "model.safetensors").values()} == {torch.float32}
    encoder, examples = encoder_of(config, base), load_examples(run, "val")
    quantised = adapters.load(load_base(config, bases.resolve(config.model)), run.folder("adapter"))
    export = AutoModelForCausalLM.from_pretrained(run.folder("export"), dtype=torch.float32).eval()
    said = [verify.log_probabilities(m, encoder, examples) for m in (quantised, export)]
    assert abs(verify.divergence(*said)) < 1e-4
    plain = verify.log_probabilities(load_folder(base, torch.float32), encoder, examples)
    assert verify.divergence(said[0], plain) > 10 * abs(verify.divergence(*said))


def test_bf16_run_exported_in_fp32(base: Path, tmp_path: Path) -> None:
    """bf16 arithmetic in training, float32 in the export: the check allows for the rounding of the first."""
    AcceleratorState._reset_state(True)  # one process takes one precision
    try:
        config = make_config(
            tmp_path, base, "model.dtype=bf16", "export.dtype=fp32", "train.max_steps=2", "eval.rows=1",
            "eval.prompts=[]", "train.lr=1e-1",
        )  # fmt: skip
        run = run_to(config, "export", tmp_path)
    finally:
        AcceleratorState._reset_state(True)
    assert {t.dtype for t in load_file(run.folder("adapter") / "adapter_model.safetensors").values()} == {torch.float32}
    assert {t.dtype for t in load_file(run.folder("export") / "model.safetensors").values()} == {torch.float32}


def test_last_blocks_alone_are_adapted(tmp_path: Path) -> None:
    from pipeline.config.schema import Adapter

    base = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base"), dtype=torch.float32)
    model = adapters.attach(base, Adapter(r=2, targets=("all-linear",), last_blocks=1), seed=0)
    assert {name.split(".layers.")[1][0] for name in adapters.trained(model)} == {"1"}
    with pytest.raises(UserError, match="2 blocks, not 3"):
        adapters.attach(base, Adapter(last_blocks=3), seed=0)
