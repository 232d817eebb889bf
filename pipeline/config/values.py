"""Types of the values in a config, each with the values that it refuses; names of keys in other tools."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.config.adapter_name import problem

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.IGNORECASE)


class Section(BaseModel):
    """A table of keys in a config. The docstring of a key is its description; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


def number(value: object) -> object:
    """Refuses true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, found true/false")
    return value


def count_or_share(value: object) -> object:
    """A share below 1 as a float, or a whole number of rows as an int."""
    if isinstance(value, str):
        raise ValueError("expected a share such as 0.02, or whole rows such as 200")
    if isinstance(value, float) and value >= 1 and not value.is_integer():
        raise ValueError("expected a share below 1, or whole rows")
    return int(value) if isinstance(value, float) and value >= 1 else number(value)


def adapter_name(value: str) -> str:
    """A name in the adapter store, or nothing."""
    if value and (wrong := problem(value)):
        raise ValueError(wrong)
    return value


def variable_name(value: str) -> str:
    """The name of an environment variable, or nothing. Most secret keys are no such name, so that a key in its place is
    refused before it is written to config.yaml."""
    if value and not VARIABLE.fullmatch(value):
        raise ValueError("must be the name of an environment variable, not the key itself")
    return value


def plain_url(value: str) -> str:
    """An http address without user, password or query, so that no secret key is written to config.yaml."""
    try:
        parts = urlsplit(value)
        wrong = bool(value) and (parts.scheme not in ("http", "https") or not parts.hostname)
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError("expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("must not hold a key: put it into an environment variable, whose name goes into `key`")
    return value


def iso_date(value: str) -> str:
    """A day as ISO 8601 has it."""
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        raise ValueError("expected a date such as 2024-07-26") from None
    return value


def language_code(value: str) -> str:
    """Two or three small letters, as ISO 639 has them, or nothing."""
    if value and not re.fullmatch(r"[a-z]{2,3}", value):
        raise ValueError("expected a language as two or three small letters, such as ko")
    return value


def currency_code(value: str) -> str:
    """Three capital letters, as ISO 4217 has them."""
    if not re.fullmatch(r"[A-Z]{3}", value):
        raise ValueError("expected a currency as three capital letters, such as USD")
    return value


def tokens_or_money(value: object) -> object:
    """Such as `200000 tokens` or `5 USD`, or nothing; not zero."""
    if value == "":
        return value
    if not isinstance(value, str):
        raise ValueError("expected tokens or money with a currency, such as 200000 tokens or 5 USD; not a number alone")
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?) (tokens|[A-Z]{3})", value)
    if not match or (match[2] == "tokens" and "." in match[1]):
        raise ValueError("expected tokens or money with a currency, such as 200000 tokens or 5 USD")
    if not float(match[1].replace("_", "")):
        raise ValueError("a budget of zero allows no request; leave it empty for no limit")
    return value


Action = Literal["on", "warn", "off"]
MOST = 10**9  # of anything that is counted, such as rows or steps
Count = Annotated[int, BeforeValidator(number), Field(ge=0, le=MOST)]
Seed = Annotated[int, BeforeValidator(number), Field(ge=0, lt=1 << 63)]  # what torch takes
Positive = Annotated[int, BeforeValidator(number), Field(ge=1, le=MOST)]
Repeats = Annotated[int, BeforeValidator(number), Field(ge=1, le=10**6)]
Length = Annotated[int, BeforeValidator(number), Field(ge=1, le=1 << 20)]  # tokens of a row or an answer
Width = Annotated[int, BeforeValidator(number), Field(ge=1, le=1 << 16)]  # of an adapter's matrices
Shots = Annotated[int, BeforeValidator(number), Field(ge=0, le=1000)]
Rate = Annotated[float, BeforeValidator(number), Field(ge=0, le=MOST, allow_inf_nan=False)]
Factor = Annotated[float, BeforeValidator(number), Field(gt=0, le=MOST, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


# Keys of other tools (alpaca-lora, transformers, axolotl), and what they are called here.
SYNONYMS = {
    "base_model": "model.base", "model_name_or_path": "model.base", "load_in_8bit": "model.quantize",
    "load_in_4bit": "model.quantize", "torch_dtype": "model.dtype", "bf16": "model.dtype",
    "keep_empty_output": "data.rules (output-empty: off)", "dedup": "data.duplicates",
    "decontaminate": "data.benchmarks",
    "data_path": "data.sources", "dataset": "data.sources", "path": "data.sources", "val_set_size": "data.val",
    "prompt_template_name": "prompt.template", "prompt_template": "prompt.template",
    "cutoff_len": "prompt.cutoff", "model_max_length": "prompt.cutoff", "max_length": "prompt.cutoff",
    "max_seq_length": "prompt.cutoff", "train_on_inputs": "prompt.mask_prompt (the opposite)",
    "lora": "adapter", "peft": "adapter",
    "lora_r": "adapter.r", "rank": "adapter.r", "lora_alpha": "adapter.alpha", "lora_dropout": "adapter.dropout",
    "lora_target_modules": "adapter.targets", "target_modules": "adapter.targets",
    "learning_rate": "train.lr", "num_epochs": "train.epochs", "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size", "micro_batch_size": "train.micro_tokens",
    "gradient_accumulation_steps": "train.batch_size", "gradient_checkpointing": "train.checkpointing",
    "packing": "train.fast", "sample_packing": "train.fast", "lr_scheduler_type": "train.schedule",
    "warmup_steps": "train.warmup", "warmup_ratio": "train.warmup", "max_grad_norm": "train.clip",
    "logging": "train.tracker", "report_to": "train.tracker", "save_steps": "train.save_every",
    "eval_steps": "train.eval_every", "output_dir": "name", "run_name": "name",
    "optim": "train.optimizer", "fp16": "model.dtype", "bits": "model.quantize",
    "quantization_config": "model.quantize",
    "neftune_noise_alpha": "train.neftune", "load_best_model_at_end": "train.best",
    "early_stopping_patience": "train.early_stop", "patience": "train.early_stop",
    "rope": "model.rope_scaling", "rope_parameters": "model.rope_scaling", "max_memory": "train.gpu_memory",
}  # fmt: skip
