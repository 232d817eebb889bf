"""What every request passes: its host, its origin and its token are checked, and its response is counted.

There are no CORS headers, so no page of another site can read a response; one that posts is refused, since it would
take the machine's time.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from pipeline.run.progress import warn
from pipeline.serving.server.access import Access
from pipeline.serving.server.api_error import ApiError
from pipeline.serving.server.metrics import Metrics

OPEN = ("/", "/health")  # need no token: a page that asks for it, and a word
LEFT = 499  # as nginx: the client left before the response
FAILED = ApiError("the server failed to answer; its terminal says why", None, "internal_error", 500)
LARGEST_HEADERS = 16_384  # bytes, the path included
TOO_LONG = ApiError(f"the headers are larger than {LARGEST_HEADERS:,} bytes", status=431)
OTHER = "other"  # path of what is not there, in the metrics
NO_SOURCES = "default-src 'none'; frame-ancestors 'none'"
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": NO_SOURCES,
}


class Gate:
    """ASGI middleware. paths: of the server."""

    def __init__(self, app: Any, access: Access, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.access, self.metrics, self.paths = app, access, metrics, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status = LEFT

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_safe(message.get("headers", ()))}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["raw_path"])
        try:
            if size > LARGEST_HEADERS:
                await TOO_LONG.response()(scope, receive, counted)
            elif error := self._refusal(scope["method"], scope["path"], headers):
                await error.response()(scope, receive, counted)
            else:
                await self.app(scope, receive, counted)
        except Exception:  # a fault of the program
            warn("serve: a request failed:\n" + traceback.format_exc())
            if status != LEFT:
                raise  # uvicorn closes the connection, since the response has begun
            await FAILED.response()(scope, receive, counted)
        finally:
            self.metrics.request(scope["path"] if scope["path"] in self.paths else OTHER, status)

    def _refusal(self, method: str, path: str, headers: Mapping[str, str]) -> ApiError | None:
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if not self.access.allows_host(host):
            return ApiError("this server does not answer under that host name", None, "host_not_allowed", 403)
        if method not in ("GET", "HEAD"):
            site = headers.get("sec-fetch-site", "same-origin")
            if not self.access.allows_origin(origin, host) or site not in ("same-origin", "none"):
                return ApiError("requests from pages of other sites are refused", None, "origin_not_allowed", 403)
        if path not in OPEN and not self.access.allows_token(headers.get("authorization", "")):
            message = "a wrong token, or none: send the header Authorization: Bearer TOKEN"
            return ApiError(message, None, "invalid_api_key", 401, {"www-authenticate": "Bearer"})
        return None


def _with_safe(headers: Any) -> list[tuple[bytes, bytes]]:
    given = {name for name, _ in headers}
    return [*headers, *((n.encode(), v.encode()) for n, v in SAFE.items() if n.encode() not in given)]
