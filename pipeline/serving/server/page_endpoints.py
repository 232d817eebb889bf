"""The page, and what it and a supervisor ask for: `/`, `/health`, `/metrics` and `/suri/...`."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from pipeline import __version__
from pipeline.run.next_command import next_command
from pipeline.serving.engine.served_model import ServedModel
from pipeline.serving.server import json_body, metrics
from pipeline.serving.server.openai_endpoints import OpenAIEndpoints
from pipeline.serving.server.run_data import example_questions, finite, run_data
from pipeline.serving.server.state import ServerState


class PageEndpoints:
    """The endpoints that are no part of OpenAI's API."""

    def __init__(self, state: ServerState, openai: OpenAIEndpoints) -> None:
        self.state, self.openai = state, openai

    async def page(self, request: Request) -> Response:
        from pipeline.serving.page.page import content_security_policy, page

        return HTMLResponse(page(), headers={"content-security-policy": content_security_policy()})

    async def health(self, request: Request) -> Response:
        ready = self.state.loaded is not None
        headers = {} if ready else {"retry-after": "1"}
        return JSONResponse({"status": "ready" if ready else "loading"}, 200 if ready else 503, headers)

    async def metrics(self, request: Request) -> Response:
        loaded = self.state.loaded
        text = self.state.metrics.text(loaded.engine.status() if loaded else None)
        return Response(text, headers={"content-type": metrics.MEDIA_TYPE})

    async def info(self, request: Request) -> Response:
        """What is served, also while it is loaded: then there are no models yet."""
        serve, loaded = self.state.config.serve, self.state.loaded
        return JSONResponse({
            "run": self.state.config.name,
            "version": __version__,
            "status": "ready" if loaded else "loading",
            "default_model": loaded.default if loaded else "",
            "export_command": next_command("export"),
            "limits": {"max_tokens": serve.max_tokens, "body_bytes": json_body.LARGEST, "queue": serve.queue,
                       "parallel": serve.parallel, "timeout": serve.timeout},
            "models": [_model(model) for model in loaded.models.values()] if loaded else [],
        })  # fmt: skip

    async def prompt(self, request: Request) -> Response:
        """The prompt of a chat request, with its tokens; also one that is too long."""
        asked, loaded, prompt = await self.openai.chat_prompt(request)
        model, texts = loaded.model(asked.parameters.model), loaded.texts[asked.parameters.model]

        def shown() -> dict[str, Any]:
            pieces = zip(prompt.ids, texts.pieces(prompt.ids), strict=True)
            text = model.encoder.tokenizer.decode(prompt.ids, keep_special=True)
            return {"text": text, "tokens": [{"id": id, "text": piece} for id, piece in pieces],
                    "count": len(prompt.ids), "context": model.context}  # fmt: skip

        return JSONResponse(await self.state.prepared(shown))

    async def run(self, request: Request) -> Response:
        return JSONResponse(finite(await run_in_threadpool(run_data, self.state.config, self.state.run)))

    async def questions(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(example_questions))


def _model(model: ServedModel) -> dict[str, Any]:
    encoder = model.encoder
    return {
        "id": model.name,
        "kind": model.kind,
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
        "turns": encoder.is_chat,
        "system": True,
        "input": not encoder.is_chat,
        "context": model.context,
        "note": model.note,
        "ready": True,
    }
