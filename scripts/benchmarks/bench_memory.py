"""Trains in little memory of a GPU: `python -m scripts.benchmarks.bench_memory [CASE ...]`; `--tiny` runs on a CPU.

Each case runs in a separate process, whose memory of the card is limited (torch.cuda.set_per_process_memory_fraction,
so an allocation beyond the limit fails). Weights are random and loaded tensor by tensor as those of a base are, LoRA
r=16 on all linear layers, rows without a shared preamble, half of each row labelled; a step is two passes and an
update. Printed: the peak as torch saw it, allocated and reserved; what `make plan` predicts for this pass; the host's
peak; tok/s of the median step; and of streamed cases the copies a second that tok/s means, beside what the bus gives.
Without a case: those of 7B and 13B. A case ends after eight steps or twelve seconds of them. `--tokens=N`: passes of so
many tokens instead of the number in the case.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.base.safetensors_header import Entry
from pipeline.model.block_stream import BlockStream
from pipeline.model.load import four_bits, geometry_config
from pipeline.model.memory import use_expandable_segments
from pipeline.model.packed.model import PackedModel
from pipeline.model.precision import device
from pipeline.model.skeleton import Skeleton
from pipeline.model.tensor_loader import load_by_tensor
from pipeline.prompt.pack import Pack
from pipeline.run.errors import UserError
from pipeline.training.footprint import Footprint
from pipeline.training.plan import footprint_of
from scripts.benchmarks.bench_call import where
from scripts.benchmarks.bench_shapes import SHAPES

CUDA = torch.cuda.is_available()
KIND = torch.bfloat16 if CUDA else torch.float32
LABELLED = 0.5
MAX_STEPS, MAX_SECONDS, WARM_UP = 8, 12.0, 2
MOST_TOKENS = 16384
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """tokens: in a pass; 0: as many as the plan says. rows: tokens of a row. limit: GiB of the card; 0: none."""

    shape: str
    quantize: str
    way: str
    tokens: int
    row: int
    limit: float


CASES = {
    "7b nf4, 512": Case("7b", "nf4", "block", 512, 512, 6.5),
    "7b nf4, 2048": Case("7b", "nf4", "block", 2048, 2048, 7.4),
    "7b bf16, stream": Case("7b", "none", "stream", 0, 512, 10),
    "13b bf16, stream": Case("13b", "none", "stream", 0, 512, 16),
    "7b bf16, block": Case("7b", "none", "block", 4096, 512, 0),
    "70b nf4, stream": Case("70b", "nf4", "stream", 2048, 512, 24),
}
USUAL = tuple(CASES)[:4]
TINY = {
    "tiny, block": Case("tiny", "none", "block", 512, 128, 0),
    "tiny nf4, block": Case("tiny", "nf4", "block", 512, 128, 0),
    "tiny, stream": Case("tiny", "none", "stream", 512, 128, 0),
}


class RandomTensors:
    """Random weights under the names of a model, cut out of one block: drawing billions would take minutes."""

    def __init__(self, shape: Any) -> None:
        self.folder = Path("random weights")
        sizes = {name: tuple(t.shape) for name, t in Skeleton(shape).tensors().items()}
        self.entries = {name: Entry("BF16", size, 0, 2 * int(np.prod(size))) for name, size in sizes.items()}
        most = max(entry.end // 2 for entry in self.entries.values() if len(entry.shape) > 1)
        generator = torch.Generator().manual_seed(0)
        few = (torch.randn(min(most, 1 << 24), generator=generator) * 0.02).to(torch.bfloat16)
        self.block = few.repeat(-(-most // len(few)) + 1)

    def read(self, name: str) -> torch.Tensor:
        """A tensor that shares no memory, as one that was read from a file."""
        entry = self.entries[name]
        if len(entry.shape) == 1:
            return torch.ones(entry.shape, dtype=torch.bfloat16)
        start = list(self.entries).index(name) * 4099 % min(len(self.block) - entry.end // 2 + 1, 1 << 24)
        return self.block[start : start + entry.end // 2].clone().reshape(entry.shape)


def measure(case: Case) -> dict[str, float]:
    """The numbers of a case's line, in this process."""
    if not CUDA:
        torch.set_num_threads(1)  # of a tiny model more are slower
    if CUDA and case.limit:
        torch.cuda.set_per_process_memory_fraction(case.limit * GIB / torch.cuda.mem_get_info()[1])
    values = {
        "name": "bench", "adapter": {"r": 16}, "train": {"checkpointing": case.way},
        "model": {"geometry": SHAPES[case.shape], "quantize": case.quantize, "dtype": "bf16" if CUDA else "fp32"},
    }  # fmt: skip
    config = Config.model_validate(values)
    shape = geometry_config(config.model)
    footprint = footprint_of(config, geometry_config(config.model))
    assert footprint is not None
    started = time.perf_counter()
    stream = BlockStream() if case.way == "stream" else None
    model = _loaded(config, shape, stream)
    fast = PackedModel(model, case.row, dtype=KIND)
    fast.recompute = case.way != "none"
    ready = time.perf_counter() - started
    tokens = case.tokens or _fitting(footprint, case)
    spans = _steps(fast, model, tokens, case.row)
    median = statistics.median(spans)
    result = {
        "tokens": tokens, "rate": 2 * tokens / median, "predicted": footprint.peak(tokens, case.way, LABELLED) / GIB,
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "ready": ready, "limit": case.limit,
    }  # fmt: skip
    if CUDA:
        result["allocated"] = torch.cuda.max_memory_allocated() / GIB
        result["reserved"] = torch.cuda.max_memory_reserved() / GIB
    if stream is not None:
        blocks = len(stream.blocks)
        copied = 2 * stream.bytes * (2 * blocks - 4) / blocks  # two passes; the blocks at both turns stay
        result["copied"] = copied / median / 1e9
    return result


def _loaded(config: Config, shape: Any, stream: BlockStream | None) -> Any:
    quantization = four_bits(KIND) if config.model.quantize == "nf4" else None
    on_block = None if stream is None else stream.add
    if stream is not None:
        use_expandable_segments()
    model = load_by_tensor(RandomTensors(shape), shape, KIND, device(), "random", quantization, on_block)
    assert model is not None
    if stream is not None:
        model.block_stream = stream
    return adapters.attach(model, config.adapter, config.train.seed)


def _fitting(footprint: Footprint, case: Case) -> int:
    """Tokens of a pass by the plan, in whole rows."""
    most = footprint.most_tokens(case.way, footprint.usable(case.way, case.limit * GIB), LABELLED)
    return max(1, min(most, MOST_TOKENS) // case.row) * case.row


def _steps(fast: PackedModel, model: Any, tokens: int, row: int) -> list[float]:
    """Seconds of each step after those that warm up."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=CUDA)
    batch = fast.prepare(_pack(tokens, row, int(fast.causal_lm.config.vocab_size)))
    spans: list[float] = []
    model.train()
    if CUDA:
        torch.cuda.empty_cache()
    while len(spans) < WARM_UP + MAX_STEPS and sum(spans[WARM_UP:]) < MAX_SECONDS:
        if CUDA and len(spans) == 1:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        for _ in range(2):
            (fast.loss_sum(batch) / tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fast.refresh()
        if CUDA:
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - started)
    return spans[WARM_UP:]


def _pack(tokens: int, row: int, vocabulary: int) -> Pack:
    """Random rows; each predicts its second half."""
    rows = tokens // row
    where = np.arange(tokens).reshape(rows, row)[:, row - int(row * LABELLED) - 1 : -1].ravel()
    draw = np.random.default_rng(0)
    return Pack(
        ids=draw.integers(0, vocabulary, tokens), positions=np.tile(np.arange(row), rows),
        starts=np.arange(rows + 1) * row, preambles=0, groups=np.zeros(1, np.int64), where=where,
        targets=draw.integers(0, vocabulary, len(where)), weights=np.ones(len(where), np.float32), rows=rows,
        original=tokens,
    )  # fmt: skip


def bus() -> float:
    """Bytes a second from page-locked main memory to the card; on a CPU within main memory."""
    size = 1 << 28
    host = torch.empty(size, dtype=torch.uint8, pin_memory=CUDA).fill_(1)
    card = torch.empty(size, dtype=torch.uint8, device=device())
    spans = []
    for _ in range(5):
        started = time.perf_counter()
        card.copy_(host, non_blocking=True)
        if CUDA:
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - started)
    return size / statistics.median(spans)


def _run(name: str, tokens: int) -> str:
    """A case's line, from a separate process. tokens: of a pass; 0: those of the case."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "scripts.benchmarks.bench_memory", "--case", name, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        return f"| {name:18} | failed: {last[:600]} |"
    got = json.loads(done.stdout.strip().splitlines()[-1])
    seen = f"{got['allocated']:5.2f} | {got['reserved']:5.2f}" if "allocated" in got else "    - |     -"
    off = f"{got['predicted'] / got['allocated'] - 1:+.1%}" if "allocated" in got else "-"
    copied = f"{got['copied']:5.1f}" if "copied" in got else "-"
    return (
        f"| {name:18} | {got['limit']:5.1f} | {int(got['tokens']):6,} | {seen} | {got['predicted']:6.2f} | {off:>6} | "
        f"{got['rate']:8,.0f} | {copied:>5} | {got['host']:5.1f} | {got['ready']:5.1f} | "
        f"{time.perf_counter() - started:5.0f} |"
    )


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        case = {**CASES, **TINY}[sys.argv[2]]
        print(json.dumps(measure(replace(case, tokens=int(sys.argv[3]) or case.tokens))), flush=True)
        return
    tiny, tokens = "--tiny" in sys.argv, 0
    for word in sys.argv[1:]:
        tokens = int(word.removeprefix("--tokens=")) if word.startswith("--tokens=") else tokens
    names = [word for word in sys.argv[1:] if not word.startswith("--")] or list(TINY if tiny else USUAL)
    known = {**CASES, **TINY}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"no such case: {unknown[0]!r}", "CASE", f"there are {', '.join(map(repr, known))}")
    if not CUDA and any(name in CASES for name in names):
        raise UserError("there is no GPU here", "CASE", "add --tiny, which runs on a CPU")
    print(f"{where()}; main memory to card {bus() / 1e9:.1f} GB/s", flush=True)
    heads = ("case", "limit", "tokens", "alloc", "reserved", "plan", "off", "tok/s", "GB/s", "host", "ready", "s")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for name in names:
        print(_run(name, tokens), flush=True)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
