"""Every fault of a server ends in a reply, a request given up, or one message; no secret is in any file."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.asker import GaveUp
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply
from tests.helpers.asking import asked, request, settings
from tests.helpers.teacher_server import Answer, completion, error, prompt, serving

pytest.importorskip("openai", reason="needs openai (extra `judge`)")
pytestmark = pytest.mark.judge


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.synthesis.api_teacher.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("pipeline.synthesis.api_teacher.LONGEST_PAUSE", 0.02)


def one(tmp_path: Path, says: Any, **teacher: Any) -> tuple[Any, Any]:
    """The outcome of one request, and the server."""
    with serving(says) as server:
        return asked(tmp_path / "j.jsonl", settings(server.url, **teacher), [request("hello")])[0], server


def test_a_request_and_its_reply(tmp_path: Path) -> None:
    with serving(lambda n, body: "Hi.") as server:
        reply = asked(tmp_path / "j.jsonl", settings(server.url), [request("hello", extra={"top_p": 0.9})])[0]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish, reply.model, reply.prompt_tokens) == ("Hi.", "stop", "stub-1", 40)
    assert reply.cost is None
    assert reply.time.endswith("+00:00")
    body, headers = server.calls[0]
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50,
                    "temperature": 0.7, "top_p": 0.9}  # fmt: skip
    assert headers["authorization"] == "Bearer none"
    assert Journal(tmp_path / "j.jsonl").reply(request("hello", extra={"top_p": 0.9}).key) == reply


def test_temperature_null_is_left_out(tmp_path: Path) -> None:
    with serving(lambda n, body: "x") as server:
        asked(
            tmp_path / "j.jsonl", settings(server.url), [request("a").__class__((("user", "a"),), 50, None, "m", "t")]
        )
    assert "temperature" not in server.calls[0][0]


AGAIN = {
    "busy": Answer(error("slow down"), 429),
    "busy, waits": Answer(error("slow down"), 429, {"retry-after-ms": "5"}),
    "busy, date": Answer(error("slow"), 429, {"date": "Mon, 01 Jan 2024 00:00:00 GMT",
                                             "retry-after": "Mon, 01 Jan 2024 00:00:09 GMT"}),
    "500": Answer(b"oh", 500),
    "503": Answer({}, 503),
    "reset": Answer(reset=True),
    "cut": Answer(completion("a"), cut=30),
    "no JSON": Answer(b"<html>"),
    "wrong schema": Answer({"hello": "world"}),
    "a list": Answer([1]),
    "no choices": Answer(completion("a", choices=[])),
    "no text": Answer(completion([1, 2])),
    "deep": Answer(b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("fault", AGAIN.values(), ids=AGAIN)
def test_a_fault_is_tried_again(tmp_path: Path, fault: Answer) -> None:
    reply, server = one(tmp_path, lambda n, body: fault if n <= 2 else "Hi.", retries=3)
    assert reply.text == "Hi."
    assert len(server.calls) == 3
    journal = Journal(tmp_path / "j.jsonl")
    # A try that was answered with a status is free; of any other the server may want money.
    assert journal.open_tokens == (0 if fault.status >= 400 else 2 * request("hello").most_tokens())
    assert journal.tokens + journal.open_tokens >= server.paid_tokens


@pytest.mark.parametrize("fault", [AGAIN["busy"], AGAIN["500"]], ids=["busy", "500"])
def test_tries_end(tmp_path: Path, fault: Answer) -> None:
    outcome, server = one(tmp_path, lambda n, body: fault, retries=2)
    assert isinstance(outcome, GaveUp)
    assert "after 3 tries" in str(outcome)
    assert len(server.calls) == 3


@pytest.mark.parametrize("answer", [Answer(silent=True), Answer(completion("a"), drips=True)], ids=["silent", "drips"])
def test_a_reply_that_never_ends(tmp_path: Path, answer: Answer) -> None:
    begin = time.monotonic()
    outcome, _ = one(tmp_path, lambda n, body: answer, retries=0, timeout=1)
    assert isinstance(outcome, GaveUp)
    assert "did not answer within 1 s" in str(outcome)
    assert time.monotonic() - begin < 30


def test_a_reply_that_is_too_large_is_not_paid_for_twice(tmp_path: Path) -> None:
    outcome, server = one(tmp_path, lambda n, body: Answer(b" " * (3 << 20)), retries=3)
    assert isinstance(outcome, GaveUp)
    assert "larger than 2 MB" in str(outcome)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("answer", "said", "fix"),
    [
        (
            Answer(error("Incorrect key: top-secret"), 401),
            r"the teacher refuses the key \(401\).*\[key\]",
            "teacher.key",
        ),
        (Answer(error("no"), 403), "refuses the key", "synthesis.teacher.key"),
        (Answer(error("unknown"), 404), "no model 'm' at this address", "synthesis.teacher.model"),
        (Answer(error("pay", code="insufficient_quota"), 429), "no money left", "add money"),
        (Answer(error("pay"), 402), "no money left", "add money"),
        (
            Answer(error("bad", param="temperature"), 400),
            "refuses the request .400.",
            "synthesis.teacher.temperature=null",
        ),
        (Answer(error("bad", param="top_p"), 400), "refuses the request .400.", "top_p"),
    ],
)
def test_what_no_request_can_pass_stops_at_once(
    tmp_path: Path, answer: Answer, said: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "top-secret")
    with serving(lambda n, body: answer) as server:
        section = settings(server.url, key="MINE", parallel=4)
        outcomes = asked(tmp_path / "j.jsonl", section, [request(f"q{i}") for i in range(50)])
    errors = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
    assert errors
    with pytest.raises(UserError, match=said):
        raise errors[0]
    assert fix in errors[0].fix
    assert len(server.calls) <= 8
    assert "top-secret" not in "".join(map(str, errors)) + (tmp_path / "j.jsonl").read_text()
    assert Journal(tmp_path / "j.jsonl").open_tokens == 0


def test_an_address_that_nothing_answers_at(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    outcome = asked(tmp_path / "j.jsonl", settings(url), [request("a")])[0]
    assert isinstance(outcome, UserError)
    assert "the teacher cannot be reached, after 3 tries" in outcome.what
    assert outcome.where == url


def test_a_text_that_is_refused_is_journaled_and_not_asked_again(tmp_path: Path) -> None:
    too_long = Answer(error("This model's maximum context length is 8 tokens", code="context_length_exceeded"), 400)
    with serving(lambda n, body: too_long if prompt(body) == "hello" else "x") as server:
        for _ in range(2):
            reply, other = asked(tmp_path / "j.jsonl", settings(server.url), [request("hello"), request("b")])
            assert isinstance(reply, Reply)
            assert (reply.text, reply.prompt_tokens, reply.cost) == ("", 0, None)
            assert "maximum context length" in reply.failure
            assert isinstance(other, Reply)
        assert len(server.calls) == 2
    assert Journal(tmp_path / "j.jsonl").open == {}


def test_a_refusal_that_may_be_the_configs_fault_is_not_journaled(tmp_path: Path) -> None:
    outcome, server = one(tmp_path, lambda n, body: Answer(error("odd"), 400))
    assert isinstance(outcome, GaveUp)
    assert len(server.calls) == 1
    assert len(Journal(tmp_path / "j.jsonl")) == 0


def test_nothing_but_errors_ends_the_command(tmp_path: Path) -> None:
    with serving(lambda n, body: "x" if n == 1 else Answer(error("down"), 503 if n % 2 else 429)) as server:
        section = settings(server.url, parallel=4, retries=5)
        first = asked(tmp_path / "j.jsonl", section, [request("first")])
        outcomes = asked(tmp_path / "j.jsonl", section, [request(f"q{i}") for i in range(100)])
    assert isinstance(first[0], Reply)
    error_, *_ = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
    assert "tries gave no reply (" in error_.what
    assert "busy" in error_.what
    assert "server error" in error_.what
    assert "same command goes on" in error_.fix
    assert len(server.calls) < 100
    assert len(Journal(tmp_path / "j.jsonl")) == 1


def test_the_limit_falls_while_the_server_is_busy(tmp_path: Path) -> None:
    """A server that takes 4 at a time and refuses the rest; nothing is given up while some succeed."""
    state: dict[str, Any] = {}

    def says(number: int, body: dict[str, Any]) -> Any:
        server = state["server"]
        return Answer(error("busy"), 429) if server.at_once > 4 else Answer(completion("x"), delay=0.005)

    with serving(says) as server:
        state["server"] = server
        section = settings(server.url, parallel=64)
        outcomes = asked(tmp_path / "j.jsonl", section, [request(f"q{i}") for i in range(150)])
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    assert len(server.paid) == 150


@pytest.mark.parametrize("parallel", [1, 64])
def test_no_more_at_once_than_the_config_says(tmp_path: Path, parallel: int) -> None:
    with serving(lambda n, body: Answer(completion("x"), delay=0.005)) as server:
        outcomes = asked(
            tmp_path / "j.jsonl", settings(server.url, parallel=parallel), [request(f"q{i}") for i in range(200)]
        )
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    assert server.most_at_once <= parallel


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("mode", "form"),
    [("auto", "json_schema"), ("schema", "json_schema"), ("object", "json_object"), ("text", None)],
)
def test_forms_of_a_reply(tmp_path: Path, mode: str, form: str | None) -> None:
    with serving(lambda n, body: "{}") as server:
        asked(tmp_path / "j.jsonl", settings(server.url, json_mode=mode), [request("a", schema=SCHEMA), request("b")])
    formats = sorted(str(body.get("response_format", {}).get("type")) for body, _ in server.calls)
    assert formats == sorted([str(form), "None"])


@pytest.mark.parametrize("words", ["response_format is not supported", "unknown field"])
def test_a_server_without_schemas_is_asked_for_text(tmp_path: Path, words: str) -> None:
    refusal = Answer(error(words), 400)
    with serving(lambda n, body: refusal if "response_format" in body else "{}") as server:
        requests = [request(f"q{i}", schema=SCHEMA) for i in range(20)]
        outcomes = asked(tmp_path / "j.jsonl", settings(server.url, parallel=1), requests)
    assert all(isinstance(outcome, Reply) and outcome.text == "{}" for outcome in outcomes)
    assert len(server.calls) == 21
    assert Journal(tmp_path / "j.jsonl").tokens == server.paid_tokens


def test_max_tokens_by_its_newer_name(tmp_path: Path) -> None:
    refusal = Answer(error("Unsupported: use 'max_completion_tokens' instead.", param="max_tokens"), 400)
    with serving(lambda n, body: refusal if "max_tokens" in body else "x") as server:
        outcomes = asked(tmp_path / "j.jsonl", settings(server.url, parallel=1), [request("a"), request("b")])
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    assert len(server.calls) == 3
    assert server.calls[-1][0]["max_completion_tokens"] == 50


@pytest.mark.parametrize(
    "usage", [None, {}, [1], {"prompt_tokens": -5, "completion_tokens": True},
              {"prompt_tokens": 1e9, "completion_tokens": "9"}, {"prompt_tokens": 0, "completion_tokens": 0},
              {"prompt_tokens": 10**12, "completion_tokens": 10**15}],
)  # fmt: skip
def test_tokens_that_the_server_does_not_count_are_counted_as_the_most(tmp_path: Path, usage: Any) -> None:
    reply, _ = one(tmp_path, lambda n, body: Answer(completion("Hi.", usage=usage)))
    assert (reply.prompt_tokens, reply.completion_tokens) == (request("hello").most_tokens() - 50, 50)


def test_other_ends_of_a_reply(tmp_path: Path) -> None:
    def choice(finish: Any, **message: Any) -> Answer:
        return Answer(completion("", choices=[{"finish_reason": finish, "message": {"role": "assistant", **message}}]))

    answers = {
        "length": choice("length", content="half a"), "filter": choice("content_filter", content=None),
        "refusal": choice("stop", content=None, refusal="I cannot"), "odd": choice(5, content="x"),
    }  # fmt: skip
    with serving(lambda n, body: answers[prompt(body)]) as server:
        replies = asked(tmp_path / "j.jsonl", settings(server.url), [request(name) for name in answers])
    assert [(r.text, r.finish, r.failure) for r in replies if isinstance(r, Reply)] == [
        ("half a", "length", ""), ("", "content_filter", ""), ("", "stop", "the model refuses: I cannot"),
        ("x", "stop", ""),
    ]  # fmt: skip


def test_a_server_that_repeats_the_key_does_not_bring_it_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "top-secret")
    reply, server = one(tmp_path, lambda n, body: Answer(completion("top-secret", model="top-secret")), key="MINE")
    assert server.calls[0][1]["authorization"] == "Bearer top-secret"
    assert (reply.text, reply.model) == ("[key]", "[key]")
    assert "top-secret" not in (tmp_path / "j.jsonl").read_text()


def test_half_characters_in_a_prompt_are_sent_as_question_marks(tmp_path: Path) -> None:
    with serving(lambda n, body: "\ud83d 한글") as server:
        reply = asked(tmp_path / "j.jsonl", settings(server.url), [request("a \ud800 나")])[0]
    assert prompt(server.calls[0][0]) == "a ? 나"
    assert isinstance(reply, Reply)
    assert Journal(tmp_path / "j.jsonl").reply(request("a \ud800 나").key) == reply


def test_a_prompt_that_cannot_fit_is_not_sent(tmp_path: Path) -> None:
    outcome, server = one(tmp_path, lambda n, body: "x", context=40)
    assert isinstance(outcome, GaveUp)
    assert "(synthesis.teacher.context)" in str(outcome)
    assert not server.calls


def test_prompts_that_never_fit_end_the_command(tmp_path: Path) -> None:
    section = settings("http://127.0.0.1:9/v1", context=40)
    outcomes = asked(tmp_path / "j.jsonl", section, [request(f"q{i}") for i in range(30)])
    errors = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
    assert "do not fit into 40" in errors[0].what
    assert "synthesis.teacher.max_tokens" in errors[0].fix


def test_the_clock_may_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: next(times))
    reply, _ = one(tmp_path, lambda n, body: AGAIN["busy, waits"] if n <= 2 else "Hi.", retries=3)
    assert reply.text == "Hi."
    assert 0 <= reply.seconds < 30
