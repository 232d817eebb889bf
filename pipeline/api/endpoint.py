"""A judge behind an OpenAI-compatible address; every failure is one message."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from importlib.util import find_spec
from typing import Any, Protocol

from pipeline.api.body import Body, Unbounded
from pipeline.config.schema import Judge
from pipeline.run.errors import UserError
from pipeline.run.next_command import next_command

OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # sent to a server that needs no key
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


class Keyed(Protocol):
    """Settings of a model behind an address."""

    @property
    def key(self) -> str: ...
    @property
    def base_url(self) -> str: ...


def key_of(asked: Keyed, where: str = "judge") -> str:
    """The key from the environment. OpenAI's own goes to no other address unless the config says so.

    Args:
        where: the section of the config, for messages.

    Raises:
        UserError: the variable is not set.
    """
    name = asked.key or ("" if asked.base_url else "OPENAI_API_KEY")
    if not name:
        return NO_KEY
    key = os.environ.get(name, "").strip()
    if not key:
        fix = f"export {name}=..., or name another variable with {where}.key"
        raise UserError(f"the environment variable {name} holds no key", f"{where}.key", fix)
    return key


class Endpoint:
    """One judge. `reply` may be called from several threads."""

    def __init__(self, judge: Judge) -> None:
        import openai  # a second; only where a judge is really asked

        self.judge, self.openai, self.key = judge, openai, key_of(judge)
        self.where = judge.base_url or OPENAI
        web = openai.DefaultHttpxClient(event_hooks={"response": [Body(judge.timeout)]}, timeout=judge.timeout)
        self.client = openai.OpenAI(
            api_key=self.key, base_url=self.where, max_retries=judge.retries, timeout=judge.timeout, http_client=web,
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
            raise self._timed_out() from None

    def _request(self, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
        more = {} if self.judge.temperature is None else {"temperature": self.judge.temperature}
        try:
            response: Any = self.client.chat.completions.create(model=self.judge.model, messages=messages, **more)
        except self.openai.OpenAIError as error:
            raise self._failed(error) from None
        except Unbounded as error:
            raise UserError(str(error), self.where, "ask another server; judge.timeout bounds the time") from None
        except ValueError as error:  # JSON that is none
            raise self._not_the_api(str(error)) from None
        except RecursionError:
            raise self._not_the_api("its JSON is nested too deeply") from None
        try:
            text = response.choices[0].message.content
        except (AttributeError, LookupError, TypeError):
            raise self._not_the_api(_text(response)) from None
        if text is not None and not isinstance(text, str):
            raise self._not_the_api(_text(response))
        usage = {name: getattr(response.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")}
        return text or "", {name: value if isinstance(value, int) else 0 for name, value in usage.items()}

    def _not_the_api(self, detail: str) -> UserError:
        what = f"the judge's server does not speak the API: {self._clean(detail)}"
        return UserError(what, self.where, "judge.base_url must be the address that ends in /v1, of a chat server")

    def _timed_out(self) -> UserError:
        return UserError(f"the judge did not answer within {self.judge.timeout} s, {self._tries()}", self.where,
                         "raise judge.timeout, or lower judge.parallel")  # fmt: skip

    def _tries(self) -> str:
        return f"after {self.judge.retries + 1} tries" if self.judge.retries else "at the first try"

    def _failed(self, error: Exception) -> UserError:
        """An error of the library as a message without the key."""
        api, tries = self.openai, self._tries()
        detail = self._clean(str(error))
        if isinstance(error, api.APITimeoutError):
            return self._timed_out()
        if isinstance(error, api.APIConnectionError):
            return UserError(f"the judge cannot be reached, {tries}: {detail}", self.where,
                             "start its server, or correct judge.base_url")  # fmt: skip
        code = getattr(error, "status_code", 0)
        if code in (401, 403):
            return UserError(f"the judge refuses the key ({code}): {detail}", self.where,
                             "put the right one into the environment variable that judge.key names")  # fmt: skip
        if code == 404:
            return UserError(f"no model {self.judge.model!r} at this address: {detail}", self.where,
                             "correct judge.model or judge.base_url")  # fmt: skip
        if code == 429:
            return UserError(f"the judge is busy or the quota used up, {tries}: {detail}", self.where,
                             "wait, or lower judge.parallel")  # fmt: skip
        if code >= 500:
            return UserError(
                f"the judge's server fails ({code}), {tries}: {detail}", self.where, "wait, or look at the server's log"
            )
        if code:
            return UserError(f"the judge refuses the request ({code}): {detail}", self.where,
                             "judge.temperature=null, where it is that")  # fmt: skip
        return self._not_the_api(detail)

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())
        return (text if self.key == NO_KEY else text.replace(self.key, "[key]"))[:200]


def _text(response: object) -> str:
    try:
        return str(response)[:1000]
    except RecursionError:
        return "its JSON is nested too deeply"
