"""Continuous batching: each answer is that of its prompt alone; requests join, leave, fail and wait."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.generate import greedy
from pipeline.serving.engine import batch as batches
from pipeline.serving.engine.batch_engine import BatchEngine
from pipeline.serving.engine.request import Finished, Full, GenerationRequest
from tests.helpers.engine import answers, engine_of, request, start
from tests.helpers.stored_adapters import plain
from tests.helpers.tiny import make_base

PROMPTS = [[5, 6, 7], list(range(20, 90)), [3], list(range(100, 117)), [9] * 40, [8, 9, 10, 11]]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8}, "gemma2": {"head_dim": 8, "sliding_window": 8}, "gpt_neox": {}, "olmo2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}, "cohere": {},
}  # fmt: skip


def lively(base: Path) -> Any:
    """A random model whose answers are not all the same token."""
    model = plain(base)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return lively(base)


@pytest.fixture(scope="module")
def expected(base: Path) -> list[list[int]]:
    return greedy(lively(base), PROMPTS, end_id=2, max_new_tokens=20, what="answers")


@pytest.fixture(params=[256, 10], ids=["whole", "in parts"])
def prompt_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CPU_PROMPT", request.param)


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.usefixtures("prompt_parts")
def test_greedy_answers_are_those_of_generate(model: Any, expected: list[list[int]], slots: int) -> None:
    with engine_of(model, slots) as engine:
        collected = answers(engine, [request(prompt) for prompt in PROMPTS])
    assert [one.ids for one in collected] == expected
    assert [one.finished for one in collected] == [Finished("stop" if ids[-1] == 2 else "length") for ids in expected]
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    """Sliding windows, soft caps, learned positions, other norms: through the model's own code."""
    model = lively(make_base(tmp_path, model_type=family, **FAMILIES[family]))
    expected = greedy(model, PROMPTS, end_id=2, max_new_tokens=20, what="answers")
    with engine_of(model, 3) as engine:
        assert [one.ids for one in answers(engine, [request(prompt) for prompt in PROMPTS])] == expected


def test_requests_that_join_later(model: Any, expected: list[list[int]]) -> None:
    with engine_of(model) as engine:
        first = start(engine, request(PROMPTS[1], end=(), max_tokens=200), after=5)
        assert first.reached.wait(60)
        assert [one.ids for one in answers(engine, [request(prompt) for prompt in PROMPTS])] == expected
        assert first.wait().ids[: len(expected[1])] == expected[1]


def test_seeded_answers_alone_and_mixed(model: Any) -> None:
    def asked(n: int) -> GenerationRequest:
        settings = [{}, {"top_p": 0.9}, {"top_k": 20}, {"frequency_penalty": 0.5, "repetition_penalty": 1.2}][n % 4]
        return request(PROMPTS[n % 6], end=(), temperature=0.8, seed=n, **settings)

    with engine_of(model, 8) as engine:
        alone = [answers(engine, [asked(n)])[0].ids for n in range(8)]
        assert [one.ids for one in answers(engine, [asked(n) for n in range(8)])] == alone
    assert len({tuple(ids) for ids in alone}) == 8


def test_logprobs_are_those_of_the_model(model: Any, base: Path) -> None:
    with engine_of(model) as engine:
        mixed = [request(PROMPTS[0]), request(PROMPTS[3], top_logprobs=2, temperature=2.0, seed=1), request([7] * 50)]
        one = answers(engine, mixed)[1]
    ids = [*PROMPTS[3], *one.ids]
    with torch.inference_mode():
        logprobs = lively(base)(torch.tensor([ids])).logits[0].log_softmax(-1)[len(PROMPTS[3]) - 1 : -1]
    for token, row in zip(one.tokens, logprobs, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [value for _, value in token.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)


def test_a_cancelled_request_frees_its_slot(model: Any, expected: list[list[int]]) -> None:
    with engine_of(model, slots=1) as engine:
        long = start(engine, request(PROMPTS[0], end=(), max_tokens=500), after=3)
        waiting = start(engine, request(PROMPTS[1]))
        next_one = start(engine, request(PROMPTS[3]))
        assert long.reached.wait(60)
        assert long.ticket
        assert waiting.ticket
        waiting.ticket.cancel()
        assert waiting.wait().finished == Finished("cancelled")
        assert not waiting.tokens
        assert not next_one.tokens
        long.ticket.cancel()
        assert long.wait().finished == Finished("cancelled")
        assert next_one.wait().ids == expected[3]
        long.ticket.cancel()  # has ended: no effect
        assert engine.status().running == 0


def test_full_queue(model: Any) -> None:
    with engine_of(model, slots=2, queue=1) as engine:
        asked = request(PROMPTS[0], end=(), max_tokens=500)
        three = [start(engine, asked) for _ in range(3)]
        with pytest.raises(Full):
            start(engine, asked)
        for one in three:
            assert one.ticket
            one.ticket.cancel()
            one.wait()
        assert answers(engine, [request(PROMPTS[2])])[0].ids


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [([], "empty"), ([1, 100_000], "ids outside"), ([-1], "ids outside"), ([5] * 512, "leaves no room")],
)
def test_impossible_prompts(model: Any, expected: list[list[int]], ids: list[int], sentence: str) -> None:
    with engine_of(model) as engine:
        bad, good = answers(engine, [request(ids), request(PROMPTS[0])])
    assert bad.finished
    assert bad.finished.reason == "error"
    assert sentence in bad.finished.error
    assert good.ids == expected[0]


def test_the_context_ends_an_answer(model: Any) -> None:
    with engine_of(model, context=50) as engine:
        one, last = answers(engine, [request([5] * 40, end=(), max_tokens=100), request([5] * 49, end=())])
    assert (len(one.ids), len(last.ids)) == (10, 1)
    assert one.finished == last.finished == Finished("length")


def test_a_step_that_fails_ends_its_requests_alone(
    model: Any, expected: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with engine_of(model) as engine:
        decoder = engine.batches[0].decoder
        step, calls = decoder.step, iter(range(100))

        def failing(*args: Any) -> torch.Tensor:
            if next(calls) == 3:
                raise RuntimeError("no such kernel")
            return step(*args)

        decoder.step = failing  # type: ignore[method-assign]
        bad = answers(engine, [request(PROMPTS[0], end=(), max_tokens=30)])[0]
        good = answers(engine, [request(PROMPTS[0])])[0]
    assert bad.finished == Finished("error", "the model failed: no such kernel")
    assert good.ids == expected[0]
    assert "no such kernel" in capsys.readouterr().err


def test_logits_that_are_not_finite(base: Path, expected: list[list[int]]) -> None:
    """The request ends with an error; the next one in its row is not affected by what is left in the cache."""
    model = lively(base)
    with torch.no_grad():
        model.get_input_embeddings().weight[399] = torch.nan
    with engine_of(model, slots=2) as engine:
        mixed = [request([4, 399]), request(PROMPTS[0])]
        bad, good = answers(engine, mixed)
        assert bad.finished == Finished("error", "the model's logits are not finite")
        assert good.ids == expected[0]
        assert [one.ids for one in answers(engine, [request(prompt) for prompt in PROMPTS])] == expected


def test_a_listener_that_fails_ends_its_request_alone(model: Any, expected: list[list[int]]) -> None:
    def failing(_: object) -> None:
        raise ValueError("gone")

    with engine_of(model, slots=2) as engine:
        engine.submit(request(PROMPTS[0], end=(), max_tokens=10_000), failing)
        assert answers(engine, [request(PROMPTS[1])])[0].ids == expected[1]


def test_memory_bounds_what_runs_at_once(model: Any, expected: list[list[int]]) -> None:
    """A cache of two rows: further requests wait for it, and one that never fits is refused."""
    with engine_of(model, slots=8) as probe:
        per_token = probe.batches[0].per_token
    with engine_of(model, slots=8, cache=2 * 96 * per_token) as engine:
        sizes = []
        collected = [start(engine, request(prompt)) for prompt in PROMPTS]
        too_long = start(engine, request([5] * 300))
        while not all(one.over.is_set() for one in collected):
            sizes.append(engine.batches[0].size_with())
            collected[0].over.wait(0.001)
        assert [one.ids for one in collected] == expected
        assert max(sizes) <= 2 * 96 * per_token
        error = too_long.wait().finished
    assert error
    assert "no memory" in error.error


def test_memory_stays_flat(model: Any) -> None:
    """Many requests of many lengths, some cancelled: the cache is as large as before, and no tensor is left."""
    draw = random.Random(0)
    with engine_of(model, slots=4, queue=1000) as engine:

        def load(count: int) -> None:
            sent = []
            for n in range(count):
                ids = [draw.randrange(3, 400) for _ in range(draw.randrange(1, 60))]
                sent.append(start(engine, request(ids, end=(), max_tokens=draw.randrange(1, 12), temperature=n % 2)))
                if n % 7 == 0 and (ticket := sent[-1].ticket):
                    ticket.cancel()
            for one in sent:
                one.wait()

        load(40)
        before, size = _tensors(), engine.batches[0].size_with()
        load(200)
        assert engine.batches[0].size_with() == size
        assert _tensors() <= before + 5
        assert engine.status().running == engine.status().waiting == 0


def _tensors() -> int:
    import gc

    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def test_status_counts(model: Any) -> None:
    with engine_of(model) as engine:
        collected = answers(engine, [request(PROMPTS[0], end=()), request(PROMPTS[1], end=())])
        status = engine.status()
    assert (status.prompt_tokens, status.new_tokens) == (73, sum(len(one.ids) for one in collected))
    assert status.slots == 4


def test_close_ends_everything(model: Any) -> None:
    with engine_of(model, slots=1) as engine:
        two = [start(engine, request(PROMPTS[0], end=(), max_tokens=500)) for _ in range(2)]
        engine.close()
        assert [one.wait().finished for one in two] == [Finished("cancelled")] * 2
        with pytest.raises(Full):
            start(engine, request([5]))
    assert not any(thread.name == "generation" and thread.is_alive() for thread in threading.enumerate())


def test_threads_that_ask_at_once(model: Any, expected: list[list[int]]) -> None:
    results: dict[int, list[int]] = {}

    def ask(engine: BatchEngine, n: int) -> None:
        results[n] = answers(engine, [request(PROMPTS[n % 6])])[0].ids

    with engine_of(model, slots=3) as engine:
        threads = [threading.Thread(target=ask, args=(engine, n)) for n in range(18)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(results[n] == expected[n % 6] for n in range(18))
