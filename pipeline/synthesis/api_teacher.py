"""A teacher behind an OpenAI-compatible address."""

from __future__ import annotations

import datetime
import time

from pipeline.api.endpoint import OPENAI, key_of
from pipeline.config.synthesis import Asked
from pipeline.synthesis.asker import GaveUp
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.spend import most_cost


class ApiTeacher:
    """Sends requests through the openai client."""

    def __init__(self, asked: Asked, journal: Journal) -> None:
        import openai

        self.asked, self.journal, self.openai = asked, journal, openai
        self.client = openai.AsyncOpenAI(
            api_key=key_of(asked, "synthesis.teacher"),
            base_url=asked.base_url or OPENAI,
            max_retries=asked.retries,
            timeout=asked.timeout,
        )

    async def reply(self, request: Request) -> Reply:
        """Raises: GaveUp."""
        begin = time.monotonic()
        await self.journal.sending(request, most_cost(self.asked.price, request))
        try:
            answer = await self.client.chat.completions.create(
                model=request.model, messages=[{"role": role, "content": text} for role, text in request.messages],
                max_tokens=request.max_tokens, temperature=request.temperature,
            )  # fmt: skip
        except self.openai.OpenAIError as error:
            raise GaveUp(str(error)) from None
        choice, usage = answer.choices[0], answer.usage
        return Reply(
            choice.message.content or "", choice.finish_reason, "", answer.model, usage.prompt_tokens,
            usage.completion_tokens, time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - begin,
        )  # fmt: skip

    async def close(self) -> None:
        await self.client.close()
