"""Measures cases of `make bench` in a separate process: python -m scripts.benchmarks.bench_worker PLAN

Unsloth and Liger Kernel replace parts of transformers and torch, so their cases must not share a process with others.
PLAN: a JSON file that `bench_train.py` writes. Prints a line for each case, and appends its result to the plan's
`results`, a file of JSON lines.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "unsloth" in sys.argv[2:]:  # before transformers and peft, which it replaces parts of
    with suppress(ImportError):
        import unsloth  # noqa: F401

import numpy as np
import torch

from pipeline.command import guarded
from pipeline.kernels.deterministic import deterministic
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Pack, Packer
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import one_line
from scripts.benchmarks import peers
from scripts.benchmarks.bench_cases import CASES, OURS, UNSLOTH, Case
from scripts.benchmarks.bench_models import CUDA, KIND, fast_model, model_of, save_weights
from scripts.benchmarks.bench_results import line_of
from scripts.benchmarks.bench_shapes import PARAMETERS
from scripts.benchmarks.steady import Pace, kernels, timed

PACKS = 12  # different ones, used in turn
PADDED_STEPS = peers.GROUP  # warm-up, and measured: padded rows of all lengths never become steady
SMOKE_STEPS = 4  # of the tiny cases, whose speed says nothing
PROFILED_AFTER = 24  # steps: each pack was computed twice
CHECKED = 3  # rows with each preamble whose losses are compared between cases


@dataclass
class Trained:
    """A case's model, ready to train.

    Attributes:
        steps: backward passes, each of which yields its tokens.
        row_loss: mean loss of one of the given rows (the index into them) in a micro-batch of them all.
        leaked: the same if rows saw the rows before them; None where rows are apart.
    """

    steps: Iterator[int]
    row_loss: Callable[[list[int], int], torch.Tensor]
    leaked: Callable[[list[int], int], torch.Tensor] | None = None


@dataclass
class Worker:
    """weights: folder of the base for Unsloth, by shape."""

    tokens: Tokens
    preambles: list[list[int]]
    weights: dict[str, str]
    products: float = 0.0
    model: Any = None
    loaded: tuple[object, ...] | None = None
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.products = product_rate()
        self.rows = checked_rows(self.tokens, self.preambles)

    def load(self, case: Case) -> Any:
        """The case's model in training mode, in which alone Liger Kernel and Unsloth compute head and loss in one, with
        an adapter that changes nothing yet."""
        # A model in fp8 has lost its weights, and one that was trained whole has others.
        if self.loaded != case.model_key or case.quantize == "fp8" or case.full:
            self.model = None
            gc.collect()
            torch.cuda.empty_cache() if CUDA else None
            folder = self.weights.get(case.shape, "")
            self.model = peers.unsloth_model(case, Path(folder)) if case.how == UNSLOTH else model_of(case)
            self.loaded = case.model_key
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.zero_() if "lora_B" in name else None
        return self.model.train()

    def measure(self, case: Case) -> dict[str, Any]:
        """Speed, memory and the losses of a few rows, as `bench_results.py` describes them."""
        model = self.load(case)
        trained = self.prepare(case, model)
        with torch.no_grad():
            losses = [float(trained.row_loss(self.rows, n)) for n in range(len(self.rows))]
            leaked = [float(trained.leaked(self.rows, n)) for n in range(len(self.rows))] if trained.leaked else None
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=CUDA)
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

        def whole() -> Iterator[int]:
            for count in trained.steps:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                _wait()
                yield count

        most = SMOKE_STEPS if case.shape == "tiny" else PADDED_STEPS if case.rows else 0
        pace = timed(whole(), most=most, count=most) if most else timed(whole())
        return self.result(case, pace, losses, leaked)

    def result(self, case: Case, pace: Pace, losses: list[float], leaked: list[float] | None) -> dict[str, Any]:
        flops = (6 if case.full else 4) * PARAMETERS[case.shape]
        low, high = pace.quartiles
        values: dict[str, Any] = {
            "tokens_per_second": round(pace.rate, 1), "first_quartile": round(low, 1), "third_quartile": round(high, 1),
            "mean": round(pace.mean, 1), "milliseconds": round(pace.milliseconds, 2),
            "gibibytes": round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else None,
            "is_steady": pace.is_steady, "warm_up_steps": pace.warm, "steps": len(pace.rates),
            "share_of_products": round(flops * pace.rate / self.products, 4), "row_losses": losses,
        }  # fmt: skip
        return values if leaked is None else {**values, "row_losses_if_leaking": leaked}

    def prepare(self, case: Case, model: Any) -> Trained:
        if case.how == OURS:
            return self._ours(case, model)
        if peers.is_packed(case):
            rows = peers.PackedRows(model, self.tokens)
            steps = peers.packed_steps(rows, draw_packs(self.tokens, case.tokens))
            return Trained(steps, rows.loss, lambda chosen, n: rows.loss(chosen, n, leaking=True))
        padded = peers.PaddedRows(model, self.tokens, case.full and CUDA)
        return Trained(peers.padded_steps(case, padded), padded.loss)

    def _ours(self, case: Case, model: Any) -> Trained:
        fast = fast_model(case, model, self.tokens)
        packer = Packer(self.tokens, self.preambles if case.share else [], 1 << 40)

        def row_loss(rows: list[int], n: int) -> torch.Tensor:
            pack = only_row(packer.pack(rows), n)
            return fast.loss_sum(fast.prepare(pack)) / pack.labelled

        return Trained(our_steps(case, model, fast, packer), row_loss)

    def profile(self, name: str, case: Case) -> None:
        """Two steps' kernels: a trace in runs/, the ten that take longest on the screen."""
        model = self.load(case)
        steps = self.prepare(case, model).steps
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


def our_steps(case: Case, model: Any, fast: PackedModel, packer: Packer) -> Iterator[int]:
    """Backward passes of packs through the fast path; yields the rows' own tokens of each."""
    packs = [packer.pack(rows) for rows in draw_packs(packer.tokens, case.tokens)]
    weights, largest = [p for p in model.parameters() if p.requires_grad], max(len(pack.ids) for pack in packs)
    passes = CudaGraphs(fast, weights, packs, largest) if case.graphs else fast
    batches = [passes.prepare(pack) for pack in packs]
    for one in batches if case.graphs else []:  # records the graphs, as the first steps of a run do
        passes.loss_sum(one)
    for pack, one in itertools.cycle(list(zip(packs, batches, strict=True))):
        fast.refresh()
        with deterministic(case.full):  # as a run that trains layers of torch's own
            (passes.loss_sum(one) / pack.labelled).backward()
        yield pack.original


def draw_packs(tokens: Tokens, size: int) -> list[list[int]]:
    """Rows drawn at random for packs of about `size` tokens: the same ones for every packed case of this size."""
    rng = np.random.default_rng(0)
    packs: list[list[int]] = []
    while len(packs) < PACKS:
        order = rng.permutation(len(tokens))
        sums = np.cumsum(tokens.lengths[order])
        cuts = np.searchsorted(sums, np.arange(1, PACKS + 1) * size)
        packs += [order[a:b].tolist() for a, b in zip([0, *cuts[:-1]], cuts, strict=True) if b > a]
    return packs


def checked_rows(tokens: Tokens, preambles: list[list[int]]) -> list[int]:
    """The first few rows with each preamble, in the order in which a pack lays them out."""
    kinds = Packer(tokens, preambles, 1 << 40).preamble_of_row
    usable = tokens.labelled > 0
    kept = [np.flatnonzero((kinds == kind) & usable)[:CHECKED] for kind in range(len(preambles))]
    return [int(row) for rows in kept if len(rows) == CHECKED for row in rows]


def only_row(pack: Pack, n: int) -> Pack:
    """The pack with loss on its n-th row alone. Needs masked prompts: a preamble has no loss."""
    start, end = pack.starts[pack.preambles + n : pack.preambles + n + 2]
    weights = np.where((pack.where >= start) & (pack.where < end), pack.weights, 0).astype(np.float32)
    fields = {name: getattr(pack, name) for name in Pack.__slots__}
    return Pack(**{**fields, "weights": weights})


def _wait() -> None:
    torch.cuda.synchronize() if CUDA else None


def product_rate() -> float:
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
    plan = json.loads(Path(sys.argv[1]).read_text())
    for shape, folder in plan["save"].items():
        save_weights(shape, Path(folder))
    if not plan["cases"]:
        return
    worker = Worker(Tokens(Path(plan["tokens"])), plan["preambles"], plan["weights"])
    with Path(plan["results"]).open("a") as results:
        for name in plan["cases"]:
            if plan["profile"]:
                worker.profile(name, CASES[name])
                continue
            try:
                result = worker.measure(CASES[name])
            except torch.cuda.OutOfMemoryError:
                result = {"failed": "out of memory"}
            # A peer's library raises errors of any type on versions that it does not know; the other cases continue.
            except Exception as error:
                traceback.print_exc()
                result = {"failed": one_line(f"{type(error).__name__}: {error}", 120)}
            if "failed" in result:
                worker.model, worker.loaded = None, None
            record = {"name": name, **result, "products": worker.products}
            print(line_of(record), flush=True)
            results.write(json.dumps(record) + "\n")
            results.flush()
            os.fsync(results.fileno())
            gc.collect()


if __name__ == "__main__":
    raise SystemExit(guarded(main))
