"""The body of a request to a chat server, and its reply. What a server does not take is left out from then on.

    json_mode auto   response_format of type json_schema; none from the first time that the server refuses it
    max_tokens       max_completion_tokens from the first time that the server asks for that name

The key of a request stays the same, whatever form it is sent in: prompts say in words which JSON is wanted.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from pipeline.api.failure import Failure, text_of
from pipeline.api.key import clean, without_key
from pipeline.config.synthesis import Asked
from pipeline.synthesis.request import Reply, Request

MOST_TOKENS = 10**9  # more is no number of tokens
LONGEST_NAME = 200  # characters of the model's name, as the server gives it
FORMAT_WORDS = ("response_format", "json_schema", "json schema", "structured output", "guided", "grammar", "schema")


def most_of(request: Request) -> tuple[int, int]:
    """The most tokens of prompt and reply."""
    return request.most_tokens() - request.max_tokens, request.max_tokens


def now() -> str:
    """The time of a reply."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class NotTheApi(Exception):
    """A reply with another structure than a chat completion."""


class ChatForm:
    """The form in which one server is asked.

    Attributes:
        use_schema: whether schemas are sent. schema_works: whether one was ever taken.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.use_schema = asked.json_mode in ("auto", "schema")
        self.schema_works = False
        self.length_field = "max_tokens"

    def body(self, request: Request, plain: bool = False) -> dict[str, Any]:
        """Fields of the request's body; plain: without a form of the reply."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": role, "content": _sendable(text)} for role, text in request.messages],
            self.length_field: request.max_tokens,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None and not plain:
            if self.use_schema:
                schema = {"name": request.purpose, "strict": True, "schema": dict(request.schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": schema}
            elif self.asked.json_mode == "object":
                body["response_format"] = {"type": "json_object"}
        return {**request.extra, **body}

    def took(self, body: Mapping[str, Any]) -> None:
        """After a reply to this body."""
        self.schema_works = self.schema_works or "response_format" in body

    def adapts(self, failure: Failure, body: Mapping[str, Any]) -> bool:
        """Whether the server may take the same request in another form, which is used from now on."""
        if failure.kind != "request" and failure.code != 501:
            return False
        text = f"{failure.field} {failure.detail}".lower()
        if "max_completion_tokens" in text and "max_tokens" in body:
            self.length_field = "max_completion_tokens"
            return True
        if self.may_be_schema(failure, body) and any(word in text for word in FORMAT_WORDS):
            self.use_schema = False
            return True
        return False

    def may_be_schema(self, failure: Failure, body: Mapping[str, Any]) -> bool:
        """Whether it may be the schema that the server refuses, and auto allows to leave it out."""
        is_refusal = failure.kind == "request" or failure.code == 501
        return is_refusal and self.asked.json_mode == "auto" and "response_format" in body and not self.schema_works


def reply_of(data: Any, most: tuple[int, int], key: str) -> Reply:
    """The reply in a server's JSON.

    Args:
        most: tokens of prompt and reply that are counted where the server's numbers are missing or none.
        key: the secret one, which is taken out of the text.

    Raises:
        NotTheApi: it is no chat completion.
    """
    try:
        choice, usage = data["choices"][0], data.get("usage")
        text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        finish, model = choice.get("finish_reason"), data.get("model")
    except (AttributeError, LookupError, TypeError):
        raise NotTheApi(text_of(data)) from None
    if not isinstance(text, str | None):
        raise NotTheApi(text_of(data))
    text = without_key(text or "", key)
    failure = f"the model refuses: {without_key(refusal, key)[:300]}" if isinstance(refusal, str) and refusal else ""
    return Reply(
        text, finish if isinstance(finish, str) else "stop", failure,
        without_key(model, key)[:LONGEST_NAME] if isinstance(model, str) else "",
        _tokens(usage, "prompt_tokens", 1, most[0]),
        _tokens(usage, "completion_tokens", 1 if text else 0, most[1]),
        time=now(),
    )  # fmt: skip


def refusal_of(code: int, body: Any, key: str) -> Reply | None:
    """The reply that an error with this status is: its text is refused for good; None where it may be sent again."""
    detail = body.get("error", body) if isinstance(body, Mapping) else body
    text = str(detail.get("message", detail) if isinstance(detail, Mapping) else detail)
    failure = Failure("request" if 400 <= code < 500 else "server", clean(text, key), code)
    return failed(failure) if failure.is_own_fault else None


def failed(failure: Failure) -> Reply:
    """The reply to a request that is refused for good."""
    return Reply("", "error", f"{failure.code}: {failure.detail}", time=now())


def _tokens(usage: Any, name: str, least: int, most: int) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_TOKENS:
        return value
    return most


def _sendable(text: str) -> str:
    """The text with `?` for halves of characters (surrogates), which no server takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
