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
    (edit(peft_type="XLORA"), "of the kind 'XLORA', known are"),
    (edit(peft_type=None), "of the kind 'None'"),
    (edit(auto_mapping={"base_model_class": "x", "parent_library": "os"}), "sets 'auto_mapping'"),
    (edit(megatron_config={"a": 1}), "sets 'megatron_config'"),
    (edit(megatron_core="evil.module"), "sets 'megatron_core'"),
    (edit(tokenizer_kwargs={"trust_remote_code": True}), "sets 'tokenizer_kwargs'"),
    (edit(trust_remote_code=True), "sets 'trust_remote_code'"),
    (edit(loftq_config={"loftq_bits": 4}), "sets 'loftq_config'"),
    (edit(target_parameters=["weight"]), "sets 'target_parameters'"),
    (edit(bias="all"), "sets 'bias'"),
    (edit(init_lora_weights="pissa"), "init_lora_weights holds 'pissa'"),
    (edit(init_lora_weights="corda"), "init_lora_weights holds"),
    (edit(target_modules="(a+)+$"), "target_modules holds"),
    (edit(target_modules=["q_proj", "(a+)+$"]), "target_modules holds"),
    (edit(rank_pattern={"(a+)+$": 4}), "rank_pattern holds"),
    (edit(r=10**9), "r holds '1000000000'"),
    (edit(r=-1), "r holds '-1'"),
    (edit(r="4"), "r holds '4'"),
    (edit(r=True), "r holds 'True'"),
    (edit(r=16384), "speaks of 16,384 numbers where"),
    (edit(rank_pattern={"q_proj": 9999}), "speaks of 9,999 numbers where"),
    (edit(lora_alpha=float("nan")), "lora_alpha holds 'nan'"),
    (lambda f: (f / "adapter_config.json").write_text("{" * 100_000), "adapter_config.json is damaged"),
    (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json is damaged"),
    (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    (weights_of(b""), "adapter_model.safetensors is empty"),
    (weights_of(b"\x80\x04garbage that is no header at all"), "damaged: it has no safetensors header"),
    (weights_of(struct.pack("<Q", 1 << 60) + b"{}"), "no safetensors header"),
    (weights_of(struct.pack("<Q", 8) + b'{"a": 1}'), "header is not readable"),
    (weights_of(struct.pack("<Q", 2) + b"{}"), "holds no tensors"),
    (cut, "damaged: .* bytes, .* by its header"),
    (pickled, "is a pickle, which can run code"),
    (lambda f: (f / "x.pkl").write_bytes(b""), "is a pickle"),
    (linked, "is not a plain file: refused"),
    (lambda f: (f / "folder").mkdir(), "is not a plain file: refused"),
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
