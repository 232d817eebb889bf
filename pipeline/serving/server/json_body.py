"""The body of a request: JSON, read with limits on its size, its time and its depth."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pipeline.run.json_file import DEEPEST, is_deeper
from pipeline.serving.server.api_error import NOT_AGAIN, ApiError, unavailable

if TYPE_CHECKING:
    from starlette.requests import Request

LARGEST = 1 << 20  # bytes
SECONDS = 30.0  # for the whole body
MOST_HELD = 64 << 20  # bytes of all bodies that are arriving
LONGEST_NUMBER = 20  # digits


class BodyReader:
    """Reads the bodies of one server's requests. held: bytes of bodies that are arriving."""

    def __init__(self) -> None:
        self.held = 0

    async def read_object(self, request: Request) -> dict[str, Any]:
        """The JSON object that a request holds.

        Raises:
            ApiError: another content type, too large, too slow, not JSON, nested too deeply, or half a surrogate pair
                in it. ClientDisconnect: the client left.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            message = "send JSON, with the header Content-Type: application/json"
            raise ApiError(message, code="invalid_content_type", status=415)
        data = bytearray()
        try:
            async with asyncio.timeout(SECONDS):
                await self._read(request, data)
        except TimeoutError:
            message = f"the body did not arrive within {SECONDS:.0f} seconds"
            raise ApiError(message, code="request_timeout", status=408, headers=NOT_AGAIN) from None
        finally:
            self.held -= len(data)
        return parsed(bytes(data))

    async def _read(self, request: Request, data: bytearray) -> None:
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > LARGEST):
            raise _too_large()
        async for chunk in request.stream():
            data += chunk
            self.held += len(chunk)
            if len(data) > LARGEST:
                raise _too_large()
            if self.held > MOST_HELD:
                raise unavailable("too many large requests at once; try again later", "queue_full")


def _too_large() -> ApiError:
    return ApiError(f"the body is larger than {LARGEST:,} bytes", code="request_too_large", status=413)


def parsed(data: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        ApiError: as `read_object`.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_int=_whole)
    except RecursionError:
        raise ApiError("brackets are nested too deeply", code="invalid_json") from None
    except ValueError as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise ApiError(f"the body is not {what}", code="invalid_json") from None
    if is_deeper(value, DEEPEST):
        raise ApiError(f"brackets are nested more than {DEEPEST} deep", code="invalid_json")
    if not isinstance(value, dict):
        raise ApiError("the body is not a JSON object", code="invalid_json")
    if "\\u" in text:
        _check_letters(value)
    return value


def _check_letters(value: Any) -> None:
    r"""JSON may spell half of a surrogate pair, such as "\ud83d", which is no letter."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError("a text holds half of a surrogate pair", code="invalid_json") from None


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ApiError(f"a number has more than {LONGEST_NUMBER} digits", code="invalid_json")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
