"""The models of `make bench`, with random weights that are the same for every case of a shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from pipeline.config.schema import Config
from pipeline.model.base import Base
from pipeline.model.load import load_base
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.tokens import Tokens
from scripts.benchmarks import peers
from scripts.benchmarks.bench_cases import LIGER, LIGER_PACKED, OURS, Case
from scripts.benchmarks.bench_shapes import SHAPES

CUDA = torch.cuda.is_available()
KIND = torch.bfloat16 if CUDA else torch.float32


def model_of(case: Case) -> Any:
    """The case's model with its adapter, from random weights; not for Unsloth, which loads its own."""
    base = random_model(case)
    if case.how in (LIGER, LIGER_PACKED):
        peers.apply_liger(base)
    if case.quantize == "nf4":
        _four_bits(base)
    base.config.use_cache = False
    base.requires_grad_(case.full)
    if case.full:
        return base
    # As alpaca-lora's users run it today: everything in bf16, no autocast around it.
    common = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=case.dropout, **common)
    return get_peft_model(base, lora, autocast_adapter_dtype=case.how == OURS)


def random_model(case: Case) -> Any:
    """The base with random weights, the same for every case of a shape."""
    adapter = {"method": "full" if case.full else "lora"}
    config = Config.model_validate({"name": "bench", "model": {"geometry": SHAPES[case.shape]}, "adapter": adapter})
    return load_base(config.model, Base(None, Path(), 0, ()), config.train.seed, case.full)


def _four_bits(model: Any) -> None:
    """Replaces the blocks' linear layers by bitsandbytes' 4-bit layers, as transformers does while loading."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in list(model.get_decoder().layers.named_modules()):
        if type(layer) is torch.nn.Linear:
            small = Linear4bit(layer.in_features, layer.out_features, False, torch.bfloat16, quant_type="nf4")
            weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
            small.weight = weight.to(layer.weight.device)
            parent, _, last = name.rpartition(".")
            setattr(model.get_decoder().layers.get_submodule(parent), last, small)
            layer.weight.data = layer.weight.data.new_empty(0)


def save_weights(shape: str, folder: Path) -> None:
    """Writes the random base as a folder with a tokenizer, for Unsloth, which loads nothing else."""
    from scripts.benchmarks.random_base import write_tokenizer

    random_model(Case(OURS, shape=shape)).save_pretrained(folder)
    write_tokenizer(folder)


def fast_model(case: Case, model: Any, tokens: Tokens) -> PackedModel:
    """The model on this project's fast path."""
    fast = PackedModel(model, int(tokens.lengths.max()), fp8=case.quantize == "fp8", dtype=KIND)
    fast.recompute = case.recompute
    return fast
