"""Stops a command when nothing but errors comes."""

from __future__ import annotations

from collections import Counter

from pipeline.api.failure import Failure, Kind, Who, user_error
from pipeline.run.errors import UserError

TRIES = 20  # failed tries in a row, of all requests together, and
REQUESTS = 3  # requests without a reply after all their tries, and no reply in between
FIRST_CONTACT = 3  # tries of an address that never answered; more would only keep a user waiting
NAMES: dict[Kind, str] = {
    "busy": "busy", "server": "server error", "connection": "no connection", "timeout": "time-out",
    "request": "refused", "size": "too large", "no-api": "no reply of the API",
}  # fmt: skip


class Breaker:
    """Counts failures since the last reply.

    Attributes:
        replies: that ever came in this command.
    """

    def __init__(self, who: Who) -> None:
        self.who, self.replies = who, 0
        self._tries: Counter[Kind] = Counter()
        self._requests = 0

    def succeeded(self) -> None:
        """After a reply."""
        self.replies += 1
        if self._tries:
            self._tries.clear()
            self._requests = 0

    def failed(self, failure: Failure, tries: int) -> None:
        """After a failed try. tries: of this request so far.

        Raises:
            UserError: the address never answered.
        """
        self._tries[failure.kind] += 1
        is_new = not self.replies and set(self._tries) <= {"connection", "no-api"}
        if is_new and tries >= min(FIRST_CONTACT, self.who.retries + 1):
            raise user_error(failure, Who(**{**vars(self.who), "retries": tries - 1}))

    def gave_up(self, failure: Failure) -> None:
        """After the last try of a request.

        Raises:
            UserError: nothing but errors comes.
        """
        self._requests += 1
        total = self._tries.total()
        if self._requests < REQUESTS or total < TRIES:
            return
        counts = ", ".join(f"{NAMES.get(kind, kind)} {count:,}" for kind, count in self._tries.most_common())
        last = user_error(failure, self.who)
        what = f"the last {total:,} tries gave no reply ({counts}). The last error: {last.what}"
        raise UserError(what, last.where, f"{last.fix}; replies so far are kept, and the same command goes on")
