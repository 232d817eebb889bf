"""What a server's words and headers mean, and what a user reads of it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.api.failure import Failure, Who, user_error, wait_of

JUDGE = Who("the judge", "judge", "j", "http://localhost/v1", 9, 2)
TEACHER = Who("the teacher", "synthesis.teacher", "t", "http://localhost/v1", 9, 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"date": "Mon, 01 Jan 2024 00:00:00 GMT", "retry-after": "Mon, 01 Jan 2024 00:00:30 GMT"}, 30.0),
        ({"date": "Mon, 01 Jan 2024 00:01:00 GMT", "retry-after": "Mon, 01 Jan 2024 00:00:30 GMT"}, 0.0),
    ],
)
def test_how_long_a_server_wants_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_of(headers) == seconds


def test_a_date_without_the_servers_own_is_compared_with_this_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1704067200.0)
    assert wait_of({"retry-after": "Mon, 01 Jan 2024 00:00:07 GMT"}) == 7.0


@pytest.mark.parametrize(
    ("detail", "is_own"),
    [
        ("This model's maximum context length is 4096 tokens", True),
        ("prompt is too long: 9000 tokens", True),
        ("The response was filtered due to the prompt triggering content management policy", True),
        ("input exceeds the context window", True),
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", False),
        ("temperature must be 1", False),
        ("unknown field", False),
    ],
)
def test_what_is_the_fault_of_one_text(detail: str, is_own: bool) -> None:
    assert Failure("request", detail, 400).is_own_fault is is_own
    assert not Failure("server", detail, 500).is_own_fault


@pytest.mark.parametrize("who", [JUDGE, TEACHER])
@pytest.mark.parametrize(
    ("kind", "said", "key"),
    [
        ("timeout", "did not answer within 9 s", "timeout"), ("connection", "cannot be reached", "base_url"),
        ("key", "refuses the key", "key"), ("model", "no model", "model"), ("busy", "is busy", "parallel"),
        ("request", "refuses the request", "temperature=null"), ("no-api", "does not speak the API", "base_url"),
        ("size", "larger", "timeout"),
    ],
)  # fmt: skip
def test_messages_name_the_keys_of_their_section(who: Who, kind: Any, said: str, key: str) -> None:
    error = user_error(Failure(kind, "larger than", 400), who)
    assert said in error.what
    assert f"{who.section}.{key}" in error.fix
    assert error.where == who.url


def test_tries_are_told() -> None:
    assert "after 3 tries" in user_error(Failure("busy", "", 429), JUDGE).what
    assert "at the first try" in user_error(Failure("busy", "", 429), TEACHER).what


def test_a_refused_field_is_named() -> None:
    failure = Failure("request", "bad", 400, "top_p")
    assert user_error(failure, TEACHER).fix == "change what synthesis.teacher says of top_p"
