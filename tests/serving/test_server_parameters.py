"""Parameters of requests: what is read, what is refused and how, what is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.serving.engine.request import Sampling
from pipeline.serving.server.api_error import ApiError
from pipeline.serving.server.json_body import parsed
from pipeline.serving.server.parameters import chat_request, completion_request

MESSAGES = [{"role": "user", "content": "Hello."}]


def chat(**more: Any) -> Any:
    return chat_request({"model": "tiny", "messages": MESSAGES, **more}, 100)


def refused(**more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(**more)
    assert caught.value.status == 400
    assert caught.value.content["error"]["type"] == "invalid_request_error"
    return caught.value


def test_a_request_without_parameters_is_greedy_and_as_long_as_may_be() -> None:
    asked = chat().parameters
    assert (asked.sampling, asked.max_tokens, asked.choices, asked.stop) == (Sampling(), None, 1, ())
    assert (asked.top_logprobs, asked.stream, asked.include_usage) == (None, False, False)
    assert chat(temperature=None, stop=None, n=None, seed=None, stream=None).parameters == asked


def test_every_parameter_reaches_the_engine() -> None:
    asked = chat(
        temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, frequency_penalty=-2, presence_penalty=2, seed=42,
        max_completion_tokens=7, n=3, stop=["a", "b"], logprobs=True, top_logprobs=5, stream=True,
        stream_options={"include_usage": True},
    ).parameters  # fmt: skip
    assert asked.sampling == Sampling(0.7, 0.9, 40, 1.1, -2.0, 2.0, 42)
    assert (asked.max_tokens, asked.choices, asked.stop, asked.top_logprobs) == (7, 3, ("a", "b"), 5)
    assert asked.stream
    assert asked.include_usage
    assert chat(logprobs=True).parameters.top_logprobs == 0
    assert chat(top_k=-1).parameters.sampling.top_k == 0
    assert chat(temperature=1, top_p=0).parameters.sampling == Sampling()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("temperature", 2.1, "decimal_above_max_value"), ("temperature", -0.1, "decimal_below_min_value"),
        ("temperature", "hot", "invalid_type"), ("temperature", True, "invalid_type"),
        ("temperature", float("inf"), "invalid_type"), ("top_p", 1.5, "decimal_above_max_value"),
        ("frequency_penalty", 3, "decimal_above_max_value"), ("presence_penalty", -3, "decimal_below_min_value"),
        ("repetition_penalty", 0, "decimal_below_min_value"), ("n", 0, "integer_below_min_value"),
        ("n", 9, "integer_above_max_value"), ("n", 1.5, "invalid_type"), ("max_tokens", 0, "integer_below_min_value"),
        ("max_tokens", 101, "integer_above_max_value"), ("max_completion_tokens", 101, "integer_above_max_value"),
        ("seed", 2**63, "integer_above_max_value"), ("seed", "x", "invalid_type"),
        ("stop", ["a"] * 5, "array_above_max_length"), ("stop", "", "empty_string"), ("stop", [1], "invalid_type"),
        ("stop", "x" * 257, "string_above_max_length"), ("stream", "yes", "invalid_type"),
        ("top_logprobs", 3, "invalid_value"), ("stream_options", {}, "invalid_value"),
        ("messages", "hi", "invalid_type"), ("messages", None, "missing_required_parameter"),
        ("model", None, "missing_required_parameter"), ("model", 3, "invalid_type"),
        ("temprature", 1, "unknown_parameter"), ("prompt", "x", "unknown_parameter"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(name: str, value: Any, code: str) -> None:
    error = refused(**{name: value})
    assert (error.param, error.code) == (name, code)


def test_a_misspelt_parameter_gets_the_right_name() -> None:
    assert "did you mean temperature?" in refused(temprature=1).message


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tool_choice": "required"},
        {"response_format": {"type": "json_schema", "json_schema": {}}}, {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"]}, {"audio": {"voice": "x"}}, {"logit_bias": {"5": 100}}, {"functions": [{}]},
        {"web_search_options": {}}, {"reasoning_effort": "high"}, {"prediction": {"type": "content", "content": "x"}},
        {"best_of": 2}, {"echo": True}, {"echo": 0}, {"suffix": "x"},
    ],
)  # fmt: skip
def test_what_would_change_the_answer_and_is_not_supported_is_refused(more: dict[str, Any]) -> None:
    error = refused(**more)
    assert (error.param, error.code) == (next(iter(more)), "unsupported_parameter")


def test_what_asks_for_nothing_is_taken() -> None:
    plain = chat()
    same = chat(
        user="u", metadata={"a": "b"}, store=True, tools=[], tool_choice="none", response_format={"type": "text"},
        modalities=["text"], audio=None, logit_bias={}, parallel_tool_calls=True, service_tier="auto",
    )  # fmt: skip
    assert same == plain


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3))), ("", ("",)),
        ([], ((),)),
    ],
)  # fmt: skip
def test_prompts_of_a_completion(prompt: Any, prompts: Any) -> None:
    assert completion_request({"model": "m", "prompt": prompt}, 100).prompts == prompts


def test_a_completion_has_openais_own_defaults() -> None:
    asked = completion_request({"model": "m", "prompt": "a"}, 100).parameters
    assert (asked.max_tokens, asked.top_logprobs) == (16, None)
    assert completion_request({"model": "m", "prompt": "a"}, 8).parameters.max_tokens == 8
    assert completion_request({"model": "m", "prompt": "a", "logprobs": 0}, 100).parameters.top_logprobs == 0


@pytest.mark.parametrize("prompt", [None, 3, {"a": 1}, [1, "a"], ["a", None], [True], [["a"]], ["x"] * 65])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(ApiError) as caught:
        completion_request({"model": "m", "prompt": prompt}, 100)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}',
        b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", b'{"a": "\\ud800"}', b'{"\\udc00": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_plain_object_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(data)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_body_keeps_its_letters() -> None:
    assert parsed('{"a": "한\\ud55c\\ud83d\\ude00\\u0000"}'.encode()) == {"a": "한한😀\0"}
