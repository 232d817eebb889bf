"""Measures the engine of `make serve`: `python -m scripts.benchmarks.bench_serving [--base CONFIG] [--clients 1,8,64]`.

Each client asks again when its answer has ended, so as many answers run as there are clients. Prompts are random ids of
`--prompt` tokens, no two alike; answers have `--tokens` tokens, without an end token. The engine runs without HTTP.
Beside it, on the same machine in the same run: transformers' `generate` (what `transformers serve` calls), one request
after the other, and its continuous batching (`generate_batch`), which `transformers serve --continuous-batching` calls.

On two cores with the demo's base (about four minutes):
    python -m scripts.benchmarks.bench_serving --clients 1,8
On a card, random weights with the geometry of LLaMA-7B in bf16:
    python -m scripts.benchmarks.bench_serving --base 7b --clients 1,8,64 --prompt 256 --tokens 256 --requests 3

Columns: tokens a second over all clients (new tokens; prompts are read in that time); seconds until the first token,
median and slowest; seconds between two tokens of an answer, median. `generate` has one client alone.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.model.base import resolve
from pipeline.model.run_base import RunBase
from pipeline.serving.engine.batch import Batch
from pipeline.serving.engine.batch_engine import BatchEngine, Limits, Route
from pipeline.serving.engine.decoder import decoder_of
from pipeline.serving.engine.loaded import context_of
from pipeline.serving.engine.memory import plan_cache
from pipeline.serving.engine.request import Event, GenerationRequest, NewToken

GEOMETRIES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "vocab_size": 32000, "max_position_embeddings": 4096},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "vocab_size": 1000, "max_position_embeddings": 1024},
}  # fmt: skip


@dataclass
class Timed:
    """One answer: when it was asked for and when its tokens came, in seconds."""

    asked: float
    tokens: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    error: str = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, NewToken):
            self.tokens.append(time.perf_counter())
        else:
            self.error = event.error
            self.over.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="configs/demo.yaml", help=f"a config, or {', '.join(GEOMETRIES)}")
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--without", default="", help="generate, generate_batch: leave these out")
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    print(f"{options.base}, {dtype}, {_machine(options.device)}, torch {torch.__version__}")
    print(
        f"prompts of {options.prompt} tokens, answers of {options.tokens}, {options.requests} a client; load {_load()}"
    )
    print(f"{'':16} {'clients':>7} {'tokens/s':>9} {'first':>7} {'slowest':>8} {'between':>8}")
    model = _model(options.base, dtype, options.device)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompts = _prompts(max(counts) * (options.requests + 1), options.prompt, vocabulary)
    for name, measure in (("generate", _generate), ("generate_batch", _generate_batch)):
        if name not in options.without.split(","):
            for count in counts if name == "generate_batch" else [1]:
                _row(name, count, lambda: measure(model, prompts[: count * options.requests], options.tokens))  # noqa: B023
    if options.device == "cuda":
        torch.cuda.empty_cache()
    decoder = decoder_of(model)  # replaces layers of the model, so it comes last
    for count in counts:
        _row("engine", count, lambda: _engine(decoder, prompts, count, options))  # noqa: B023
    print(f"load at the end {_load()}")


Result = tuple[int, float, list[Timed]]  # new tokens, seconds, times of each answer where they are known


def _row(name: str, count: int, measure: Callable[[], Result]) -> None:
    try:
        tokens, seconds, timed = measure()
    except Exception as error:  # a library that cannot do it here is a line of the table
        print(f"{name:16} {count:>7} {type(error).__name__}: {str(error)[:80]}", flush=True)
        return
    first = sorted(one.tokens[0] - one.asked for one in timed)
    gaps = [b - a for one in timed for a, b in zip(one.tokens, one.tokens[1:], strict=False)]
    times = f"{statistics.median(first):7.3f} {first[-1]:8.3f} {statistics.median(gaps):8.4f}" if timed else ""
    print(f"{name:16} {count:>7} {tokens / seconds:>9.1f} {times}", flush=True)


def _engine(decoder: Any, prompts: Sequence[list[int]], clients: int, options: Any) -> Result:
    """As many threads as clients; each asks once to warm up, and then `--requests` times."""
    batch = Batch(decoder, None, context_of(decoder))
    answer = options.tokens
    cache = plan_cache(decoder.device, [batch.per_token], [batch.context], clients, answer)
    batch.reserve(clients, options.prompt + answer, cache)
    engine = BatchEngine({"base": Route(batch)}, Limits(clients, clients, cache))

    def ask(number: int) -> Timed:
        timed = Timed(time.perf_counter())
        engine.submit(GenerationRequest("base", tuple(prompts[number]), answer, frozenset()), timed)
        timed.over.wait()
        if timed.error:
            raise RuntimeError(timed.error)
        return timed

    def all_clients(first: int, times: int) -> list[Timed]:
        done: list[Timed] = []

        def client(n: int) -> None:
            for k in range(times):
                done.append(ask(first + n * times + k))

        threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return done

    try:
        all_clients(0, 1)
        begin = time.perf_counter()
        timed = all_clients(clients, options.requests)
        seconds = time.perf_counter() - begin
    finally:
        engine.close()
    return sum(len(one.tokens) for one in timed), seconds, timed


def _generate(model: Any, prompts: Sequence[list[int]], tokens: int) -> Result:
    """One request after the other, streamed as `transformers serve` does."""
    from transformers.generation.streamers import BaseStreamer

    class Stamps(BaseStreamer):
        def __init__(self, timed: Timed) -> None:
            self.timed, self.is_prompt = timed, True

        def put(self, value: Any) -> None:
            if not self.is_prompt:
                self.timed.tokens.append(time.perf_counter())
            self.is_prompt = False

        def end(self) -> None:
            pass

    def ask(prompt: list[int]) -> Timed:
        timed, ids = Timed(time.perf_counter()), torch.tensor([prompt], device=model.device)
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, pad_token_id=0, streamer=Stamps(timed),
            )  # fmt: skip
        return timed

    ask(prompts[0])
    begin = time.perf_counter()
    timed = [ask(prompt) for prompt in prompts]
    return sum(len(one.tokens) for one in timed), time.perf_counter() - begin, timed


def _generate_batch(model: Any, prompts: Sequence[list[int]], tokens: int) -> Result:
    """transformers' continuous batching of all requests at once, after a first round that compiles and records."""
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    before = model.config._attn_implementation

    def round_() -> tuple[int, float]:
        begin = time.perf_counter()
        outputs = model.generate_batch(inputs=list(prompts), generation_config=settings, progress_bar=False)
        return sum(len(output.generated_tokens) for output in outputs.values()), time.perf_counter() - begin

    try:
        round_()
        tokens_made, seconds = round_()
    finally:
        model.set_attn_implementation(before)
    return tokens_made, seconds, []


def _model(base: str, dtype: torch.dtype, device: str) -> Any:
    if base in GEOMETRIES:
        from transformers import AutoModelForCausalLM, LlamaConfig

        with torch.device(device):
            model = AutoModelForCausalLM.from_config(LlamaConfig(**GEOMETRIES[base]), dtype=dtype)
        return model.eval().requires_grad_(False)
    config = load(Path(base), [])
    model = RunBase.of(config, resolve(config.model)).load().to(device, dtype)
    return model.eval().requires_grad_(False)


def _prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(3, vocabulary) for _ in range(length)] for _ in range(count)]


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of a CPU"


def _load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    guarded(main)
