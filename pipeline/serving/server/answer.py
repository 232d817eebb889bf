"""One answer while it arrives: the engine's tokens as text with stop texts and log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.prompt.tokenizer import Tokenizer
from pipeline.serving.engine.request import Finished, NewToken
from pipeline.serving.engine.text_stream import TextStream
from pipeline.serving.server.stop_text import StopText

Ending = Literal["stop", "length"]


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability. start: characters of the answer before its text."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    start: int


@dataclass(frozen=True)
class Piece:
    """What an event adds to an answer. finish: why it ended; None: it goes on. scored: tokens, where asked for."""

    text: str
    scored: tuple[Scored, ...] = ()
    finish: Ending | None = None


class Answer:
    """Turns the events of one request into pieces.

    Attributes:
        tokens: number of tokens so far, the end token included. finish: why it ended; None: not yet.
        stopped_by: the stop text that ended it, or `timeout`.
    """

    def __init__(
        self, tokenizer: Tokenizer, prefix: str, begun: tuple[int, ...], stop: tuple[str, ...],
        end_ids: frozenset[int], is_scored: bool,
    ) -> None:  # fmt: skip
        """prefix: what the template writes in front of answers. begun: ids of an answer that goes on."""
        self.stream = TextStream(tokenizer, "" if begun else prefix)
        for id in begun:
            self.stream.push(id)
        self.stop = StopText(stop)
        self.end_ids, self.is_scored = end_ids, is_scored
        self.tokens = 0
        self.finish: Ending | None = None
        self.stopped_by: str | None = None
        self._length = self._passed = 0  # characters decoded, and passed on
        self._waiting: list[Scored] = []  # their text is not passed on yet

    def take(self, event: NewToken) -> Piece | None:
        """The piece that a token completes; None: nothing to pass on yet. It ends the answer at a stop text."""
        if self.finish is not None:
            return None
        self.tokens += 1
        if event.id in self.end_ids:
            return None
        if self.is_scored:
            self._waiting.append(Scored(event.id, event.logprob or 0.0, event.top, self._length))
        return self._passed_on(self.stream.push(event.id))

    def end(self, event: Finished) -> Piece | None:
        """The last piece; None: the answer has ended before."""
        if self.finish is not None:
            return None
        last = self._passed_on(self.stream.finish()) or Piece("")
        if self.finish is not None:  # the rest held a stop text
            return last
        self.finish = "stop" if event.reason == "stop" else "length"
        scored, self._waiting = (*last.scored, *self._waiting), []
        return Piece(last.text + self.stop.finish(), scored, self.finish)

    def _passed_on(self, text: str) -> Piece | None:
        self._length += len(text)
        passed = self.stop.push(text)
        self._passed += len(passed)
        if self.stop.found is not None:
            self.finish, self.stopped_by = "stop", self.stop.found
        elif not passed:
            return None
        ready = sum(scored.start < self._passed for scored in self._waiting)
        scored, self._waiting = tuple(self._waiting[:ready]), self._waiting[ready:]
        return Piece(passed, scored, self.finish)
