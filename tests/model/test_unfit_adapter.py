"""Adapters that are damaged or unsafe: one error before peft reads them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.store.untrusted import inspect
from tests.helpers.damage import DEEP, QUITE_DEEP, damaged, edit, outcome


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("adapter")
    model = adapters.attach(model, Adapter(r=4, targets=("q_proj", "v_proj")), 1)
    adapters.method_of(model.adapted_with).save(model, folder, "base")
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


def test_random_damage_to_an_adapter(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "adapter"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        whole, draw = (folder / name).read_bytes(), random.Random(name)
        for _ in range(60):
            (folder / name).write_bytes(damaged(whole, min(len(whole), 1_000), draw))
            outcome(lambda: inspect(folder))
        (folder / name).write_bytes(whole)
