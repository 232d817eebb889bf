"""Stores with small random adapters, made by peft itself."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.base.fingerprint import fingerprint
from pipeline.prompt.stage import encoder_of
from pipeline.run.files import write_json
from pipeline.store.folder import RECORD, Store
from pipeline.store.load import write_record


def plain(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def make_adapter(folder: Path, base: Path, seed: int, config: PeftConfig) -> None:
    """A PEFT folder whose every tensor is random, so that nothing is zero by chance."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(plain(base), config)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.normal_(std=0.3)
    model.save_pretrained(folder, save_embedding_layers=False)


def put(store: Store, name: str, config: Config, seed: int, adapter: PeftConfig | None = None, **lora: Any) -> None:
    """A random adapter of the config's base in the store, with a record like that of `make keep`."""
    base = resolve(config.model)
    assert base.folder
    encoder = encoder_of(config.prompt, base.tokenizer, config.model.add_tokens)
    made = adapter or LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **lora}
    )
    with store.writing(name) as folder:
        make_adapter(folder, base.folder, seed, made)
        (folder / "README.md").unlink(missing_ok=True)
        record = {
            "method": "ia3" if isinstance(made, IA3Config) else "lora", "rank": getattr(made, "r", None),
            "trained_parameters": 1,
            "base": {"name": "base", "hash": fingerprint(config.model, base, config.train.seed)},
            "template": {**dataclasses.asdict(encoder.template), "hash": encoder.template.hash},
            "prompt": config.value("prompt"), "tokenizer": encoder.tokenizer.hash, "end_id": encoder.end_id,
        }  # fmt: skip
        write_record(folder, record)


def change_record(store: Store, name: str, **values: Any) -> None:
    """Other values in an adapter's record."""
    write_json(store.folder(name) / RECORD, {**store.record(name), **values})
