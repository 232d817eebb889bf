"""The application: its paths, and the form of its errors.

request ─> Gate (host, origin, token, counts) ─> endpoint ─> prompt (one thread) ─> engine (another)
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.serving.server.api_error import ApiError
from pipeline.serving.server.gate import LEFT, Gate
from pipeline.serving.server.generation import ClientLeft
from pipeline.serving.server.openai_endpoints import OpenAIEndpoints
from pipeline.serving.server.page_endpoints import PageEndpoints
from pipeline.serving.server.state import ServerState


def make_app(state: ServerState) -> Starlette:
    """The ASGI application over a server's state."""
    openai = OpenAIEndpoints(state)
    own = PageEndpoints(state, openai)
    routes = [
        Route("/", own.page),
        Route("/health", own.health),
        Route("/metrics", own.metrics),
        Route("/suri/info", own.info),
        Route("/suri/prompt", own.prompt, methods=["POST"]),
        Route("/suri/run", own.run),
        Route("/suri/questions", own.questions),
        Route("/v1/models", openai.models),
        Route("/v1/models/{name:path}", openai.model),
        Route("/v1/chat/completions", openai.chat, methods=["POST"]),
        Route("/v1/completions", openai.completions, methods=["POST"]),
    ]
    paths = frozenset(route.path for route in routes)
    handlers: dict[Any, Any] = {
        ApiError: _refused, ClientLeft: _left, ClientDisconnect: _left, 404: _no_path, 405: _no_method,
    }  # fmt: skip
    gate = Middleware(Gate, access=state.access, metrics=state.metrics, paths=paths)
    app = Starlette(routes=routes, middleware=[gate], exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def _refused(request: Request, error: ApiError) -> Response:
    return error.response()


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=LEFT)


def _no_path(request: Request, error: Exception) -> Response:
    return ApiError("there is nothing under this path", None, "not_found", 404).response()


def _no_method(request: Request, error: Any) -> Response:
    return ApiError("this path has another method", None, "method_not_allowed", 405, dict(error.headers)).response()
