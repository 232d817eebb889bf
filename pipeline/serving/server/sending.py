"""Sends the answers of a request: whole as JSON, or piece by piece as server-sent events."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse, Response

from pipeline.serving.server.answer import Answer, Scored
from pipeline.serving.server.api_error import ApiError
from pipeline.serving.server.generation import ClientLeft, Generation
from pipeline.serving.server.replies import Form

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx passes events on at once
]


async def whole(generation: Generation, form: Form) -> Response:
    """The reply with every answer complete.

    Raises:
        ApiError, ClientLeft: as `Generation.pieces`.
    """
    texts: list[list[str]] = [[] for _ in generation.answers]
    scored: list[list[Scored]] = [[] for _ in generation.answers]
    try:
        async for pieces in generation.pieces():
            for index, piece in pieces:
                texts[index].append(piece.text)
                scored[index] += piece.scored
    finally:
        generation.close()
    choices = [
        _with_reason(form.choice(index, "".join(texts[index]), scored[index], answer.finish or "length"), answer)
        for index, answer in enumerate(generation.answers)
    ]
    return JSONResponse({**form.reply(choices, is_chunk=False), "usage": generation.usage})


class EventStream(Response):
    """The answers as they are generated. An error in the middle is an event `{"error": ...}`, the last one."""

    def __init__(self, generation: Generation, form: Form) -> None:
        self.generation, self.form = generation, form
        self.status_code, self.background = 200, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await self._send_events(send)
        except ClientLeft:
            return
        finally:
            self.generation.close()

    async def _send_events(self, send: Any) -> None:
        form, generation = self.form, self.generation
        openings = [form.opening(index) for index in range(len(generation.answers))]
        await _body(send, b"".join(self._event([opening]) for opening in openings if opening))
        try:
            async for pieces in generation.pieces():
                events = []
                for index, piece in pieces:
                    choice = form.chunk(index, piece, piece.finish)
                    events.append(self._event([_with_reason(choice, generation.answers[index])]))
                await _body(send, b"".join(events))
        except ApiError as error:
            await _body(send, _line(error.content), more=False)
            return
        last = b""
        if generation.parameters.include_usage:
            last = _line({**form.reply([], is_chunk=True), "usage": generation.usage})
        await _body(send, last + DONE, more=False)

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        reply = self.form.reply(choices, is_chunk=True)
        if self.generation.parameters.include_usage:
            reply["usage"] = None
        return _line(reply)


def _with_reason(choice: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """Adds `stop_reason`, as vLLM names it: the stop text that ended an answer, or `timeout`."""
    if choice["finish_reason"] is not None and answer.stopped_by is not None:
        choice["stop_reason"] = answer.stopped_by
    return choice


def _line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


async def _body(send: Any, data: bytes, more: bool = True) -> None:
    if data or not more:
        await send({"type": "http.response.body", "body": data, "more_body": more})
