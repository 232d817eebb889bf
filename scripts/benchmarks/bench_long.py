"""Long rows on one GPU: `python -m scripts.benchmarks.bench_long CASE [CASE ...]`.

attention          our kernels beside torch's flash attention on rows of 128 to 16,384 tokens, 16,384 in all,
                   32 heads of 128 as a 7B model has; microseconds forward + backward
train              LoRA on a 7B geometry (random weights, bf16) on rows of 512 and of 8,192 tokens in packs of
                   8,192, activations kept and recomputed: tok/s, and the peak beside the one that the plan gives
tiny               the same on a small model, for machines without a GPU
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.kernels.layout import Layout
from pipeline.model.base import Base
from pipeline.model.load import load_base
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Pack
from pipeline.run.errors import UserError
from pipeline.training.plan import plan
from scripts.benchmarks.bench_call import where
from scripts.benchmarks.bench_shapes import SHAPES

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
LENGTHS = (128, 512, 2048, 4096, 8192, 16384)
TOKENS = 16384
HEADS, SIZE = 32, 128
SCALE = SIZE**-0.5
TIMES = 12


def rows_of(length: int, tokens: int = TOKENS, vocabulary: int = 32000) -> Pack:
    """A pack of equal rows; each predicts its second half."""
    count = tokens // length
    rng = np.random.default_rng(0)
    at = np.arange(count * length).reshape(count, length)[:, length // 2 : -1].ravel()
    ids = rng.integers(3, vocabulary, count * length)
    return Pack(
        ids=ids, positions=np.tile(np.arange(length), count), starts=np.arange(count + 1) * length, preambles=0,
        groups=np.zeros(1, np.int64), where=at, targets=ids[at + 1], weights=np.ones(len(at), np.float32), rows=count,
        original=count * length,
    )  # fmt: skip


def microseconds(call: Callable[[], Any]) -> float:
    """Median time of a call on the card."""
    for _ in range(3):
        call()
    spans = []
    for _ in range(TIMES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        spans.append(start.elapsed_time(end) * 1e3)
    return statistics.median(spans)


def tensors(tokens: int = TOKENS) -> list[torch.Tensor]:
    """q, k, v and a gradient."""
    torch.manual_seed(0)
    return [torch.randn(tokens, HEADS, SIZE, device=DEVICE, dtype=torch.bfloat16) for _ in range(4)]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def attention() -> None:
    """Ours beside flash attention."""
    from pipeline.kernels.triton_attention import attend
    from pipeline.kernels.triton_attention_gradients import attend_backward

    print("| rows of | flash, forward + backward | the same, fixed order | ours | ours / fixed order | differs |")
    print("|---:|---:|---:|---:|---:|---:|")
    q, k, v, grad = tensors()
    for length in LENGTHS:
        pack = rows_of(length)
        layout = Layout.of(pack, DEVICE, plain=False)
        made = [torch.empty_like(t) for t in (q, k, v)]
        out, lse = attend(q, k, v, layout, SCALE)
        ours = (
            microseconds(partial(attend, q, k, v, layout, SCALE)),
            microseconds(partial(attend_backward, grad, q, k, v, out, lse, layout, SCALE, made)),
        )
        ends = torch.arange(0, TOKENS + 1, length, device=DEVICE, dtype=torch.int32)
        fixed = (ends, ends, length, length, 0.0, True)

        def flash(fixed: tuple[Any, ...] = fixed) -> Any:
            return torch.ops.aten._flash_attention_forward(q, k, v, *fixed, False, scale=SCALE)

        found = flash()

        def back(found: Any = found, fixed: tuple[Any, ...] = fixed) -> Any:
            return torch.ops.aten._flash_attention_backward(
                grad, q, k, v, found[0], found[1], *fixed, found[2], found[3], scale=SCALE
            )

        forward, loose = microseconds(flash), microseconds(back)
        torch.use_deterministic_algorithms(True)
        strict, theirs = microseconds(back), back()
        torch.use_deterministic_algorithms(False)
        apart = max(difference(a, b) for a, b in zip((out, *made), (found[0], *theirs), strict=True))
        ratio = f"{ours[0] / forward:.2f} + {ours[1] / strict:.2f}"
        times = f"{forward:,.0f} + {loose:,.0f} | {strict:,.0f} | {ours[0]:,.0f} + {ours[1]:,.0f}"
        print(f"| {length:,} | {times} | {ratio} | {apart:.1e} |", flush=True)


def train(shape: str, lengths: Sequence[int], tokens: int, steps: int = 6) -> None:
    """tok/s and peaks of packs of equal rows."""
    geometry = {**SHAPES[shape], "max_position_embeddings": 2048}
    values = {
        "name": "long", "prompt": {"cutoff": tokens}, "data": {"sources": [{"path": "rows", "rows": 1}]},
        "model": {"geometry": geometry, "rope_scaling": {"rope_type": "linear", "factor": 4},
                  "dtype": "bf16" if CUDA else "fp32"},
    }  # fmt: skip
    config = Config.model_validate(values)
    fast_plan = plan(config, {"rows": 1, "tokens": tokens, "longest": tokens}).fast
    assert fast_plan is not None
    base = load_base(config.model, Base(None, Path(), 0, ()), 0).requires_grad_(False)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=CUDA)
    fast = PackedModel(model, tokens)
    print(f"| {shape}, packs of {tokens:,} | tok/s | quartiles | peak GiB | planned |\n|---|---:|---:|---:|---:|")
    for length in lengths:
        pack = rows_of(length, tokens, geometry["vocab_size"])
        for recompute in (False, True):
            fast.recompute = recompute
            batch, rates = fast.prepare(pack), []
            for step in range(steps + 2):
                if step == 2 and CUDA:
                    torch.cuda.reset_peak_memory_stats()
                started = time.perf_counter()
                (fast.loss_sum(batch) / pack.labelled).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                fast.refresh()
                torch.cuda.synchronize() if CUDA else None
                rates.append(tokens / (time.perf_counter() - started))
            low, middle, high = statistics.quantiles(rates[2:], n=4)
            peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
            how = "recomputed" if recompute else "kept"
            predicted = fast_plan.peak(tokens, "block" if recompute else "none") / 2**30
            print(f"| rows of {length:,}, {how} | {middle:,.0f} | {low:,.0f} to {high:,.0f} | {peak:.1f} | "
                  f"{predicted:.1f} |", flush=True)  # fmt: skip


CASES: dict[str, Callable[[], None]] = {
    "attention": attention,
    "train": lambda: train("7b", (512, 8192), 8192),
    "tiny": lambda: train("tiny", (128, 512), 512, 3),
}


def main() -> None:
    words = sys.argv[1:]
    if not words or (unknown := [word for word in words if word not in CASES]):
        what = f"no such case: {unknown[0]!r}" if words else "no case"
        raise UserError(what, "CASE", f"there are {', '.join(CASES)}")
    for word in words:
        if not CUDA and word != "tiny":
            raise UserError(f"{word} needs a GPU", "CASE", "name tiny")
        started = time.perf_counter()
        CASES[word]()
        print(f"\n{word}: {time.perf_counter() - started:.0f} s; {where()}\n", flush=True)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
