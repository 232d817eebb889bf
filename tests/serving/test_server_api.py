"""OpenAI's API over a scripted engine: forms of replies, streams, and how answers end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.serving.engine.request import Sampling
from tests.helpers.scripted_engine import Served, says, served, wait_for

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.serving

ANSWER = "The sky is 파란색 today."
QUESTION = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def server(encoder: AnyEncoder) -> Iterator[Served]:
    with served(Config(name="tiny"), encoder, says(encoder, ANSWER)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: Served) -> None:
    server.engine.requests.clear()
    server.engine.pause, server.engine.failure = 0.0, ""


def chunks(events: list[Any]) -> list[dict[str, Any]]:
    return [event["choices"][0] for event in events[:-1] if event["choices"]]


def test_models(server: Served) -> None:
    reply = server.ask("GET", "/v1/models")
    assert [one["id"] for one in reply.json["data"]] == ["tiny", "base", "other"]
    assert {one["object"] for one in reply.json["data"]} == {"model"}
    assert server.ask("GET", "/v1/models/other").json["id"] == "other"
    for missing in (server.ask("GET", "/v1/models/nope"), server.post("/v1/completions", model="nope", prompt="x")):
        assert (missing.status, missing.error["code"], missing.error["param"]) == (404, "model_not_found", "model")


def test_a_chat_completion(server: Served) -> None:
    reply = server.chat()
    assert reply.status == 200
    value = reply.json
    assert value["object"] == "chat.completion"
    assert value["id"].startswith("chatcmpl-")
    assert value["model"] == "tiny"
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    assert value["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    asked = server.engine.requests[0]
    assert list(asked.ids) == server.encoder.prompt("Name a colour.")
    new = len(server.encoder.tokenizer.encode_after([ANSWER])[0]) + 1  # the end token
    count = len(asked.ids)
    assert value["usage"] == {"prompt_tokens": count, "completion_tokens": new, "total_tokens": count + new}
    assert (asked.model, asked.max_tokens, asked.sampling) == ("tiny", 200 - count, Sampling())
    assert asked.end_ids == {server.encoder.end_id}


def test_a_stream_is_role_deltas_reason_done(server: Served) -> None:
    reply = server.chat(stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.events
    assert events[-1] == "[DONE]"
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events[:-1]}) == 1
    assert all("usage" not in event for event in events[:-1])
    first, *middle, last = chunks(events)
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert all(set(one["delta"]) == {"content"} and one["finish_reason"] is None for one in middle)
    assert "".join(one["delta"]["content"] for one in middle) == ANSWER
    assert all("\ufffd" not in one["delta"]["content"] for one in middle)  # whole letters
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


def test_usage_of_a_stream_comes_last(server: Served) -> None:
    events = server.chat(stream=True, stream_options={"include_usage": True}).events
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == server.chat().json["usage"]
    assert all(event["usage"] is None for event in events[:-2])


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off(server: Served, stream: bool) -> None:
    reply = server.chat(max_tokens=5, stream=stream)
    choice = chunks(reply.events)[-1] if stream else reply.json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert server.engine.requests[0].max_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_is_not_in_the_answer(server: Served, stream: bool) -> None:
    reply = server.chat(stop=["색 t", "today"], stream=stream)
    if stream:
        text = "".join(one["delta"].get("content", "") for one in chunks(reply.events))
        choice = chunks(reply.events)[-1]
    else:
        choice = reply.json["choices"][0]
        text = choice["message"]["content"]
    assert text == "The sky is 파란"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "색 t")
    wait_for(lambda: server.engine.status().running == 0)


def test_choices_differ_by_their_seed_and_are_counted(server: Served) -> None:
    reply = server.chat(n=3, seed=7, temperature=0.7)
    assert [one["index"] for one in reply.json["choices"]] == [0, 1, 2]
    assert sorted(asked.sampling.seed or 0 for asked in server.engine.requests) == [7, 8, 9]
    count = len(server.engine.requests[0].ids)
    assert reply.json["usage"]["prompt_tokens"] == count
    streamed = server.chat(n=3, stream=True).events
    for index in range(3):
        own = [one for event in streamed[:-1] for one in event["choices"] if one["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(one["delta"].get("content", "") for one in own) == ANSWER
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == ["stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_chat(server: Served, stream: bool) -> None:
    reply = server.chat(logprobs=True, top_logprobs=2, stream=stream)
    if stream:
        content = [t for one in chunks(reply.events)[1:] for t in one["logprobs"]["content"]]
    else:
        content = reply.json["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == ANSWER
    assert [one["logprob"] for one in content] == [-0.5] * len(content)
    assert all([two["logprob"] for two in one["top_logprobs"]] == [-0.5, -1.5] for one in content)
    assert content[0]["token"] == "T"


def test_logprobs_end_with_the_text(server: Served) -> None:
    choice = server.chat(logprobs=True, stop="색").json["choices"][0]
    spelt = b"".join(bytes(one["bytes"]) for one in choice["logprobs"]["content"]).decode()
    assert spelt == choice["message"]["content"] == "The sky is 파란"


def test_an_impossible_token_has_a_finite_logprob(server: Served) -> None:
    from pipeline.serving.server.answer import Scored
    from pipeline.serving.server.replies import ChatForm
    from pipeline.serving.server.token_text import TokenText

    form = ChatForm("tiny", TokenText(server.encoder.tokenizer), True)
    choice = form.choice(0, "x", [Scored(5, float("-inf"), (), 0)], "stop")
    assert json.loads(json.dumps(choice, allow_nan=False))["logprobs"]["content"][0]["logprob"] == -9999.0


def test_a_completion_with_logprobs(server: Served) -> None:
    reply = server.post("/v1/completions", model="base", prompt="The", max_tokens=100, logprobs=2).json
    assert reply["object"] == "text_completion"
    choice = reply["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (ANSWER, "stop")
    scored = choice["logprobs"]
    assert len({len(values) for values in scored.values()}) == 1
    assert [ANSWER[at] for at, token in zip(scored["text_offset"], scored["tokens"], strict=True) if token == "T"] == [
        "T"
    ]
    assert scored["text_offset"][-1] == len(ANSWER) - 1
    assert list(server.engine.requests[0].ids) == server.encoder.tokenizer.encode(["The"])[0]
    assert server.engine.requests[0].model == "base"


def test_several_prompts_and_ids(server: Served) -> None:
    reply = server.post("/v1/completions", model="tiny", prompt=[[5, 6], [7]], n=2, max_tokens=1).json
    assert [one["index"] for one in reply["choices"]] == [0, 1, 2, 3]
    assert [asked.ids for asked in server.engine.requests] == [(5, 6), (5, 6), (7,), (7,)]
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    events = server.post("/v1/completions", model="tiny", prompt=["a", "b"], max_tokens=100, stream=True).events
    for index in (0, 1):
        assert "".join(one["text"] for one in chunks(events) if one["index"] == index) == ANSWER


def test_an_answer_goes_on(server: Served) -> None:
    asked = [*QUESTION, {"role": "assistant", "content": "The sky"}]
    reply = server.post("/v1/chat/completions", model="tiny", messages=asked, continue_final_message=True)
    assert reply.json["choices"][0]["message"]["content"] == ANSWER  # what is new
    assert list(server.engine.requests[0].ids) == server.encoder.prompt("Name a colour.", "", "The sky")


def test_a_prompt_without_room_for_an_answer(server: Served) -> None:
    text = "word " * 300
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        ("/v1/completions", {"prompt": text}),
    ):
        reply = server.post(path, model="tiny", stream=True, **body)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        count = len(server.encoder.tokenizer.encode([text])[0])
        assert "sees 200" in reply.error["message"]
        assert any(f"{n:,}" in reply.error["message"] for n in range(count, count + 60))
    assert server.engine.requests == []
    fits = server.post("/v1/completions", model="tiny", prompt=[5] * 199, max_tokens=50)
    assert server.engine.requests[0].max_tokens == 1
    assert fits.json["choices"][0]["finish_reason"] == "length"
    assert server.post("/v1/completions", model="tiny", prompt=[5] * 200).status == 400


def test_a_failure_of_the_engine(server: Served) -> None:
    server.engine.failure = "out of memory"
    reply = server.chat()
    assert (reply.status, reply.error["type"], reply.error["message"]) == (500, "server_error", "out of memory")
    events = server.chat(stream=True).events
    assert events[-1]["error"]["message"] == "out of memory"
    assert "[DONE]" not in events


def test_errors_have_openais_form(server: Served) -> None:
    reply = server.chat(temperature=3)
    assert reply.status == 400
    assert reply.json == {"error": {
        "message": "temperature is at most 2.0, not 3", "type": "invalid_request_error", "param": "temperature",
        "code": "decimal_above_max_value",
    }}  # fmt: skip
    for path, method, status in (("/nope", "GET", 404), ("/v1/models", "POST", 405), ("/v1/completions", "GET", 405)):
        other = server.ask(method, path, {} if method == "POST" else None)
        assert other.status == status
        assert set(other.error) == {"message", "type", "param", "code"}


def test_the_prompt_of_a_request(server: Served) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "한글 </s>"}], "temperature": 1}
    reply = server.post("/suri/prompt", **asked).json
    assert reply["text"] == server.encoder.template.prompt("한글 </s>")
    assert [one["id"] for one in reply["tokens"]] == server.encoder.prompt("한글 </s>")
    assert "".join(one["text"] for one in reply["tokens"]) == reply["text"]
    assert (reply["count"], reply["context"]) == (len(reply["tokens"]), 200)
    long = server.post("/suri/prompt", model="tiny", messages=[{"role": "user", "content": "a " * 900}]).json
    assert long["count"] > long["context"]
    assert server.post("/suri/prompt", model="tiny", messages=[]).status == 400
    assert server.engine.requests == []


def test_info(server: Served) -> None:
    info = server.ask("GET", "/suri/info").json
    assert (info["run"], info["default_model"], info["status"]) == ("tiny", "tiny", "ready")
    assert info["limits"] == {"max_tokens": 1024, "body_bytes": 1 << 20, "queue": 64, "parallel": 8, "timeout": 300}
    template = server.encoder.template
    assert info["models"][2] == {
        "id": "other", "kind": "adapter", "template": {"id": template.id, "hash": template.hash}, "turns": False,
        "system": True, "input": True, "context": 200, "note": "", "ready": True,
    }  # fmt: skip


def test_questions_of_both_languages(server: Served) -> None:
    questions = server.ask("GET", "/suri/questions").json
    assert [one["language"] for one in questions] == ["en"] * 3 + ["ko"] * 3
    assert all(one["instruction"] for one in questions)


def test_the_run(encoder: AnyEncoder, tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0, "val_loss": 1.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = {"val": {"rows": 4, "loss": 2.5}}
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "results.json").write_text(
        json.dumps({"base": measured, "tuned": {"val": {"rows": 4, "loss": 0.5}}})
    )
    with served(Config(name="tiny"), encoder, says(encoder, "x"), root=tmp_path) as server:
        value = server.ask("GET", "/suri/run").json
    assert value["metrics"] == [{"step": 1.0, "loss": 2.0}, {"step": 3.0, "loss": 1.0, "val_loss": 1.5}]
    assert value["table"]["columns"] == ["", "base", "tuned"]
    assert value["table"]["rows"][0] == ["held-out rows: loss (4 rows)", "2.500", "0.500"]


def test_a_run_without_results(server: Served) -> None:
    assert server.ask("GET", "/suri/run").json == {"run": "tiny", "metrics": [], "table": {"columns": [], "rows": []}}


def test_health_and_requests_while_the_models_are_loading(encoder: AnyEncoder) -> None:
    with served(Config(name="tiny"), encoder, says(encoder, "x"), loaded=False) as server:
        health = server.ask("GET", "/health")
        assert (health.status, health.json) == (503, {"status": "loading"})
        assert server.ask("GET", "/suri/info").json["models"] == []
        for reply in (server.chat(), server.ask("GET", "/v1/models")):
            assert (reply.status, reply.error["code"]) == (503, "loading")
            assert int(reply.headers["retry-after"]) > 0
        assert "suri_ready 0\n" in server.ask("GET", "/metrics").data.decode()


def test_metrics(encoder: AnyEncoder) -> None:
    with served(Config(name="tiny"), encoder, says(encoder, ANSWER)) as server:
        assert server.ask("GET", "/health").json == {"status": "ready"}
        new = server.chat().json["usage"]["completion_tokens"]
        server.chat(temperature=9)
        server.ask("GET", "/some/random/path")
        reply = server.ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = reply.data.decode()
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    assert values['suri_requests_total{path="/v1/chat/completions",status="200"}'] == 1
    assert values['suri_requests_total{path="/v1/chat/completions",status="400"}'] == 1
    assert values['suri_requests_total{path="other",status="404"}'] == 1
    assert "random" not in text
    assert values["suri_new_tokens_total"] == new
    assert values["suri_time_to_first_token_seconds_count"] == values["suri_answer_tokens_count"] == 1
    assert values["suri_answer_tokens_sum"] == new
    assert values['suri_answer_tokens_bucket{le="+Inf"}'] == 1
    assert values["suri_ready"] == 1
    named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert all(any(name.startswith(one) for one in named) for name in values)
