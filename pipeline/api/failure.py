"""What went wrong between the openai client and a server, in one place for `judge` and for teachers."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.api.body import Unbounded
from pipeline.api.key import clean
from pipeline.run.errors import UserError

Kind = Literal["key", "model", "quota", "busy", "server", "connection", "timeout", "request", "size", "no-api"]
AGAIN: tuple[Kind, ...] = ("busy", "server", "connection", "timeout", "no-api")  # another try may help
FREE: tuple[Kind, ...] = ("key", "model", "quota", "busy", "server", "request")  # a status instead of a reply
PAYMENT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")  # OpenAI's codes with 429
OWN_FAULT = re.compile(  # of one request's text: other requests may succeed
    r"context.{0,10}(length|window|size)|maximum (context|number of|input|prompt)|too (long|many tokens)|reduce the"
    r"|exceeds? .{0,40}(context|tokens|length)|content.?(filter|policy|management)|safety|flagged|moderation",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """One failed try.

    Attributes:
        detail: the server's words, without the key. code: HTTP status, 0 for none.
        field: of the request's body that the server refuses, where it names one.
        wait: seconds after which the server wants to be asked again; None where it does not say.
    """

    kind: Kind
    detail: str
    code: int = 0
    field: str = ""
    wait: float | None = None

    @property
    def is_own_fault(self) -> bool:
        """Whether the text of this one request is refused: it is too long, or a filter stopped it."""
        return self.kind == "request" and (self.code == 413 or bool(OWN_FAULT.search(self.detail)))


@dataclass(frozen=True)
class Who:
    """The model that failed, for messages.

    Attributes:
        name: in a sentence, such as `the judge`. section: of the config, such as `synthesis.teacher`.
        url: its address. timeout: seconds of a reply. retries: further tries.
    """

    name: str
    section: str
    model: str
    url: str
    timeout: float
    retries: int

    @property
    def tries(self) -> str:
        """Such as `after 3 tries`."""
        return f"after {self.retries + 1} tries" if self.retries else "at the first try"


def failure_of(error: BaseException, key: str) -> Failure:
    """From an error of the openai client, of `body`, or of JSON that is none."""
    import openai

    detail = clean(str(error) or type(error).__name__, key)
    if isinstance(error, Unbounded):
        return Failure("size", detail)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return Failure("timeout", detail)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        if cause is not None and str(cause):
            detail = clean(f"{error} {cause}", key)
        return Failure("connection", detail)
    code = getattr(error, "status_code", 0)
    if isinstance(code, int) and code >= 400:
        headers = getattr(getattr(error, "response", None), "headers", {})
        field = getattr(error, "param", None)
        return Failure(
            _kind(code, getattr(error, "code", None)), detail, code, field if isinstance(field, str) else "",
            wait_of(headers),
        )  # fmt: skip
    return Failure("no-api", "its JSON is nested too deeply" if isinstance(error, RecursionError) else detail)


def _kind(code: int, name: object) -> Kind:
    if code in (401, 403):
        return "key"
    if code == 404:
        return "model"
    if code == 402 or (code == 429 and name in PAYMENT):
        return "quota"
    if code == 429:
        return "busy"
    return "server" if code >= 500 or code in (408, 409, 425) else "request"


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms`, or `retry-after` as seconds or as a date (RFC 9110, 10.2.3).

    A date is compared with the server's own `date`, so that a clock of this machine that is wrong does not count.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    end = _timestamp(headers.get("retry-after", ""))
    if end is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return max(0.0, end - (time.time() if now is None else now))


def _timestamp(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def user_error(failure: Failure, who: Who) -> UserError:
    """The failure as a message."""
    name, section, detail, code = who.name, who.section, failure.detail, failure.code
    match failure.kind:
        case "timeout":
            return UserError(f"{name} did not answer within {who.timeout:g} s, {who.tries}", who.url,
                             f"raise {section}.timeout, or lower {section}.parallel")  # fmt: skip
        case "connection":
            return UserError(f"{name} cannot be reached, {who.tries}: {detail}", who.url,
                             f"start its server, or correct {section}.base_url")  # fmt: skip
        case "key":
            return UserError(f"{name} refuses the key ({code}): {detail}", who.url,
                             f"put the right one into the environment variable that {section}.key names")  # fmt: skip
        case "model":
            return UserError(f"no model {who.model!r} at this address: {detail}", who.url,
                             f"correct {section}.model or {section}.base_url")  # fmt: skip
        case "quota":
            return UserError(f"the account of {name} has no money left ({code}): {detail}", who.url,
                             "add money at the provider, then run the same command again")  # fmt: skip
        case "busy":
            return UserError(f"{name} is busy or the quota used up, {who.tries}: {detail}", who.url,
                             f"wait, or lower {section}.parallel")  # fmt: skip
        case "server":
            return UserError(f"{name}'s server fails ({code}), {who.tries}: {detail}", who.url,
                             "wait, or look at the server's log")  # fmt: skip
        case "request":
            return UserError(f"{name} refuses the request ({code}): {detail}", who.url, _request_fix(failure, who))
        case "size":
            return UserError(detail, who.url, f"ask another server; {section}.timeout bounds the time")
    return UserError(f"{name}'s server does not speak the API: {detail}", who.url,
                     f"{section}.base_url must be the address that ends in /v1, of a chat server")  # fmt: skip


def _request_fix(failure: Failure, who: Who) -> str:
    if failure.field and failure.field != "temperature" and who.section != "judge":
        return f"change what {who.section} says of {failure.field[:60]}"
    return f"{who.section}.temperature=null, where it is that"


def text_of(response: Any) -> str:
    """A server's reply in a message."""
    try:
        return str(response)[:1000]
    except RecursionError:
        return "its JSON is nested too deeply"
