"""Answers in the forms of OpenAI's API: chat and completion, whole and as chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from pipeline.serving.server.answer import Piece, Scored
from pipeline.serving.server.token_text import TokenText

LOWEST = -9999.0  # as OpenAI writes the log-probability of what cannot be; JSON has no infinity


class Form(Protocol):
    """One of the two forms."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The first choice of a stream; None: there is none."""

    def chunk(self, index: int, piece: Piece, reason: str | None) -> dict[str, Any]: ...

    def choice(self, index: int, text: str, scored: Sequence[Scored], reason: str) -> dict[str, Any]: ...

    def reply(self, choices: list[dict[str, Any]], is_chunk: bool) -> dict[str, Any]:
        """choices with the fields around them."""


class _Reply:
    def __init__(self, prefix: str, whole: str, chunk: str, model: str, tokens: TokenText, is_scored: bool) -> None:
        self.id, self.created = f"{prefix}-{uuid.uuid4().hex}", int(time.time())
        self.whole, self.part, self.model, self.tokens, self.is_scored = whole, chunk, model, tokens, is_scored

    def reply(self, choices: list[dict[str, Any]], is_chunk: bool) -> dict[str, Any]:
        kind = self.part if is_chunk else self.whole
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class ChatForm(_Reply):
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, model: str, tokens: TokenText, is_scored: bool) -> None:
        super().__init__("chatcmpl", "chat.completion", "chat.completion.chunk", model, tokens, is_scored)

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, piece: Piece, reason: str | None) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text or piece.scored else {}
        return {"index": index, "delta": delta, "logprobs": self._logprobs(piece.scored), "finish_reason": reason}

    def choice(self, index: int, text: str, scored: Sequence[Scored], reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        logprobs = self._logprobs(scored) if self.is_scored else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scored: Sequence[Scored]) -> dict[str, Any] | None:
        if not self.is_scored or not scored:
            return None if not self.is_scored else {"content": [], "refusal": None}
        content = [
            {**self._token(one.id, one.logprob), "top_logprobs": [self._token(id, value) for id, value in one.top]}
            for one in scored
        ]
        return {"content": content, "refusal": None}

    def _token(self, id: int, logprob: float) -> dict[str, Any]:
        spelt = self.tokens.bytes_of(id)
        return {"token": spelt.decode("utf-8", "replace"), "logprob": max(logprob, LOWEST), "bytes": list(spelt)}


class CompletionForm(_Reply):
    """`text_completion`, also for chunks."""

    def __init__(self, model: str, tokens: TokenText, is_scored: bool) -> None:
        super().__init__("cmpl", "text_completion", "text_completion", model, tokens, is_scored)

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def chunk(self, index: int, piece: Piece, reason: str | None) -> dict[str, Any]:
        return self.choice(index, piece.text, piece.scored, reason)

    def choice(self, index: int, text: str, scored: Sequence[Scored], reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(scored) if self.is_scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scored: Sequence[Scored]) -> dict[str, Any]:
        def best(one: Scored) -> dict[str, float]:
            pairs = [(self.tokens.text_of(id), max(value, LOWEST)) for id, value in one.top]
            return dict(reversed(pairs))  # of two tokens with one text the better one stays

        return {
            "tokens": [self.tokens.text_of(one.id) for one in scored],
            "token_logprobs": [max(one.logprob, LOWEST) for one in scored],
            "top_logprobs": [best(one) for one in scored],
            "text_offset": [one.start for one in scored],
        }
