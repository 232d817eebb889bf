"""A run with Hugging Face's Trainer and stock peft, to compare our loop, losses and kernels with.

Tokens, order of rows (`schedule.py`) and settings are ours. Model, adapter, padded batches, loss, accumulation,
clipping, schedule and AdamW are those of `AutoModelForCausalLM`, `LoraConfig` and `Trainer`; the held-out loss is the
model's own `loss`, weighted by labelled tokens. One process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from pipeline.config.schema import Config
from pipeline.model.base import Base
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.progress import bar
from pipeline.training.schedule import epoch_order, total_steps, warmup_steps

MICRO_ROWS = 4  # alpaca-lora's micro_batch_size
OPTIMIZERS = {
    "adamw": "adamw_torch", "adamw8bit": "adamw_bnb_8bit", "paged_adamw8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}  # fmt: skip
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def stock_model(config: Config, base: Base) -> Any:
    """The base with peft's LoRA on it, drawn from `train.seed`.

    Raises:
        UserError: the config is not a plain LoRA on a base with weights.
    """
    from peft import LoraConfig, get_peft_model

    own, plain = config.adapter, {"last_blocks": 0, "dora": False, "rslora": False, "init": "default", "lora_plus": 1.0}
    unsupported = [f"adapter.{key}" for key, value in plain.items() if getattr(own, key) != value]
    unsupported += [key for key, wrong in (
        ("adapter.method", own.method != "lora"), ("model.quantize", config.model.quantize != "none"),
        ("model.add_tokens", bool(config.model.add_tokens)), ("model.geometry", base.folder is None),
        ("train.accumulation_4_28", bool(config.train.accumulation_4_28)),
        ("train.l2_sp", bool(config.train.l2_sp)), ("train.ewc", bool(config.train.ewc)),
    ) if wrong]  # fmt: skip
    if unsupported:
        fix = "leave it at its default, with a base that has weights"
        raise UserError("Trainer is compared on a plain LoRA only", ", ".join(unsupported), fix)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=DTYPES[dtype_name(config.model)])
    every = own.targets == ("all-linear",)
    torch.manual_seed(config.train.seed)
    return get_peft_model(model, LoraConfig(
        r=own.r, lora_alpha=own.alpha, lora_dropout=own.dropout, task_type="CAUSAL_LM",
        target_modules="all-linear" if every else list(own.targets),
    ))  # fmt: skip


def train_stock(
    model: Any, config: Config, tokens: Tokens, val: Tokens, folder: Path, micro_rows: int = MICRO_ROWS
) -> list[dict[str, Any]]:
    """Trains the model in place.

    Args:
        val: rows for the held-out loss, of which the first `train.eval_rows` are used; may be empty.
        folder: of Trainer's output; nothing in it is used. micro_rows: rows of a micro-batch.

    Returns:
        Lines as in metrics.jsonl: `step`, `loss`, `lr`, `grad_norm`, `seconds` of each step, and `val_loss`.
    """
    settings = config.train
    size = math.gcd(settings.batch_size, micro_rows)
    total = total_steps(len(tokens), settings)
    watch = StepMetrics(val, settings.eval_rows, settings.eval_every or max(1, math.ceil(total / 4)), total, size)
    dtype = dtype_name(config.model)
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size,
        gradient_accumulation_steps=settings.batch_size // size, max_steps=total, learning_rate=settings.lr,
        lr_scheduler_type=SCHEDULES[settings.schedule], warmup_steps=warmup_steps(total, settings.warmup),
        weight_decay=settings.weight_decay, max_grad_norm=settings.clip, seed=settings.seed,
        bf16=dtype == "bf16", fp16=dtype == "fp16", use_cpu=not torch.cuda.is_available(), logging_steps=1,
        optim=OPTIMIZERS[settings.optimizer], save_strategy="no", report_to=[], disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = FixedOrderTrainer(
        model=model, args=arguments, train_dataset=Rows(tokens), data_collator=collate, callbacks=[watch]
    )  # fmt: skip
    trainer.remove_callback(_printer())
    trainer.train()
    watch.progress.close()
    return watch.lines


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


class Rows(torch.utils.data.Dataset):
    """A row is its ids and labels, int64, shape (length,)."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.tokens.row(row)


def collate(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Padded on the right to the longest row, with the attention mask."""
    batch = pad(rows)
    widths = np.array([len(ids) for ids, _ in rows])
    mask = (np.arange(batch.ids.shape[1]) < widths[:, None]).astype(np.int64)
    return {
        "input_ids": torch.from_numpy(batch.ids),
        "labels": torch.from_numpy(batch.labels),
        "attention_mask": torch.from_numpy(mask),
    }


class EpochOrder(torch.utils.data.Sampler):
    """Our order of rows, epoch by epoch; Trainer splits it into steps, the last one of an epoch may be smaller."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.rows, self.seed, self.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class FixedOrderTrainer(Trainer):
    def _get_train_sampler(self, *_: Any, **__: Any) -> EpochOrder:
        return EpochOrder(len(self.train_dataset), self.args.seed)


class StepMetrics(TrainerCallback):
    """Records each step, evaluates the held-out rows as our loop does, and shows the progress."""

    def __init__(self, val: Tokens, rows: int, every: int, total: int, size: int) -> None:
        self.val, self.rows, self.every, self.size = val, range(min(rows, len(val))), every, size
        self.lines: list[dict[str, Any]] = []
        self.progress = bar(total=total, what="Trainer", unit="step")
        self.started = 0.0
        self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._evaluate(model, 0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.seconds = time.time() - self.started
        self.progress.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], model: Any = None, **_: Any) -> None:
        if "loss" in logs:
            found = {"loss": logs["loss"], "lr": logs["learning_rate"], "grad_norm": logs["grad_norm"]}
            self.lines.append({"step": state.global_step, **found, "seconds": round(self.seconds, 4)})
            if state.global_step % self.every == 0 or state.global_step == state.max_steps:
                self._evaluate(model, state.global_step)

    @torch.no_grad()
    def _evaluate(self, model: Any, step: int) -> None:
        """Held-out loss: the model's own, batch by batch, weighted by labelled tokens."""
        was_training = model.training
        model.eval()
        total, labelled = 0.0, 0
        for start in range(0, len(self.rows), self.size):
            rows = [self.val.row(row) for row in self.rows[start : start + self.size]]
            batch = {name: value.to(model.device) for name, value in collate(rows).items()}
            count = int((batch["labels"][:, 1:] != IGNORE).sum())
            total += float(model(**batch, use_cache=False).loss) * count if count else 0.0
            labelled += count
        model.train(was_training)
        if labelled:
            self.lines.append({"step": step, "val_loss": total / labelled})
