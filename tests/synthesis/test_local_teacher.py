"""A local model as teacher, on the tiny random base."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Asked
from pipeline.model import sample as sampling
from pipeline.run.errors import UserError
from pipeline.synthesis import local_teacher
from pipeline.synthesis.local_teacher import LocalTeacher
from pipeline.synthesis.request import Reply, Request


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_teacher, "TICK", 0.001)


def asked(base: Path | str, **values: Any) -> Asked:
    return Asked.model_validate({"kind": "local", "model": str(base), "parallel": 4, **values})


def request(text: str, max_tokens: int = 6, **values: Any) -> Request:
    return Request((("user", text),), max_tokens, values.pop("temperature", 1.0), "m", "test", **values)


def replies(teacher: LocalTeacher, requests: list[Request]) -> list[Reply]:
    async def ask() -> list[Reply]:
        try:
            return await asyncio.gather(*map(teacher.reply, requests))
        finally:
            await teacher.close()

    return asyncio.run(ask())


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Numbers of prompt tokens of each batch that is generated."""
    batches: list[list[int]] = []
    sample = sampling.sample

    def spy(model: Any, questions: Any, *more: Any) -> Any:
        batches.append([len(question.ids) for question in questions])
        return sample(model, questions, *more)

    monkeypatch.setattr(sampling, "sample", spy)
    return batches


def test_replies_depend_on_their_request_alone(base: Path) -> None:
    requests = [request(f"Question {n}" * (n % 3 + 1)) for n in range(6)]
    first = replies(LocalTeacher(asked(base)), requests)
    again = replies(LocalTeacher(asked(base, parallel=1)), requests[::-1])[::-1]
    assert [r.text for r in first] == [r.text for r in again]
    assert len({r.text for r in first}) == 6
    other = replies(LocalTeacher(asked(base)), [request("Question 0", draw=1)])
    assert other[0].text != first[0].text


def test_what_a_reply_says(base: Path) -> None:
    (reply,) = replies(LocalTeacher(asked(base)), [request("Hello", 5)])
    assert reply.finish in ("stop", "length")
    assert reply.completion_tokens == 5 or reply.finish == "stop"
    assert (reply.failure, reply.cost, reply.model) == ("", None, base.name)
    assert reply.time.endswith("+00:00")
    assert reply.prompt_tokens == len(local_teacher._load(asked(base), "").prompt.ids([("user", "Hello")]))


def test_the_oldest_goes_with_those_of_like_length(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batches_of(monkeypatch)
    short, long = "ab", "ab" * 60
    requests = [request(f"{text}{n}") for n, text in enumerate([long, short, long, short, short, long])]
    replies(LocalTeacher(asked(base, parallel=3)), requests)
    assert [len(batch) for batch in batches] == [3, 3]
    assert min(batches[0]) > max(batches[1])


def test_requests_with_other_settings_are_apart(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batches_of(monkeypatch)
    requests = [request("a"), request("b", extra={"top_p": 0.5}), request("c"), request("d", temperature=0.0)]
    replies(LocalTeacher(asked(base)), requests)
    assert [len(batch) for batch in batches] == [3, 1]


def test_a_prompt_that_fills_the_context_fails_alone(base: Path) -> None:
    requests = [request("Hello"), request("word " * 600)]
    short, long = replies(LocalTeacher(asked(base)), requests)
    assert short.failure == ""
    assert "teacher's context 512" in long.failure
    assert (long.text, long.completion_tokens) == ("", 0)
    (limited,) = replies(LocalTeacher(asked(base, context=40)), [request("Hello", 300)])
    assert limited.prompt_tokens + limited.completion_tokens <= 40


def test_the_model_is_loaded_for_the_first_request_and_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = local_teacher._load
    monkeypatch.setattr(local_teacher, "_load", lambda *words: loads.append(words[1]) or load(*words))
    teacher = LocalTeacher(asked(base, parallel=1))
    assert loads == []
    replies(teacher, [request("a"), request("b")])
    assert loads == ["synthesis.teacher"]


def test_requests_cancelled_before_their_batch_are_not_generated(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batches_of(monkeypatch)
    started: list[Request] = []
    requests = [request(text) for text in "abc"]

    async def ask() -> Reply:
        teacher = LocalTeacher(asked(base), started=started.append)
        tasks = [asyncio.create_task(teacher.reply(r)) for r in requests]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        reply = await tasks[1]
        await teacher.close()
        return reply

    assert asyncio.run(ask()).text
    assert started == [requests[1]]
    assert [len(batch) for batch in batches] == [1]


def test_cancelling_ends_a_batch_within_a_token(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, tokens = threading.Event(), []
    repeats = sampling.repeats
    monkeypatch.setattr(sampling, "repeats", lambda ids: running.set() or tokens.append(1) or repeats(ids) & False)

    async def ask() -> None:
        teacher = LocalTeacher(asked(base))
        task = asyncio.create_task(teacher.reply(request("a", 480)))
        await asyncio.to_thread(running.wait, 30)
        await teacher.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(ask())
    assert len(tokens) < 480 / sampling.LOOK_EVERY


@pytest.mark.parametrize(
    ("values", "where", "what"),
    [
        ({"model": ""}, "synthesis.teacher.model", "no model is named"),
        ({"model": "no/such/model.gguf"}, "synthesis.teacher.model", "no such model: no/such/model.gguf"),
        ({"extra": {"top_k": 3}}, "synthesis.teacher.extra", "knows no field 'top_k'"),
        ({"extra": {"top_p": 0}}, "synthesis.teacher.extra", "top_p = 0 is no number"),
    ],
)
def test_errors_before_loading(base: Path, values: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as error:
        LocalTeacher(asked(values.pop("model", base), **values))
    assert error.value.where == where


def test_a_model_that_cannot_be_loaded(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "t5", "vocab_size": 400}')
    with pytest.raises(UserError) as error:
        replies(LocalTeacher(asked(tmp_path / "m"), "synthesis.judge"), [request("a"), request("b")])
    assert error.value.where.startswith(f"synthesis.judge.model, {tmp_path}")
    assert "\n" not in error.value.what
