"""A request while it runs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from pipeline.serving.engine.request import Finished, GenerationRequest, Listener, NewToken
from pipeline.serving.engine.sampler import RowSampling


@dataclass(eq=False)
class Slot:
    """A request from its submission to its end.

    Attributes:
        adapter: number of its adapter in the batch, None for the model alone.
        limit: most tokens of its answer, what the context leaves room for.
        length: columns of its row in the cache. read: ids of the prompt that were read. answered: tokens given out.
        last: the newest token, not in the cache so far.
        is_cancelled: set by any thread.
    """

    request: GenerationRequest
    listener: Listener
    adapter: int | None = None
    limit: int = 0
    sampling: RowSampling | None = None
    length: int = 0
    read: int = 0
    answered: int = 0
    last: int = 0
    is_cancelled: bool = False
    is_over: bool = field(default=False, init=False)

    def give(self, token: NewToken | None) -> None:
        """Gives out a token, and the end of the answer if it is the last one. None: the logits were not finite."""
        if token is None:
            self.end(Finished("error", "the model's logits are not finite"))
            return
        self.last = token.id
        self.answered += 1
        self._tell(token)
        if token.id in self.request.end_ids:
            self.end(Finished("stop"))
        elif self.answered >= self.limit:
            self.end(Finished("length"))

    def end(self, event: Finished) -> None:
        """Ends the request; later calls have no effect."""
        if not self.is_over:
            self.is_over = True
            self._tell(event)

    def _tell(self, event: NewToken | Finished) -> None:
        # A listener's error is the listener's: the other answers go on.
        with contextlib.suppress(Exception):
            self.listener(event)
            return
        self.is_cancelled = True
