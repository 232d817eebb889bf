"""Measures training with sharded weights on the cards of one host:

    python -m scripts.benchmarks.bench_sharded DATA TOKENIZER [--cards=1,2,4] [--cases=full,stock,lora,nf4] [--rows=128]
        [--shape=7b] [--stock_rows=8] [--steps=N] [--tiny]

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. A LLaMA with random weights (speed does
not depend on them), `--rows` rows a step. Cases:

    full    all weights, FSDP2 as `train.shard=full` uses it (recipe A1)
    stock   all weights, transformers with accelerate's FSDP2, `--stock_rows` padded rows in a micro-batch, activations
            recomputed
    lora    LoRA r=16 on all linear layers of a base in bf16 whose blocks are gathered
    nf4     the same on a base in 4 bits; needs weights on disk, so a base is written first

Steps until they are steady, then timed ones (`steady.py`); with `--steps=N` so many are timed, after as many others.
Columns: steps a second, tokens a second of all ranks together, median step, peak memory of the fullest card, most
tokens of a pass, and hours for Stanford Alpaca's three epochs (1,218 steps) at that speed. `--tiny`: another geometry,
on CPUs (gloo) where there is no card; to try the script; accelerate then takes DDP, since its FSDP needs cards.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.block_stream import BlockStream
from pipeline.model.gathered_blocks import GatherCopier
from pipeline.model.load import geometry_config, load_base
from pipeline.model.packed.model import PackedModel
from pipeline.model.sharded import FullyShard, local, mark_gathered
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.training.fast_path import agree
from pipeline.training.gradient_exchange import GradientExchange
from pipeline.training.memory import bytes_to_reserve, choose_packed
from pipeline.training.micro_batches import PackedMicroBatches
from pipeline.training.passes import EvenPasses
from pipeline.training.processes import any_rank, open_own_group, own_group
from pipeline.training.schedule import step_rows
from pipeline.training.update import clip
from scripts.benchmarks.bench_ranks import CUDA, KIND, Call, fullest_card, measure, run, told
from scripts.benchmarks.bench_shapes import SHAPES
from scripts.benchmarks.hf_trainer import collate
from scripts.benchmarks.random_base import write_base
from scripts.benchmarks.steady import timed

DEFAULTS = {"cards": "1", "cases": "full,stock,lora", "rows": "128", "shape": "7b", "stock_rows": "8", "steps": "0"}
CASES = ("full", "stock", "lora", "nf4")
TRIED = 2  # steps with --tiny
ALPACA_STEPS = 1218  # of 128 rows, three epochs
HEAD = (
    "| case | cards | steps/s | tok/s | ms a step | GiB a card | tokens of a pass | hours, Alpaca |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


def work() -> None:
    """One rank: measures, and rank 0 writes the result."""
    settings = told()
    torch.manual_seed(0)
    tokens = Tokens(Path(settings["tokens"]))
    with own_group():
        accelerator = _stock_accelerator() if settings["case"] == "stock" else Accelerator(cpu=not CUDA)
        open_own_group()
        steps = _stock if settings["case"] == "stock" else _suri
        made = steps(accelerator, tokens, settings)
        note = next(made)  # the first value is what a pass holds
        pace = timed(made, most=settings["steps"], count=settings["steps"]) if settings["steps"] else timed(made)
        peak = fullest_card(accelerator)
        if accelerator.is_main_process:
            result = {"rate": pace.rate, "ms": pace.milliseconds, "steady": pace.is_steady, "peak": peak}
            Path(settings["result"]).write_text(json.dumps({**result, "pass": note}))
        accelerator.wait_for_everyone()
        accelerator.end_training()


def _config(settings: dict[str, Any]) -> Config:
    method = {"method": "full"} if settings["case"] == "full" else {"method": "lora"}
    model: dict[str, Any] = {"geometry": SHAPES[settings["shape"]], "dtype": "bf16" if CUDA else "fp32"}
    if settings["case"] == "nf4":
        model = {"base": settings["base"], "quantize": "nf4", "dtype": model["dtype"]}
    train = {"batch_size": settings["rows"], "lr": 2e-5, "shard": "full"}
    return Config.model_validate({"name": "bench", "model": model, "adapter": method, "train": train})


def _suri(accelerator: Accelerator, tokens: Tokens, settings: dict[str, Any]) -> Iterator[int]:
    """Steps as those of `pipeline/training/loop.py`; yields the most tokens of a pass, and then those of each step."""
    config, is_full = _config(settings), settings["case"] == "full"
    blocks = FullyShard(KIND) if is_full else BlockStream(GatherCopier(), smallest=None if CUDA else 16)
    folder = Path(settings["base"]) if settings["case"] == "nf4" else None
    base = load_base(config.model, Base(folder, Path(), 0, ()), config.train.seed, is_full, blocks)
    blocks.finish(base) if isinstance(blocks, FullyShard) else mark_gathered(base)
    model = adapters.attach(base, config.adapter, config.train.seed)
    weights = list(adapters.trained(model).values())
    longest, world = int(tokens.lengths.max()), accelerator.num_processes
    fast = PackedModel(model, longest, dtype=KIND)
    path = PackedMicroBatches(fast, tokens, settings["preambles"], longest)
    reserve = bytes_to_reserve([local(weight) for weight in weights], "adamw")
    step = path.largest_step(settings["rows"], world)
    is_main = accelerator.is_main_process
    path.micro_tokens, fast.recompute = choose_packed(fast, 0, "auto", longest, step, reserve, is_main)
    agree(path, accelerator)
    even = EvenPasses(path, tokens, accelerator.process_index, world)
    exchange = GradientExchange([] if is_full else weights, world, overlapped=False)
    optimizer = torch.optim.AdamW(weights, lr=2e-5, fused=CUDA)
    model.train()
    yield path.micro_tokens
    for number in itertools.count():
        rows = step_rows(number, len(tokens), config.train)
        labelled = max(1, int(tokens.labelled[rows].sum()))
        loss = torch.zeros((), device=accelerator.device)
        exchange.start_step()
        for micro_batch, factor in even.of_step(rows, number):
            part = path.loss(micro_batch) * factor
            exchange.start_pass(is_last=False)
            (part / labelled).backward()
            loss += part.detach()
        exchange.send_rest()
        any_rank(accelerator, False)
        exchange.wait()
        clip(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        path.after_step()
        float(accelerator.reduce(loss, "sum"))  # waits for the card, as a run does
        yield int(tokens.lengths[rows].sum())


def _stock_accelerator() -> Accelerator:
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        reshard_after_forward=True, cpu_ram_efficient_loading=False, activation_checkpointing=True,
    )  # fmt: skip
    return Accelerator(cpu=not CUDA, mixed_precision="bf16" if CUDA else "no", fsdp_plugin=plugin)


def _stock(accelerator: Accelerator, tokens: Tokens, settings: dict[str, Any]) -> Iterator[int]:
    """Steps as users of transformers and accelerate write them; yields as `_suri`."""
    from transformers import AutoModelForCausalLM

    config, size = _config({**settings, "case": "full"}), settings["stock_rows"]
    world, rank = accelerator.num_processes, accelerator.process_index
    with torch.device(accelerator.device):
        model = AutoModelForCausalLM.from_config(geometry_config(config.model), dtype=torch.float32)
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=CUDA)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    yield size * int(tokens.lengths.max())
    for step in itertools.count():
        rows = step_rows(step, len(tokens), config.train)
        own = rows[rank::world]
        parts = [own[start : start + size] for start in range(0, len(own), size)]
        loss = torch.zeros((), device=accelerator.device)
        for n, part in enumerate(parts):
            is_last = n == len(parts) - 1
            batch = {key: value.to(accelerator.device) for key, value in collate([tokens.row(r) for r in part]).items()}
            with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
                value = model(**batch, use_cache=False).loss / len(parts)
                accelerator.backward(value)
            loss += value.detach()
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss)
        yield int(tokens.lengths[rows].sum())


def _measure(settings: dict[str, Any], count: int) -> dict[str, Any] | None:
    """As `measure`; None where a rank failed."""
    try:
        return measure("bench_sharded", settings, count)
    except (SystemExit, UserError) as error:
        print(f"{settings['case']} on {count}: failed: {error}", flush=True)
    return None


def _line(case: str, count: int, now: dict[str, Any] | None) -> str:
    if now is None:
        return f"| {case} | {count} | failed | | | | | |"
    sign = "" if now["steady"] else "~"
    hours = ALPACA_STEPS * now["ms"] / 1000 / 3600
    return (
        f"| {case} | {count} | {sign}{1000 / now['ms']:.3f} | {now['rate']:,.0f} | {now['ms']:,.1f} | "
        f"{now['peak']:.1f} | {now['pass']:,} | {hours:.2f} |"
    )


def main() -> None:
    call = Call.of(sys.argv[1:], DEFAULTS, "bench_sharded")
    options, cases = call.options, call.options["cases"].split(",")
    if unknown := set(cases) - set(CASES):
        raise UserError(f"no such case: {unknown.pop()!r}", "--cases", f"there is {', '.join(CASES)}")
    shape, lines = "tiny" if call.is_trial else options["shape"], []
    with tempfile.TemporaryDirectory() as folder:
        common = {
            **call.settings(shape, Path(folder)), "base": f"{folder}/base", "stock_rows": int(options["stock_rows"]),
            "steps": TRIED if call.is_trial else int(options["steps"]),
        }  # fmt: skip
        if "nf4" in cases:
            described = Config.model_validate({"name": "bench", "model": {"geometry": SHAPES[shape]}})
            geometry = geometry_config(described.model)
            geometry.architectures = ["LlamaForCausalLM"]
            write_base(Path(common["base"]), geometry, KIND)
        for count, case in itertools.product(call.cards, cases):
            lines.append(_line(case, count, _measure({**common, "case": case}, count)))
            print(lines[-1], flush=True)
    call.print_table(HEAD, lines, shape)


if __name__ == "__main__":
    raise SystemExit(run(work, main))
