"""The stock `openai` client, sync and async, against the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.prompt.any_encoder import AnyEncoder
from tests.helpers.scripted_engine import Served, says, served, wait_for

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.serving

ANSWER = "The sky is 파란색 today."
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def server(encoder: AnyEncoder) -> Iterator[Served]:
    with served(Config(name="tiny"), encoder, says(encoder, ANSWER), token="secret") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as made:
        yield made


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "base", "other"]
    assert client.models.retrieve("base").object == "model"


def test_a_chat(client: Any, server: Served) -> None:
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, seed=1, user="someone")
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert list(server.engine.requests[-1].ids) == server.encoder.prompt("Be brief.\n\nName a colour.")


def test_a_stream_with_usage(client: Any) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, stop=["today"]
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The sky is 파란색 "
    assert chunks[-1].usage.completion_tokens > 0


def test_the_clients_own_stream_helper_puts_the_answer_together(client: Any) -> None:
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=1, n=2) as stream:
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [ANSWER, ANSWER]
    spelt = b"".join(bytes(token.bytes) for token in final.choices[1].logprobs.content)
    assert spelt.decode() == ANSWER


def test_completions(client: Any) -> None:
    reply = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=100, logprobs=1)
    assert [choice.text for choice in reply.choices] == [ANSWER, ANSWER]
    assert len(reply.choices[0].logprobs.tokens) == len(reply.choices[0].logprobs.token_logprobs)
    stream = client.completions.create(model="tiny", prompt="a", max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == ANSWER


def test_extras_pass_in_the_extra_body(client: Any, server: Served) -> None:
    extra = {"top_k": 5, "repetition_penalty": 1.2, "input": "red, blue"}
    client.chat.completions.create(model="tiny", messages=MESSAGES[1:], temperature=0.5, extra_body=extra)
    asked = server.engine.requests[-1]
    assert (asked.sampling.top_k, asked.sampling.repetition_penalty) == (5, 1.2)
    assert list(asked.ids) == server.encoder.prompt("Name a colour.", "red, blue")


def test_errors_are_the_clients_own_kinds(client: Any, server: Served) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=5)
    assert (bad.value.param, bad.value.code) == ("temperature", "decimal_above_max_value")
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[{"type": "function"}])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    server.engine.failure = "out of memory"
    try:
        with pytest.raises(openai.APIError, match="out of memory"):
            list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))
    finally:
        server.engine.failure = ""


def test_the_client_waits_and_asks_again_when_the_queue_is_full(encoder: AnyEncoder) -> None:
    settings = Config.model_validate({"name": "tiny", "serve": {"parallel": 1, "queue": 0}})
    with served(settings, encoder, says(encoder, ANSWER)) as server:

        async def two() -> list[Any]:
            server.engine.pause = 0.02
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=3) as client:
                asked = [client.chat.completions.create(model="tiny", messages=MESSAGES) for _ in range(2)]
                return await asyncio.gather(*asked)

        assert [reply.choices[0].message.content for reply in asyncio.run(two())] == [ANSWER, ANSWER]
        assert server.state.metrics._refusals > 0


def test_many_async_streams_and_one_that_is_left(server: Served) -> None:
    async def ask(client: Any, leave: bool) -> str:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if leave and text:
                await stream.close()
                return text
        return text

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number == 3) for number in range(20)))

    texts = asyncio.run(all_of_them())
    assert texts[3] != ANSWER
    assert [text for number, text in enumerate(texts) if number != 3] == [ANSWER] * 19
    wait_for(lambda: server.engine.status().running == 0)
