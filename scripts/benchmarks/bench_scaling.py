"""Measures data parallel training on the cards of one host:

    python -m scripts.benchmarks.bench_scaling DATA TOKENIZER [--cards=1,2] [--types=bf16,fp8] [--rows=128]
        [--exchange=overlapped,single] [--tiny]

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. A 7B LLaMA with random weights (speed
does not depend on them), LoRA r=16 on all linear layers, the rows of each step dealt to the ranks as a run does, packs
through the fast path and as CUDA graphs where they wait for the host, gradients summed, AdamW: everything of a step but
checkpoints and evaluation. For each type and number of cards, steps until they are steady, then timed ones
(`steady.py`). Columns: tokens a second of all ranks together, `linear` = share of N times one card, median step (`g`:
passes are graphs), mean over its steps of the imbalance of tokens, an all-reduce of the gradients alone (median of ten)
with its bus bandwidth, what `make plan` predicts from the one card for that bandwidth, and peak memory of the fullest
card. `--exchange`: gradients are sent bucket by bucket during the
last pass (`overlapped`), as in a run, or in one message after it (`single`). `--tiny`: another geometry, on CPUs (gloo)
where there is no card; to try the script.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model

from pipeline.config.schema import Config, Train
from pipeline.model.base import Base
from pipeline.model.load import load_base
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.training.checkpoint import START
from pipeline.training.cost import CARDS, HOST_MS, Work, predict
from pipeline.training.fast_path import PathInputs, choose_graphs
from pipeline.training.gradient_exchange import GradientExchange
from pipeline.training.loss_scale import LossScale
from pipeline.training.micro_batches import PackedMicroBatches
from pipeline.training.processes import any_rank
from pipeline.training.rank_rows import imbalance, rank_rows
from pipeline.training.schedule import step_rows
from scripts.benchmarks.bench_ranks import CUDA, KIND, Call, fullest_card, measure, run, told
from scripts.benchmarks.bench_shapes import PARAMETERS, SHAPES
from scripts.benchmarks.steady import timed

DEFAULTS = {"cards": "1,2", "types": "bf16,fp8", "rows": "128", "exchange": "overlapped"}
EXCHANGES = ("overlapped", "single")
TRIED = 8  # steps with --tiny, steady or not
MOST_PACK = 16384  # tokens, as in bench_train
HEAD = (
    "| type | cards | tok/s | linear | ms a step | imbalance | exchange, ms | predicted, ms | GiB |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def work() -> None:
    """One rank: measures, and rank 0 writes the result."""
    settings = told()
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not CUDA)
    world, rank = accelerator.num_processes, accelerator.process_index
    tokens = Tokens(Path(settings["tokens"]))
    model = _model(settings["shape"])
    fast = PackedModel(model, int(tokens.lengths.max()), fp8=settings["type"] == "fp8", dtype=KIND)
    path = PackedMicroBatches(fast, tokens, settings["preambles"], MOST_PACK)
    weights = [p for p in model.parameters() if p.requires_grad]
    train = Train(batch_size=settings["rows"], micro_tokens=MOST_PACK)
    choose_graphs(PathInputs(train, model, tokens, (), accelerator, START, weights, LossScale(None)), path)
    shares: list[float] = []
    exchange = GradientExchange(weights, world, overlapped=settings["exchange"] == "overlapped")
    pace = timed(itertools.islice(_steps(accelerator, path, exchange, train, shares), settings["most"]))
    peak = fullest_card(accelerator)
    seconds = _exchange_seconds(accelerator, exchange) if world > 1 else 0.0
    if rank == 0:
        result = {
            "rate": pace.rate, "ms": pace.milliseconds, "steady": pace.is_steady, "quartiles": pace.quartiles,
            "imbalance": statistics.mean(shares), "peak": peak, "exchange": seconds,
            "graphs": path.graphs is not None,
            "trained": sum(w.numel() for w in weights), "tokens": float(tokens.lengths.mean()),
        }  # fmt: skip
        Path(settings["result"]).write_text(json.dumps(result))
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _steps(
    accelerator: Accelerator, path: PackedMicroBatches, exchange: GradientExchange, train: Train, shares: list[float]
) -> Iterator[int]:
    """Steps as those of `pipeline/training/loop.py`; yields the tokens of all ranks after each."""
    world, rank, tokens = accelerator.num_processes, accelerator.process_index, path.tokens
    optimizer = torch.optim.AdamW(exchange.weights, lr=1e-4, fused=CUDA)
    step = 0
    while True:
        rows = step_rows(step, len(tokens), train)
        labelled = max(1, int(tokens.labelled[rows].sum()))
        micro_batches = path.split(rank_rows(rows, path.costs, rank, world))
        path.prefetch(rank_rows(step_rows(step + 1, len(tokens), train), path.costs, rank, world))
        loss = torch.zeros((), device=accelerator.device)
        exchange.start_step()
        for n, micro_batch in enumerate(micro_batches):
            part = path.loss(micro_batch)
            exchange.start_pass(is_last=n + 1 == len(micro_batches))
            if part.requires_grad:
                (part / labelled).backward()
            loss += part.detach()
        exchange.send_rest()
        any_rank(accelerator, False)
        exchange.wait()
        torch.nn.utils.clip_grad_norm_(exchange.weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        path.after_step()
        float(accelerator.reduce(loss, "sum"))  # waits for the card, as a run does
        shares.append(imbalance(rows, path.costs, world))
        step += 1
        yield int(tokens.lengths[rows].sum())


def _exchange_seconds(accelerator: Accelerator, exchange: GradientExchange) -> float:
    """Median seconds of the gradients' sum over all ranks, with nothing else to do."""
    spans = []
    for _ in range(10):
        accelerator.wait_for_everyone()
        started = time.perf_counter()
        exchange.send_rest()
        exchange.wait()
        if CUDA:
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - started)
    return statistics.median(spans)


def _model(shape: str) -> Any:
    config = Config.model_validate({"name": "bench", "model": {"geometry": SHAPES[shape]}})
    base = load_base(config.model, Base(None, Path(), 0, ()), config.train.seed)
    base.config.use_cache = False
    base.requires_grad_(False)
    return get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def _line(kind: str, count: int, way: str, rows: int, shape: str, one: dict[str, Any], now: dict[str, Any]) -> str:
    size = 4 * now["trained"]
    moved = 2 * (count - 1) / count * size
    bandwidth = moved / now["exchange"] / 1e9 if now["exchange"] else 0.0
    blocks, size_of_base = SHAPES[shape]["num_hidden_layers"] if CUDA else 0, PARAMETERS[shape]
    host = blocks * HOST_MS[kind] / 1000
    planned = Work(
        rows, one["tokens"], 1, 4 * size_of_base, 2 * size_of_base, now["trained"], kind, host=host,
        graphs=bool(now["graphs"]),
    )  # fmt: skip
    predicted = predict(planned, count, CARDS["h200"], one["rate"], bandwidth, way == "overlapped").step * 1000
    off = f"{predicted:,.1f} ({predicted / now['ms'] - 1:+.0%})" if count > 1 else ""
    exchange = f"{way} {now['exchange'] * 1000:,.1f} ({bandwidth:,.1f} GB/s)" if count > 1 else ""
    rate = f"{'' if now['steady'] else '~'}{now['rate']:,.0f}"
    return (
        f"| {kind} | {count} | {rate} | {now['rate'] / one['rate'] / count:.1%} | {now['ms']:,.1f}"
        f"{' g' if now['graphs'] else ''} | {now['imbalance']:.2%} | {exchange} | {off} | {now['peak']:.1f} |"
    )


def main() -> None:
    call = Call.of(sys.argv[1:], DEFAULTS, "bench_scaling")
    shape, kinds = ("tiny", ["bf16"]) if call.is_trial else ("7b", call.options["types"].split(","))
    counts = [1, *(count for count in call.cards if count > 1)]  # the others are compared with one
    lines, exchanges = [], call.options["exchange"].split(",")
    if unknown := set(exchanges) - set(EXCHANGES):
        raise UserError(f"no such exchange: {unknown.pop()!r}", "--exchange", f"there are {', '.join(EXCHANGES)}")
    with tempfile.TemporaryDirectory() as folder:
        common = {**call.settings(shape, Path(folder)), "most": TRIED if call.is_trial else None}
        for kind in kinds:
            one: dict[str, Any] = {}
            for count, exchange in [(1, exchanges[0]), *((n, way) for n in counts[1:] for way in exchanges)]:
                now = measure("bench_scaling", {**common, "type": kind, "exchange": exchange}, count)
                one = one or now
                lines.append(_line(kind, count, exchange if count > 1 else "", common["rows"], shape, one, now))
                print(lines[-1], flush=True)
    call.print_table(HEAD, lines, shape)


if __name__ == "__main__":
    raise SystemExit(run(work, main))
