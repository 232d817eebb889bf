"""Errors in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}` with a status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.responses import Response

WAIT = "2"  # seconds after which a client may ask again, when the queue is full
NOT_AGAIN = {"x-should-retry": "false"}  # to the stock client, which repeats what failed by a status
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass
class ApiError(Exception):
    """A request that is refused, or an answer that failed.

    Attributes:
        status: of HTTP. code: OpenAI's word for it, where there is one. param: the field of the body that is at fault.
    """

    message: str
    param: str | None = None
    code: str | None = None
    status: int = 400
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        from starlette.responses import JSONResponse  # of an extra

        return JSONResponse(self.content, self.status, dict(self.headers))


def unsupported(name: str, message: str) -> ApiError:
    return ApiError(message, name, "unsupported_parameter")


def too_long(tokens: int, context: int, param: str) -> ApiError:
    """A prompt that leaves no room for an answer."""
    message = f"the prompt has {tokens:,} tokens, and the model sees {context:,}, its answer included"
    return ApiError(message, param, "context_length_exceeded")


def unavailable(message: str, code: str, wait: str = WAIT) -> ApiError:
    """The server cannot take the request now; the client may ask again."""
    return ApiError(message, None, code, 503, {"retry-after": wait})


def timed_out(seconds: int) -> ApiError:
    """The time of a request is over before its answer began. The stock client does not repeat it."""
    message = f"no answer within {seconds} seconds (serve.timeout)"
    return ApiError(message, None, "timeout", 504, NOT_AGAIN)
