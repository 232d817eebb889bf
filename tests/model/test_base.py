"""Names and folders that are a base, and those that are not."""

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

import pytest
import torch

from pipeline.config.schema import Config, Model
from pipeline.model import base as bases
from pipeline.model.base.identity import identity
from pipeline.model.load import load_base, load_folder
from pipeline.run.errors import UserError
from tests.helpers.tiny import SHAPE, make_base, make_config, make_tokenizer, run_to


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


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
    (
        lambda f: edit(f / "config.json", auto_map={"AutoModel": "x.Y"}, architectures=["OwnForCausalLM"]),
        "needs code from its repository",
        "choose",
    ),
    (  # EXAONE 3.5
        lambda f: edit(f / "config.json", auto_map={}, model_type="exaone", architectures=["ExaoneForCausalLM"]),
        "code from its repository, which",
        "choose",
    ),
    (  # Gemma 3 4B
        lambda f: edit(f / "config.json", model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"]),
        "not a causal language model: Gemma3ForConditionalGeneration",
        "ForCausalLM",
    ),
    (lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq"}), "quantised .gptq.", "quantize"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickles .pytorch_model.bin.", "convert"),
    (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors", "fetch"),
    (_shards, "1 of 2 weight files are missing, such as model-00002", "fetch"),
    (_cut, "model.safetensors is damaged: .* bytes, .* by its header", "fetch"),
    (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "header", "git lfs"),
    (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"xxxx"),
        "header",
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
    with pytest.raises(UserError, match="llamma"):
        load_folder(folder, torch.float32)
    edit(folder / "config.json", model_type="llama", hidden_size=64)
    with pytest.raises(UserError, match="cannot load the model"):
        load_folder(folder, torch.float32)
    edit(folder / "config.json", hidden_size=32, num_hidden_layers=3)  # random numbers in the third, and no word of it
    with pytest.raises(UserError, match=r"model\.layers\.2"):
        load_folder(folder, torch.float32)


def test_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", vocab_size=300)
    with pytest.raises(UserError, match=r"399.*300"):
        run_to(make_config(tmp_path, base), "tokens", tmp_path)


def test_geometry(tmp_path: Path) -> None:
    size = make_tokenizer(tmp_path / "tokenizer")
    shape = {**SHAPE, "vocab_size": size}
    with pytest.raises(UserError, match="tokenizer"):
        bases.resolve(Model(geometry=shape))
    with pytest.raises(UserError, match="no such folder") as caught:
        bases.resolve(Model(geometry=shape, tokenizer=str(tmp_path / "tokeniser")))
    assert "did you mean" in caught.value.fix

    def made(**changes: Any) -> Any:
        geometry = {**shape, **changes}
        config = Config(name="g", model=Model(geometry=geometry, tokenizer=str(tmp_path / "tokenizer"), dtype="fp32"))
        return load_base(config.model, bases.resolve(config.model), config.train.seed)

    one, two = made(), made()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    for changes in ({"model_type": "lama"}, {"hidden_size": 30}, {"num_key_value_heads": 3}, {"hiden_size": 3}):
        with pytest.raises(UserError) as caught:
            made(**changes)
        assert caught.value.where == "model.geometry"


def test_hub_without_network() -> None:
    began = time.time()
    with pytest.raises(UserError, match="no-such/model") as caught:
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
    with pytest.raises(UserError, match="v2"):
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
