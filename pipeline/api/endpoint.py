"""A judge behind an OpenAI-compatible address; every failure is one message."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from importlib.util import find_spec
from typing import Any

from pipeline.api.body import Body, Unbounded
from pipeline.api.failure import Failure, Who, failure_of, text_of, user_error
from pipeline.api.key import OPENAI, clean, key_of
from pipeline.config.schema import Judge
from pipeline.run.errors import UserError
from pipeline.run.next_command import next_command

LONGEST_PAUSE = 60  # seconds between two tries, where the server says how long to wait


def check(judge: Judge) -> None:
    """Checks the settings before any work.

    Raises:
        UserError: no judge is named, its package or its key is missing.
    """
    if not judge.model:
        fix = "judge.model=NAME, and judge.base_url=http://localhost:8000/v1 for a server of your own"
        raise UserError("no judge is named", "judge.model", fix)
    if find_spec("openai") is None:
        raise UserError("the package openai is not installed", "extra judge", f"`{next_command('judge')}` installs it")
    key_of(judge)


class Endpoint:
    """One judge. `reply` may be called from several threads."""

    def __init__(self, judge: Judge) -> None:
        import openai  # a second; only where a judge is really asked

        self.judge, self.openai, self.key = judge, openai, key_of(judge)
        self.who = Who(
            "the judge", "judge", judge.model, judge.base_url or OPENAI, judge.timeout, judge.retries
        )  # fmt: skip
        web = openai.DefaultHttpxClient(event_hooks={"response": [Body(judge.timeout)]}, timeout=judge.timeout)
        self.client = openai.OpenAI(
            api_key=self.key, base_url=self.who.url, max_retries=judge.retries, timeout=judge.timeout, http_client=web,
            default_headers={"Accept-Encoding": "identity"},
        )  # fmt: skip

    def close(self) -> None:
        """Ends requests in flight."""
        self.client.close()

    def reply(self, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
        """The judge's text, and the tokens that it counted.

        Raises:
            UserError: no reply after the tries that the config allows, or one beyond the bounds of `body`.
        """
        # The client's time limit is for each wait for bytes, and a server may send one byte before each ends. So a
        # second limit is for all tries together; the thread of a request that exceeds it ends with the process.
        tries, result = self.judge.retries + 1, Future[tuple[str, dict[str, int]]]()

        def ask() -> None:
            try:
                result.set_result(self._request(messages))
            except BaseException as error:  # raised again below
                result.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            return result.result(2 * self.judge.timeout * tries + LONGEST_PAUSE * self.judge.retries)
        except TimeoutError:
            raise user_error(Failure("timeout", ""), self.who) from None

    def _request(self, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
        more = {} if self.judge.temperature is None else {"temperature": self.judge.temperature}
        try:
            response: Any = self.client.chat.completions.create(model=self.judge.model, messages=messages, **more)
        except (self.openai.OpenAIError, Unbounded, ValueError, RecursionError) as error:  # ValueError: no JSON
            raise user_error(failure_of(error, self.key), self.who) from None
        try:
            text = response.choices[0].message.content
        except (AttributeError, LookupError, TypeError):
            raise self._not_the_api(response) from None
        if text is not None and not isinstance(text, str):
            raise self._not_the_api(response)
        usage = {name: getattr(response.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")}
        return text or "", {name: value if isinstance(value, int) else 0 for name, value in usage.items()}

    def _not_the_api(self, response: object) -> UserError:
        return user_error(Failure("no-api", clean(text_of(response), self.key)), self.who)
