"""A teacher behind an OpenAI-compatible address.

    reserve budget -> slot -> journal `sent` -> try ---> reply
          ^                                      |
          +------------ pause <------------------+ busy, failed, no connection, too late; at most `retries` times

A wrong key, an unknown model and an empty account end the command at once; a text that the server refuses is a reply
with a `failure`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace
from typing import Any

from pipeline.api.body import MOST, AsyncBody, Unbounded
from pipeline.api.failure import AGAIN, FREE, Failure, Who, failure_of, user_error
from pipeline.api.key import OPENAI, clean, key_of
from pipeline.config.synthesis import Asked
from pipeline.run.errors import UserError
from pipeline.run.open_files import connections_allowed
from pipeline.synthesis.asker import GaveUp
from pipeline.synthesis.breaker import TRIES, Breaker
from pipeline.synthesis.chat import ChatForm, NotTheApi, failed, most_of, reply_of
from pipeline.synthesis.limiter import Limiter
from pipeline.synthesis.request import Reply, Request, Role
from pipeline.synthesis.spend import Budget

FIRST_PAUSE = 0.5  # seconds before the second try; doubled each time
LONGEST_PAUSE = 60.0  # and at most, also where the server asks for more
BYTES_A_TOKEN = 32  # of a reply's JSON, at most; with escapes and what surrounds the text
TYPICAL_BYTES = 4  # of a prompt's token


def who_of(asked: Asked, role: Role) -> Who:
    """The model in messages."""
    url = asked.base_url or OPENAI
    return Who(f"the {role}", f"synthesis.{role}", asked.model, url, asked.timeout, asked.retries)


def client_of(who: Who, key: str, seconds: float, most: int) -> Any:
    """An openai client that makes one try. seconds, most: time and bytes of a reply."""
    import openai

    from pipeline.api.transport import http_client  # needs openai's packages

    return openai.AsyncOpenAI(
        api_key=key, base_url=who.url, max_retries=0, timeout=seconds,
        http_client=http_client({"response": [AsyncBody(seconds, most)]}, seconds),
        default_headers={"Accept-Encoding": "identity"},
    )  # fmt: skip


class ApiTeacher:
    """Sends requests through the openai client, which makes one try at a time.

    Args:
        budget: of the run, which also knows its journal. role: for messages.

    Raises:
        UserError: the variable with the key is not set.
    """

    def __init__(self, asked: Asked, budget: Budget, role: Role = "teacher") -> None:
        import openai

        self.asked, self.budget, self.openai = asked, budget, openai
        self.who = who_of(asked, role)
        self.key = key_of(asked, self.who.section)
        at_once = min(asked.parallel, max(1, connections_allowed(asked.parallel)))
        self.limiter, self.breaker, self.form = Limiter(at_once), Breaker(self.who), ChatForm(asked)
        self._too_long = 0
        self.client = client_of(self.who, self.key, asked.timeout, max(MOST, BYTES_A_TOKEN * asked.max_tokens))

    async def reply(self, request: Request) -> Reply:
        """The model's reply.

        Raises:
            GaveUp, BudgetReached, NotJournaled: none now. UserError: no request can succeed.
        """
        self._check_length(request)
        begin, tries, is_again = 0.0, 0, False
        while True:
            replies = self.breaker.replies
            async with self.limiter.slot(is_again) as slot:
                begin, is_again = begin or time.monotonic(), True
                await self.budget.sent(request)
                outcome = await self._try(request)
                if isinstance(outcome, Reply):
                    self.limiter.succeeded()
                    self.breaker.succeeded()
                    return replace(outcome, seconds=round(time.monotonic() - begin, 3))
                if self._is_final(outcome):
                    return failed(outcome)
                self.budget.failed(request, free=outcome.kind in FREE)
                # While others succeed, a busy server only means to wait in line.
                tries += outcome.kind != "busy" or self.breaker.replies == replies
                pause = self._pause(outcome, tries)
                if outcome.kind == "busy":
                    self.limiter.busy(slot, pause)
            self._check_again(outcome, tries)
            if outcome.kind != "busy":
                await asyncio.sleep(pause)
            await self.budget.reserve(request)

    async def close(self) -> None:
        await self.client.close()

    async def _try(self, request: Request) -> Reply | Failure:
        """Sends a request once; again at once where only its form was refused, which is free."""
        plain = False
        while True:
            body = self.form.body(request, plain)
            outcome = await self._post(body, request)
            if isinstance(outcome, Reply):
                self.form.took(body)
                if plain:  # it was the schema, though the server did not say so
                    self.form.use_schema = False
                return outcome
            if not self.form.adapts(outcome, body):
                if plain or outcome.is_own_fault or not self.form.may_be_schema(outcome, body):
                    return outcome
                plain = True

    async def _post(self, body: dict[str, Any], request: Request) -> Reply | Failure:
        try:
            async with asyncio.timeout(self.asked.timeout):  # the client's own limit is for each wait for bytes
                data: Any = await self.client.post("/chat/completions", cast_to=bytes, body=body)
            return reply_of(json.loads(data), most_of(request), self.key)
        except NotTheApi as error:
            return Failure("no-api", clean(str(error), self.key))
        except (self.openai.OpenAIError, Unbounded, TimeoutError, ValueError, RecursionError) as error:
            return failure_of(error, self.key)

    def _is_final(self, failure: Failure) -> bool:
        """Whether the request is refused for good. Before the first reply it may be the config or the server, and what
        is journaled is never asked again."""
        return failure.is_own_fault or (failure.kind == "request" and self.breaker.replies > 0)

    def _check_again(self, failure: Failure, tries: int) -> None:
        """Whether another try may help.

        Raises:
            GaveUp: not for this request. UserError: for none.
        """
        is_field = failure.kind == "request" and failure.field not in ("", "messages", "max_tokens")
        if failure.kind in ("key", "model", "quota") or is_field:
            raise user_error(failure, self.who)
        self.breaker.failed(failure, tries)
        if failure.kind not in AGAIN or tries > self.asked.retries:
            self.breaker.gave_up(failure)
            raise GaveUp(user_error(failure, self.who).what)

    def _pause(self, failure: Failure, tries: int) -> float:
        """Seconds until the next try."""
        if failure.wait is not None:
            return min(failure.wait, LONGEST_PAUSE)
        longest = min(FIRST_PAUSE * 2 ** min(tries - 1, 30), LONGEST_PAUSE)
        return longest * (0.5 + random.random() / 2)  # so that those that failed together do not return together

    def _check_length(self, request: Request) -> None:
        """Whether prompt and reply can fit; the server would cut the prompt without a word.

        Raises:
            GaveUp: they cannot. UserError: it is so with one request after the other.
        """
        tokens = sum(len(text.encode("utf-8", "replace")) for _, text in request.messages) // TYPICAL_BYTES
        if not self.asked.context or tokens + request.max_tokens <= self.asked.context:
            self._too_long = 0
            return
        self._too_long += 1
        where = f"{self.who.section}.context"
        what = (
            f"a prompt of about {tokens:,} tokens and a reply of up to {request.max_tokens:,} do not fit into "
            f"{self.asked.context:,}"
        )
        if self._too_long >= TRIES:
            fix = f"lower {self.who.section}.max_tokens, make prompts shorter, or correct {where}"
            raise UserError(f"{what}, and so with {TRIES} requests in a row", where, fix)
        raise GaveUp(f"{what} tokens ({where})")
