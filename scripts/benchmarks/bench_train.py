"""Measures training on one GPU: `python -m scripts.benchmarks.bench_train DATA TOKENIZER [CASE ...]`, or `make bench`.

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. Weights are random (speed does not
depend on them), the rows are real, cut at 512, LoRA r=16 on all linear layers (`full`: every weight is trained, under
autocast), an optimizer step per micro-batch. tok/s counts the rows' own tokens: padding and shared preambles are not
counted twice. Each case: steps until they are steady, then timed ones (`steady.py`), the card waited for after each;
tok/s and ms are medians, with the quartiles of tok/s. `~`: the steps never became steady. `limit` is the share of what
matrix products alone allow (4 FLOPs a parameter and token, 6 with `full`, at the rate of large bf16 products on this
card, measured first): shared preambles and fp8 can exceed it.
With `--profile CASE ...` each case writes a trace and prints its ten largest kernels instead, each counted once.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.kernels.deterministic import deterministic
from pipeline.model.base import Base
from pipeline.model.load import load_base
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import pad
from pipeline.prompt.pack import Pack, Packer
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.stages import bring_up_to_date
from scripts.benchmarks.bench_shapes import PARAMETERS, SHAPES
from scripts.benchmarks.curves import where
from scripts.benchmarks.steady import Pace, kernels, timed

CUDA = torch.cuda.is_available()
KIND = torch.bfloat16 if CUDA else torch.float32


@dataclass
class Case:
    """tokens: in a micro-batch, as `tok/s` counts them. rows: of a micro-batch, instead, for padded ones."""

    how: str
    tokens: int = 16384
    rows: int = 0
    shape: str = "7b"
    share: bool = True
    recompute: bool = False
    grouped: bool = True
    quantize: str = "none"
    graphs: bool = False
    dropout: float = 0.0
    full: bool = False


CASES = {
    "hf padded 4": Case("hf", rows=4, grouped=False),
    "hf padded 32": Case("hf", rows=32, grouped=False),
    "hf grouped 48": Case("hf", rows=48),
    "hf grouped 48, Liger": Case("liger", rows=48),
    "packed": Case("ours", share=False),
    "shared": Case("ours"),
    "shared, dropout": Case("ours", dropout=0.05),
    "shared, checkpointed": Case("ours", tokens=4096, recompute=True),
    "fp8": Case("ours", quantize="fp8"),
    "nf4, checkpointed": Case("ours", tokens=4096, quantize="nf4", recompute=True),
    "bf16, 32 rows": Case("ours", tokens=4060),
    "bf16, 32 rows, graphs": Case("ours", tokens=4060, graphs=True),
    "fp8, 32 rows": Case("ours", tokens=4060, quantize="fp8"),
    "fp8, 32 rows, graphs": Case("ours", tokens=4060, quantize="fp8", graphs=True),
    "nf4 checkpointed, 8 rows": Case("ours", tokens=1015, quantize="nf4", recompute=True),
    "nf4 checkpointed, 8 rows, graphs": Case("ours", tokens=1015, quantize="nf4", recompute=True, graphs=True),
    "135m packed": Case("ours", tokens=65536, shape="135m", share=False),
    "135m shared": Case("ours", tokens=65536, shape="135m"),
    "135m, 128 rows": Case("ours", tokens=15360, shape="135m"),
    "135m, 128 rows, graphs": Case("ours", tokens=15360, shape="135m", graphs=True),
    "135m, 128 rows, graphs, dropout": Case("ours", tokens=15360, shape="135m", graphs=True, dropout=0.05),
    "135m full, 128 rows": Case("ours", tokens=15360, shape="135m", full=True),
    "135m full, 128 rows, graphs": Case("ours", tokens=15360, shape="135m", full=True, graphs=True),
    "135m full, hf grouped 128": Case("hf", rows=128, shape="135m", full=True),
    "tiny": Case("ours", tokens=2048, shape="tiny"),
    "tiny hf": Case("hf", rows=16, shape="tiny"),
    "tiny full": Case("ours", tokens=2048, shape="tiny", full=True),
}  # tiny: a smoke test for machines without a GPU
PROFILED_AFTER = 24  # steps: each pack was computed twice


def measure(name: str, case: Case, model: Any, tokens: Tokens, preambles: list[list[int]], limit: float) -> str:
    """One line of the table. limit: FLOPs a second of large products."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=CUDA)
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def whole() -> Iterator[int]:
        for count in _steps(case, model, tokens, preambles):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _wait()
            yield count

    pace = timed(whole())
    peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
    return _line(name, pace, (6 if case.full else 4) * PARAMETERS[case.shape] * pace.rate / limit, peak)


def _line(name: str, pace: Pace, share: float, peak: float) -> str:
    low, high = pace.quartiles
    rate = f"{'' if pace.is_steady else '~'}{pace.rate:,.0f}"
    between = f"{low:,.0f} to {high:,.0f}"
    return f"| {name:31} | {rate:>10} | {between:>20} | {pace.milliseconds:8.1f} | {share:6.0%} | {peak:6.1f} |"


def profile(name: str, case: Case, model: Any, tokens: Tokens, preambles: list[list[int]]) -> None:
    """Two steps' kernels: a trace in runs/, the ten that take longest on the screen."""
    steps = _steps(case, model, tokens, preambles)
    for _ in range(PROFILED_AFTER):
        next(steps)
        model.zero_grad()
    _wait()
    with torch.profiler.profile() as trace:
        started = time.perf_counter()
        for _ in range(2):
            next(steps)
            model.zero_grad()
        _wait()
        took = time.perf_counter() - started
    path = Path("runs") / f"profile-{name.replace(' ', '-').replace(',', '')}.json"
    path.parent.mkdir(exist_ok=True)
    trace.export_chrome_trace(str(path))
    events = kernels(trace.key_averages(), CUDA)
    whole = sum(event.microseconds for event in events)
    print(f"\n{name}: {whole / 2e3:,.1f} ms a step in kernels, of {took * 500:,.1f}; trace: {path}")
    for event in events[:10]:
        share = event.microseconds / whole
        print(f"{event.microseconds / 2e3:9.1f} ms {share:5.1%} {event.calls // 2:5} x  {event.name[:90]}")


def _steps(case: Case, model: Any, tokens: Tokens, preambles: list[list[int]]) -> Iterator[int]:
    with deterministic(case.full):  # as a run that trains layers of torch's own
        yield from ours(case, model, tokens, preambles) if case.how == "ours" else plain(case, model, tokens)


def ours(case: Case, model: Any, tokens: Tokens, preambles: list[list[int]]) -> Iterator[int]:
    """Packs through the fast path; yields original tokens after each backward pass."""
    fast = PackedModel(model, int(tokens.lengths.max()), fp8=case.quantize == "fp8", dtype=KIND)
    fast.recompute = case.recompute
    packer = Packer(tokens, preambles if case.share else [], 1 << 40)
    rng = np.random.default_rng(0)
    packs: list[Pack] = []
    while len(packs) < 12:
        order = rng.permutation(len(tokens))
        sums = np.cumsum(tokens.lengths[order])
        cuts = np.searchsorted(sums, np.arange(1, 13) * case.tokens)
        packs += [packer.pack(order[a:b].tolist()) for a, b in zip([0, *cuts[:-1]], cuts, strict=True) if b > a]
    weights, largest = [p for p in model.parameters() if p.requires_grad], max(len(pack.ids) for pack in packs)
    passes = CudaGraphs(fast, weights, packs, largest) if case.graphs else fast
    batches = [passes.prepare(pack) for pack in packs]
    for one in batches if case.graphs else []:  # records the graphs, as the first steps of a run do
        passes.loss_sum(one)
    for pack, one in itertools.cycle(list(zip(packs, batches, strict=True))):
        fast.refresh()
        (passes.loss_sum(one) / pack.labelled).backward()
        yield pack.original


def plain(case: Case, model: Any, tokens: Tokens) -> Iterator[int]:
    """Stock transformers and peft on padded rows, as alpaca-lora's loop has them, in bf16."""
    device = next(model.parameters()).device
    rng = np.random.default_rng(0)
    while True:
        rows = rng.permutation(len(tokens))[: case.rows * 16]
        if case.grouped:
            rows = rows[np.argsort(tokens.lengths[rows])]
        for start in rng.permutation(np.arange(0, len(rows), case.rows)):
            chosen = rows[start : start + case.rows]
            batch = pad([tokens.row(int(i)) for i in chosen])
            ids, labels = torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.labels).to(device)
            widths = torch.from_numpy(tokens.lengths[chosen]).to(device)
            mask = (torch.arange(ids.shape[1], device=device)[None] < widths[:, None]).long()
            with torch.autocast(device.type, torch.bfloat16, enabled=case.full and CUDA):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            loss.backward()
            yield int(widths.sum())


def _model(case: Case) -> Any:
    adapter = {"method": "full" if case.full else "lora"}
    values = {"name": "bench", "model": {"geometry": SHAPES[case.shape]}, "adapter": adapter}
    config = Config.model_validate(values)
    base = load_base(config.model, Base(None, Path(), 0, ()), config.train.seed, case.full)
    if case.how == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    if case.quantize == "nf4":
        _four_bits(base)
    base.config.use_cache = False
    base.requires_grad_(case.full)
    if case.full:
        return base
    # As alpaca-lora's users run it today: everything in bf16, no autocast around it.
    common = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=case.dropout, **common)
    return get_peft_model(base, lora, autocast_adapter_dtype=case.how == "ours")


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


def encoded(data: str, tokenizer: str, work: Path) -> tuple[Tokens, list[list[int]]]:
    """The rows of a file, encoded with Alpaca's template, and what they begin with. work: where the files go."""
    as_published = {"sources": [{"path": data}], "clean": "none", "duplicates": {"exact": False, "near": 0}}
    prompt = {"template": "alpaca", "join": "joint", "mask_prompt": True}
    values = {"name": "bench", "model": {"tokenizer": tokenizer}, "data": as_published, "prompt": prompt}
    config = Config.model_validate(values)
    run = Run(work / "bench")
    bring_up_to_date(config, run, "tokens")
    encoder = encoder_of(config.prompt, Path(tokenizer), config.model.add_tokens)
    return Tokens(run.folder("tokens") / "train.arrow"), encoder.preambles()


def _wait() -> None:
    torch.cuda.synchronize() if CUDA else None


def _rate() -> float:
    """FLOPs a second of large bf16 products on a warm card; on a CPU of float32 ones."""
    size = 8192 if CUDA else 1024
    a, b = (torch.randn(size, size, device="cuda" if CUDA else "cpu", dtype=KIND) for _ in range(2))
    done, spent = 0, 0.0
    while spent < 2:  # a card is faster for a short time than it can sustain
        started = time.perf_counter()
        for _ in range(20):
            torch.mm(a, b)
        _wait()
        spent += time.perf_counter() - started
        done += 20
    return 2 * size**3 * done / spent


def main() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as runs have it
    profiling = "--profile" in sys.argv
    words = [word for word in sys.argv[1:] if word != "--profile"]
    if len(words) < 2 or not Path(words[0]).is_file() or not Path(words[1]).is_dir():
        raise UserError("no data and tokenizer's folder", "DATA TOKENIZER [CASE ...]", "see docs/benchmarks.md")
    cases = words[2:] or [name for name, case in CASES.items() if (case.shape == "tiny") != CUDA]
    cases.sort(key=lambda name: name in CASES and CASES[name].how == "liger")  # last: it changes transformers' modules
    if unknown := [w for w in cases if w not in CASES]:
        raise UserError(f"no such case: {unknown[0]!r}", "CASE", f"there are {', '.join(map(repr, CASES))}")
    lines, limit = [], _rate()
    with tempfile.TemporaryDirectory() as folder:
        tokens, preambles = encoded(words[0], words[1], Path(folder))
        model: Any = None
        loaded: tuple[object, ...] | None = None
        for name in cases:
            case = CASES[name]
            if case.how == "liger" and importlib.util.find_spec("liger_kernel") is None:
                lines.append(f"| {name:31} | not installed: pip install -e .[liger] |")
                continue
            kind = case.shape, case.quantize, case.how, case.dropout, case.full
            if loaded != kind or case.quantize == "fp8":  # the weights in fp8 are a case's own
                del model
                gc.collect()
                model, loaded = _model(case), kind
            try:
                if profiling:
                    profile(name, case, model, tokens, preambles)
                else:
                    lines.append(measure(name, case, model, tokens, preambles, limit))
                    print(lines[-1], flush=True)
            except torch.cuda.OutOfMemoryError:
                lines.append(f"| {name:31} | out of memory |")
                model.zero_grad()
            gc.collect()
    if not profiling:
        print(f"\n{where()}, large products {limit / 1e12:,.1f} TFLOP/s\n")
        print(f"| {'case':31} | {'tok/s':>10} | {'quartiles':>20} | {'ms':>8} | {'limit':>6} | {'GiB':>6} |")
        print(f"|{'-' * 33}|{'-' * 11}:|{'-' * 21}:|{'-' * 9}:|{'-' * 7}:|{'-' * 7}:|")
        print("\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(guarded(main))
