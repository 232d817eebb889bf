"""The server over the real engine, with a tiny base, its export and an adapter, driven by the stock `openai` client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.store.folder import Store
from tests.helpers.scripted_engine import served_engine, wait_for
from tests.helpers.stored_adapters import put

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.serving

QUESTION: Any = [{"role": "user", "content": "Name a colour."}]
TALK: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "하나 더 말해 주세요."},
]


@pytest.fixture(scope="module")
def running(tuned: tuple[Config, Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    from pipeline.serving.engine.open import open_engine

    config, run = tuned
    store = Store(tmp_path_factory.mktemp("store"))
    put(store, "poems", config, 1)
    serve = config.serve.model_copy(update={"parallel": 4, "queue": 16})
    config = config.model_copy(update={"serve": serve})
    engine, models = open_engine(config, run, store)
    with served_engine(config, run, engine, models) as (host, port, state):
        yield f"http://{host}:{port}/v1", state


@pytest.fixture(scope="module")
def client(running: tuple[str, Any]) -> Iterator[Any]:
    with openai.OpenAI(base_url=running[0], api_key="none", max_retries=0) as made:
        yield made


def generated(folder: Path, ids: list[int], most: int) -> list[int]:
    """Greedy ids of stock transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        made = model.generate(torch.tensor([ids]), max_new_tokens=most, do_sample=False)
    return list(made[0, len(ids) :].tolist())


def test_base_export_and_adapter_are_served(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["base", "tiny", "poems"]


@pytest.mark.parametrize("messages", [QUESTION, TALK])
def test_an_answer_is_that_of_stock_transformers(client: Any, tuned: tuple[Config, Run], messages: Any) -> None:
    """From the exported folder alone: its chat template, its weights, its end token."""
    folder = tuned[1].folder("export")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    expected = generated(folder, ids, 20)
    reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, logprobs=True)
    assert reply.usage.prompt_tokens == len(ids)
    assert reply.choices[0].message.content == tokenizer.decode(expected, skip_special_tokens=True)
    stream = client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == reply.choices[0].message.content


def test_logprobs_are_those_of_the_model(client: Any, tuned: tuple[Config, Run]) -> None:
    folder = tuned[1].folder("export")
    reply = client.completions.create(model="tiny", prompt=[[5, 6, 7]], max_tokens=3, logprobs=5)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        first = model(torch.tensor([[5, 6, 7]])).logits[0, -1].log_softmax(-1)
    scored = reply.choices[0].logprobs
    assert scored.token_logprobs[0] == pytest.approx(float(first.max()), abs=1e-4)
    assert max(scored.top_logprobs[0].values()) == pytest.approx(float(first.max()), abs=1e-4)


def test_models_differ_and_answer_at_the_same_time(running: tuple[str, Any]) -> None:
    async def ask(client: Any, model: str) -> str:
        reply = await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=12)
        return str(reply.choices[0].message.content)

    async def answers(models: list[str]) -> list[str]:
        async with openai.AsyncOpenAI(base_url=running[0], api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, model) for model in models))

    alone = [asyncio.run(answers([model]))[0] for model in ("base", "tiny", "poems")]
    assert alone[2] not in alone[:2]
    assert asyncio.run(answers(["base", "tiny", "poems"] * 4)) == alone * 4


def test_a_seed_gives_the_same_answer_again(client: Any) -> None:
    def text(seed: int | None, **more: Any) -> list[str]:
        reply = client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=12, temperature=1.5, seed=seed, **more
        )
        return [choice.message.content for choice in reply.choices]

    assert text(5) == text(5)
    assert text(5) != text(6)
    assert text(5, n=2) == text(5) + text(6)  # each choice has the next seed


def test_a_stop_text_of_the_models_own_answer(client: Any) -> None:
    wholes = {
        id: client.completions.create(model="base", prompt=[id], max_tokens=12).choices[0].text for id in range(5, 25)
    }
    id, whole = max(wholes.items(), key=lambda item: len(item[1]))
    stop = whole[3:6]
    assert len(stop) == 3
    reply = client.completions.create(model="base", prompt=[id], max_tokens=12, stop=[stop]).choices[0]
    assert (reply.text, reply.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_an_answer_that_goes_on(client: Any, tuned: tuple[Config, Run]) -> None:
    folder, begun = tuned[1].folder("export"), "The sky is"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = list(tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False))
    ids += tokenizer(begun, add_special_tokens=False).input_ids
    messages = [*QUESTION, {"role": "assistant", "content": begun}]
    reply = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=8, extra_body={"continue_final_message": True}
    )
    assert reply.usage.prompt_tokens == len(ids)
    assert reply.choices[0].message.content == tokenizer.decode(generated(folder, ids, 8), skip_special_tokens=True)


def test_a_client_that_leaves_frees_the_slot_of_the_engine(client: Any, running: tuple[str, Any]) -> None:
    engine = running[1].loaded.engine
    stream = client.completions.create(model="base", prompt="The", max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: engine.status().running == 0)


def test_a_prompt_beyond_the_context(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="the model sees 512") as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "word " * 600}])
    assert caught.value.code == "context_length_exceeded"
