"""Every method on tiny models: settings, a model, a trained adapter, a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.schema import Adapter, Config
from pipeline.model import adapter as adapters
from pipeline.run.folder import Run
from tests.helpers.tiny import SHAPE, make_config

VOCABULARY = 64


# Name -> settings beside the method, small enough for the tiny base. The first word of the name is the method.
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "lora dora": {"r": 4, "dora": True},
    "lora rslora": {"r": 4, "rslora": True},
    "lora pissa": {"r": 4, "init": "pissa"},
    "lora olora": {"r": 4, "init": "olora", "rslora": True},
    "lora plus": {"r": 4, "lora_plus": 4.0},
    "full": {},
    "head": {},
    "norms": {},
    "ia3": {},
    "houlsby": {"bottleneck": 6},
    "pfeiffer": {"bottleneck": 6, "last_blocks": 1},
    "prefix": {"virtual_tokens": 5},
    "prompt": {"virtual_tokens": 5},
    "ptuning": {"virtual_tokens": 5},
}


# Plain LoRA and full go all the way in test_release; OLoRA is saved as PiSSA is.
CHAINS = [k for k in KINDS if k not in ("lora", "lora rslora", "lora olora", "lora plus", "full")]


UNMERGED = ("houlsby", "pfeiffer", "prefix", "prompt", "ptuning")


PLAIN = ("prefix", "prompt", "ptuning")


def adapter_of(kind: str) -> Adapter:
    return Adapter(method=kind.split()[0], **KINDS[kind])


def shape_of(**shape: Any) -> Any:
    values = {**SHAPE, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **shape}
    if values["model_type"] in ("gpt2", "gpt_neox", "bloom", "opt"):
        values.pop("num_key_value_heads")
    return AutoConfig.for_model(values.pop("model_type"), **values)


def stock(dtype: torch.dtype = torch.float32, **shape: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(shape_of(**shape), dtype=dtype).eval()


def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    ids = torch.arange(3, 20)[None] if ids is None else ids
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]


def moved(model: Any) -> Any:
    """As after some training: every trained number another one."""
    torch.manual_seed(3)
    for parameter in adapters.trained(model).values():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def chain(prepared: Run, base: Path, folder: Path, kind: str, *more: str) -> tuple[Config, Run]:
    name = kind.split()[0]
    folder.mkdir(exist_ok=True)
    words = [f"adapter.method={name}", *(f"adapter.{k}={str(v).lower()}" for k, v in KINDS.get(kind, {}).items())]
    steps = [] if name == "none" else ["train.max_steps=2"]
    config = make_config(folder, base, *words, "train.max_steps=0", *steps, "train.eval_every=9", "eval.rows=2", *more)
    run = Run(folder / config.name)
    for stage in ("dataset", "tokens"):
        shutil.copytree(prepared.folder(stage), run.folder(stage), dirs_exist_ok=True)
    return config, run


def adapter_tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.folder("adapter").glob("*model.safetensors")))


def save(model: Any, folder: Path) -> None:
    adapters.method_of(model.adapted_with).save(model, folder, "base")


def saved(kind: str, folder: Path) -> Path:
    save(moved(adapters.attach(stock(), adapter_of(kind), seed=1)), folder)
    return folder
