"""A judge behind an OpenAI-compatible address, with every way it can fail as one message."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from importlib.util import find_spec
from typing import Any

from pipeline.comparison.body import Body, Unbounded
from pipeline.config.schema import Judge
from pipeline.run.errors import UserError

OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # what is sent to a server that asks for none
LONGEST_PAUSE = 60  # seconds between two tries, where the server says how long to wait


def check(judge: Judge) -> None:
    """What can be told before any work.

    Raises:
        UserError: no judge is named, its package or its key is missing.
    """
    if not judge.model:
        fix = "judge.model=NAME, and judge.base_url=http://localhost:8000/v1 for a server of your own"
        raise UserError("no judge is named", "judge.model", fix)
    if find_spec("openai") is None:
        raise UserError("the package openai is not installed", "extra judge", "make judge installs it")
    key_of(judge)


def key_of(judge: Judge) -> str:
    """The key from the environment. OpenAI's own goes to no other address unless the config says so.

    Raises:
        UserError: it is not there.
    """
    name = judge.key or ("" if judge.base_url else "OPENAI_API_KEY")
    if not name:
        return NO_KEY
    key = os.environ.get(name, "").strip()
    if not key:
        fix = f"export {name}=..., or name another variable with judge.key"
        raise UserError(f"the environment variable {name} holds no key", "judge.key", fix)
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
        """Ends requests that are under way."""
        self.client.close()

    def reply(self, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
        """The judge's text, and the tokens it says it took.

        Raises:
            UserError: it cannot be had, after the tries that the config allows, or it goes beyond its bounds.
        """
        # Each wait for bytes has a time limit, but a server may send one byte before each ends. So what is not there
        # when all tries should be over is given up; its thread ends with the process.
        tries, found = self.judge.retries + 1, Future[tuple[str, dict[str, int]]]()

        def ask() -> None:
            try:
                found.set_result(self._asked(messages))
            except BaseException as error:  # raised again below
                found.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            return found.result(2 * self.judge.timeout * tries + LONGEST_PAUSE * self.judge.retries)
        except TimeoutError:
            raise self._slow() from None

    def _asked(self, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
        more = {} if self.judge.temperature is None else {"temperature": self.judge.temperature}
        try:
            made: Any = self.client.chat.completions.create(model=self.judge.model, messages=messages, **more)
        except self.openai.OpenAIError as error:
            raise self._failed(error) from None
        except Unbounded as error:
            raise UserError(str(error), self.where, "ask another server; judge.timeout bounds the time") from None
        except ValueError as error:  # JSON that is none
            raise self._shapeless(str(error)) from None
        except RecursionError:
            raise self._shapeless("its JSON is nested too deeply") from None
        try:
            text = made.choices[0].message.content
        except (AttributeError, LookupError, TypeError):
            raise self._shapeless(_text(made)) from None
        if text is not None and not isinstance(text, str):
            raise self._shapeless(_text(made))
        usage = {name: getattr(made.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")}
        return text or "", {name: value if isinstance(value, int) else 0 for name, value in usage.items()}

    def _shapeless(self, said: str) -> UserError:
        what = f"the judge's server does not speak the API: {self._clean(said)}"
        return UserError(what, self.where, "judge.base_url must be the address that ends in /v1, of a chat server")

    def _slow(self) -> UserError:
        return UserError(f"the judge did not answer within {self.judge.timeout} s, {self._tries()}", self.where,
                         "raise judge.timeout, or lower judge.parallel")  # fmt: skip

    def _tries(self) -> str:
        return f"after {self.judge.retries + 1} tries" if self.judge.retries else "at the first try"

    def _failed(self, error: Exception) -> UserError:
        """An error of the library as a message; the key stands in none."""
        api, tries = self.openai, self._tries()
        said = self._clean(str(error))
        if isinstance(error, api.APITimeoutError):
            return self._slow()
        if isinstance(error, api.APIConnectionError):
            return UserError(f"the judge cannot be reached, {tries}: {said}", self.where,
                             "start its server, or mend judge.base_url")  # fmt: skip
        code = getattr(error, "status_code", 0)
        if code in (401, 403):
            return UserError(f"the judge refuses the key ({code}): {said}", self.where,
                             "put the right one into the environment variable that judge.key names")  # fmt: skip
        if code == 404:
            return UserError(f"no model {self.judge.model!r} at this address: {said}", self.where,
                             "mend judge.model or judge.base_url")  # fmt: skip
        if code == 429:
            return UserError(f"the judge is busy or the quota used up, {tries}: {said}", self.where,
                             "wait, or lower judge.parallel")  # fmt: skip
        if code >= 500:
            return UserError(f"the judge's server fails ({code}), {tries}: {said}", self.where, "wait, or mend it")
        if code:
            return UserError(f"the judge refuses the request ({code}): {said}", self.where,
                             "judge.temperature=null, where it is that")  # fmt: skip
        return self._shapeless(said)

    def _clean(self, said: str) -> str:
        said = " ".join(said.split())
        return (said if self.key == NO_KEY else said.replace(self.key, "[key]"))[:200]


def _text(made: object) -> str:
    try:
        return str(made)[:1000]
    except RecursionError:
        return "its JSON is nested too deeply"
