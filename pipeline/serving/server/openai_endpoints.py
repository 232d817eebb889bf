"""`/v1/models`, `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipeline.serving.engine.served_model import ServedModel
from pipeline.serving.server.api_error import ApiError, too_long
from pipeline.serving.server.generation import Generation
from pipeline.serving.server.messages import Prompt, chat_prompt, text_prompt
from pipeline.serving.server.parameters import ChatRequest, Parameters, chat_request, completion_request
from pipeline.serving.server.replies import ChatForm, CompletionForm, Form
from pipeline.serving.server.sending import EventStream, whole
from pipeline.serving.server.state import Loaded, ServerState
from pipeline.serving.server.token_text import TokenText

STARTED = int(time.time())
MakeForm = Callable[[str, TokenText, bool], Form]


class OpenAIEndpoints:
    """The endpoints of OpenAI's API over one server's state."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    async def models(self, request: Request) -> Response:
        loaded = self.state.ready()
        return JSONResponse({"object": "list", "data": [_entry(model) for model in loaded.models.values()]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(_entry(self.state.ready().model(request.path_params["name"])))

    async def chat(self, request: Request) -> Response:
        asked, loaded, prompt = await self.chat_prompt(request)
        return await self._answer(request, loaded, asked.parameters, [prompt], ChatForm, "messages")

    async def chat_prompt(self, request: Request) -> tuple[ChatRequest, Loaded, Prompt]:
        """A chat request with its prompt, of any length; nothing is generated."""
        body = await self.state.bodies.read_object(request)
        asked, loaded = chat_request(body, self.state.config.serve.max_tokens), self.state.ready()
        encoder = loaded.model(asked.parameters.model).encoder
        prompt = await self.state.prepared(lambda: chat_prompt(encoder, asked.messages, asked.input, asked.continues))
        return asked, loaded, prompt

    async def completions(self, request: Request) -> Response:
        body = await self.state.bodies.read_object(request)
        asked, loaded = completion_request(body, self.state.config.serve.max_tokens), self.state.ready()
        encoder = loaded.model(asked.parameters.model).encoder
        prompts = await self.state.prepared(lambda: [text_prompt(encoder, prompt) for prompt in asked.prompts])
        return await self._answer(request, loaded, asked.parameters, prompts, CompletionForm, "prompt")

    async def _answer(
        self, request: Request, loaded: Loaded, parameters: Parameters, prompts: Sequence[Prompt], form: MakeForm,
        param: str,
    ) -> Response:  # fmt: skip
        settings, model = self.state.config.serve, loaded.model(parameters.model)
        for prompt in prompts:
            if len(prompt.ids) >= model.context:
                raise too_long(len(prompt.ids), model.context, param)
        answers, most = len(prompts) * parameters.choices, settings.parallel + settings.queue
        if answers > most:
            message = f"{answers} answers in one request; this server takes {most} at a time"
            raise ApiError(message, param, "array_above_max_length")
        generation = Generation(model, prompts, parameters, self.state.metrics)
        reply = form(model.name, loaded.texts[model.name], parameters.top_logprobs is not None)
        generation.start(loaded.engine, settings.max_tokens, settings.timeout, request.receive)
        return EventStream(generation, reply) if parameters.stream else await whole(generation, reply)


def _entry(model: ServedModel) -> dict[str, Any]:
    """A model as OpenAI lists it; `max_model_len` is vLLM's name for its context."""
    return {"id": model.name, "object": "model", "created": STARTED, "owned_by": "suri", "max_model_len": model.context}
