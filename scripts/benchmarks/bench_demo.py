"""Training speed of the demo compared with Trainer and peft: `python -m scripts.benchmarks.bench_demo [steps] [dtype]`.

Both train the demo's adapters on the same rows in the same order, batches of the same size, in the same type (`fp32`,
the default, or `bf16`: Trainer then computes under autocast on a base in bf16):
Trainer on rows padded to the longest of a batch, this project as `make train` does. Neither loading nor the first two
steps are counted. Both losses are means over a batch's labelled tokens, so they must agree.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.load import load_base
from pipeline.model.memory import CPU_TOKENS
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.stages import bring_up_to_date
from pipeline.training.memory import choose_packed
from pipeline.training.micro_batches import PackedMicroBatches
from pipeline.training.schedule import step_rows
from scripts.benchmarks.hf_trainer import FixedOrderTrainer, Rows, collate

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
WARM_UP = 2


class Clock(TrainerCallback):
    """When each step ended, and its loss."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def ours(config: Config, model: Any, tokens: Tokens, preambles: list[list[int]], steps: int) -> Clock:
    """The loop of `pipeline.training`, without its files."""
    clock = Clock()
    weights = list(adapters.trained(model).values())
    optimizer = torch.optim.AdamW(weights, lr=config.train.lr, weight_decay=0)
    fast = PackedModel(model, int(tokens.lengths.max()))
    micro_tokens, fast.recompute = choose_packed(fast, CPU_TOKENS, "none", int(tokens.lengths.max()), CPU_TOKENS, 0)
    path = PackedMicroBatches(fast, tokens, preambles, micro_tokens)
    for step in range(steps):
        rows = step_rows(step, len(tokens), config.train)
        labelled = int(tokens.labelled[rows].sum())
        total = 0.0
        for micro_batch in path.split(rows):
            loss = path.loss(micro_batch) / labelled
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        path.after_step()
        clock.times.append(time.perf_counter())
        clock.losses.append(total)
    return clock


def theirs(config: Config, model: Any, tokens: Tokens, steps: int, folder: Path) -> Clock:
    """Trainer with a constant learning rate, without saving."""
    clock = Clock()
    size = config.train.batch_size
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size, max_steps=steps, learning_rate=config.train.lr,
        lr_scheduler_type="constant", max_grad_norm=1.0, weight_decay=0.0, logging_steps=1, save_strategy="no",
        seed=config.train.seed, report_to=[], remove_unused_columns=False, disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(), bf16=config.model.dtype == "bf16",
    )  # fmt: skip
    FixedOrderTrainer(
        model=model, args=arguments, data_collator=collate, train_dataset=Rows(tokens), callbacks=[clock]
    ).train()  # fmt: skip
    return clock


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    dtype = sys.argv[2] if len(sys.argv) > 2 else "fp32"
    with tempfile.TemporaryDirectory() as folder:
        config = load(DEMO, [f"model.dtype={dtype}"])
        run = Run(Path(folder) / "demo")
        bring_up_to_date(config, run, "tokens")
        tokens = Tokens(run.folder("tokens") / "train.arrow")
        base = bases.resolve(config.model)
        encoder = encoder_of(config.prompt, base.tokenizer, config.model.add_tokens)
        clocks = {}
        for name in ("Trainer + peft", "Suri"):
            model = adapters.attach(load_base(config.model, base, config.train.seed), config.adapter, config.train.seed)
            model.train()
            clocks[name] = (
                ours(config, model, tokens, encoder.preambles(), steps)
                if name == "Suri"
                else theirs(config, model, tokens, steps, Path(folder) / "trainer")
            )
    rows = [step_rows(step, len(tokens), config.train) for step in range(WARM_UP, steps)]
    count = sum(int(tokens.lengths[r].sum()) for r in rows)
    print(f"\n| {steps - WARM_UP} steps of {config.train.batch_size} rows | s a step | tok/s | last loss |")
    print("|---|---:|---:|---:|")
    for name, clock in clocks.items():
        seconds = clock.times[-1] - clock.times[WARM_UP - 1]
        print(f"| {name} | {seconds / (steps - WARM_UP):.2f} | {count / seconds:,.0f} | {clock.losses[-1]:.4f} |")
    a, b = (c.times[-1] - c.times[WARM_UP - 1] for c in clocks.values())
    print(f"\n{a / b:.2f} times as fast")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
