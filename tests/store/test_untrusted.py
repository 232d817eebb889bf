"""Files of an adapter that are unsafe to load."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from pipeline.run.errors import UserError
from pipeline.store.folder import Store
from pipeline.store.load import verified_record
from pipeline.store.untrusted import check_numbers, inspect
from tests.helpers.store_files import edit


def weights_of(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "adapter_model.safetensors").write_bytes(data) and None


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def linked(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder.parent / "outside")
    (folder / "adapter_model.safetensors").symlink_to(folder.parent / "outside")


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


UNSAFE: list[tuple[Callable[[Path], Any], str]] = [
    (edit(peft_type="XLORA"), "XLORA"),
    (edit(peft_type=None), "None"),
    (edit(auto_mapping={"base_model_class": "x", "parent_library": "os"}), "auto_mapping"),
    (edit(megatron_config={"a": 1}), "megatron_config"),
    (edit(megatron_core="evil.module"), "megatron_core"),
    (edit(tokenizer_kwargs={"trust_remote_code": True}), "tokenizer_kwargs"),
    (edit(trust_remote_code=True), "trust_remote_code"),
    (edit(loftq_config={"loftq_bits": 4}), "loftq_config"),
    (edit(target_parameters=["weight"]), "target_parameters"),
    (edit(bias="all"), "bias"),
    (edit(init_lora_weights="pissa"), "init_lora_weights"),
    (edit(init_lora_weights="corda"), "init_lora_weights"),
    (edit(target_modules="(a+)+$"), "target_modules"),
    (edit(target_modules=["q_proj", "(a+)+$"]), "target_modules"),
    (edit(rank_pattern={"(a+)+$": 4}), "rank_pattern"),
    (edit(r=10**9), r"\br holds"),
    (edit(r=-1), r"\br holds"),
    (edit(r="4"), r"\br holds"),
    (edit(r=True), r"\br holds"),
    (edit(r=16384), "16,384"),
    (edit(rank_pattern={"q_proj": 9999}), "9,999"),
    (edit(lora_alpha=float("nan")), "lora_alpha"),
    (lambda f: (f / "adapter_config.json").write_text("{" * 100_000), "damaged"),
    (lambda f: (f / "adapter_config.json").write_text("[]"), "damaged"),
    (lambda f: (f / "adapter_config.json").unlink(), "missing"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "missing"),
    (weights_of(b""), "empty"),
    (weights_of(b"\x80\x04garbage that is no header at all"), "header"),
    (weights_of(struct.pack("<Q", 1 << 60) + b"{}"), "header"),
    (weights_of(struct.pack("<Q", 8) + b'{"a": 1}'), "header"),
    (weights_of(struct.pack("<Q", 2) + b"{}"), "no tensors"),
    (cut, "damaged"),
    (pickled, "pickle"),
    (lambda f: (f / "x.pkl").write_bytes(b""), "pickle"),
    (linked, "plain file"),
    (lambda f: (f / "folder").mkdir(), "plain file"),
]


@pytest.mark.parametrize(("spoil", "what"), UNSAFE)
def test_nothing_unsafe_is_read(store_copy: Store, spoil: Callable[[Path], Any], what: str) -> None:
    inspect(store_copy.folder("one"))
    spoil(store_copy.folder("one"))
    with pytest.raises(UserError, match=what):
        inspect(store_copy.folder("one"))
    record = store_copy.record("two")
    verified_record(store_copy, "two", record["base"]["hash"], record["tokenizer"])  # the others are as before


def test_a_form_that_peft_has_not(store_copy: Store) -> None:
    path = store_copy.folder("one") / "adapter_config.json"
    own = {"suri_method": "houlsby", "adapter": {"bottleneck": 64}, "base_model_name_or_path": "x/y"}
    path.write_text(json.dumps(own))
    assert inspect(path.parent) == own
    for more in ({"peft_type": None, "auto_mapping": {"a": "b"}}, {"adapter": {"x": {"y": 1}}}, {"suri_method": "a b"}):
        path.write_text(json.dumps({**own, **more}))
        with pytest.raises(UserError, match="not safe to load"):
            inspect(path.parent)


def test_numbers(lora_store: Store, tmp_path: Path) -> None:
    check_numbers(lora_store.folder("one"))
    assert LoraConfig.from_pretrained(str(lora_store.folder("three"))).use_rslora
