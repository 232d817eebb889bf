"""Conversations as text, by a chat template in a process with limits (`chat_worker.py`)."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError, one_line

WORKER = Path(__file__).with_name("chat_worker.py")
BATCH = 500  # conversations in one request
FIX = "take another template (prompt.template), or correct this one"


@dataclass(frozen=True)
class Dialogue:
    """What is rendered.

    messages: as OpenAI has them. open: ends with the header of the next answer, so that a model writes it. tools:
    JSON schemas of functions. more: further variables of the template.
    """

    messages: Sequence[Mapping[str, Any]]
    open: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As the worker reads it."""
        item: dict[str, Any] = {"messages": [_without_none(message) for message in self.messages]}
        if self.open:
            item["open"] = True
        if self.tools:
            item["tools"] = list(self.tools)
        if self.more:
            item["more"] = dict(self.more)
        return item


@dataclass(frozen=True)
class Refusal:
    """why: the template's own words for not rendering a conversation."""

    why: str


class ChatRenderer:
    """One template.

    Args:
        text: of the template. names: what it may call special tokens, such as {"bos_token": "<s>"}. where: the file
            that it comes from, for messages.
    """

    def __init__(self, text: str, names: Mapping[str, str], where: str) -> None:
        self.text, self.names, self.where = text, dict(names), where

    def render(self, dialogues: Sequence[Dialogue]) -> list[str | Refusal]:
        """Each conversation as text, or why the template refuses it.

        Raises:
            UserError: the template does not compile, leaves the sandbox, runs for more than a second, or its result
                is longer than 10 MB or than memory.
        """
        rendered: list[str | Refusal] = []
        for start in range(0, len(dialogues), BATCH):
            chunk = dialogues[start : start + BATCH]
            request = {"template": self.text, "names": self.names, "items": [d.as_dict() for d in chunk]}
            for answer in _ask(json.dumps(request), len(chunk), self.where):
                rendered.append(answer["text"] if "text" in answer else self._refusal(answer))
        return rendered

    def _refusal(self, answer: Mapping[str, str]) -> Refusal:
        kind, why = answer["kind"], one_line(answer["error"])
        if kind == "refused":
            return Refusal(why)
        what = {
            "memory": "the chat template needs more than 1 GB of memory",
            "length": f"the chat template makes a text of more than 10 MB of one conversation ({why})",
        }.get(kind, f"the chat template cannot be used: {why}")
        raise UserError(what, self.where, FIX)


_worker: dict[int, subprocess.Popen[str]] = {}  # by process id: a forked process must not read its parent's answers


def _ask(request: str, count: int, where: str) -> list[dict[str, str]]:
    """The worker's answers to a request with `count` conversations."""
    worker = _started()
    assert worker.stdin
    assert worker.stdout
    try:
        worker.stdin.write(request + "\n")
        worker.stdin.flush()
        answers = [json.loads(line) for _, line in zip(range(count), worker.stdout, strict=False)]
    except BrokenPipeError:
        answers = []
    except BaseException:  # Ctrl-C in between: the next request must not read answers to this one
        stop()
        raise
    if len(answers) < count:
        code = worker.wait()
        _worker.pop(os.getpid(), None)
        if code == -signal.SIGPROF:
            raise UserError("the chat template runs for more than a second on one conversation", where, FIX)
        raise UserError(f"the process that renders chat templates ended ({code})", where, FIX)
    return answers


def _started() -> subprocess.Popen[str]:
    own = _worker.get(os.getpid())
    if own is None or own.poll() is not None:
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        own = _worker[os.getpid()] = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, encoding="ascii", env={**os.environ, **quiet},
        )  # fmt: skip
    return own


@atexit.register
def stop() -> None:
    """Ends the worker."""
    if worker := _worker.pop(os.getpid(), None):
        worker.kill()
        worker.wait()


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    """`apply_chat_template` drops keys without a value before it renders."""
    return {key: value for key, value in message.items() if value is not None}
