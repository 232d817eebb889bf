"""One turn of a conversation that is kept whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says, in the words of the OpenAI chat format.

    role: one of `ROLES`. content: its text; empty only beside `tool_calls`. learn: false for an answer that is part of
    the conversation and carries no loss (`weight: 0`). more: further fields of the message as they were given, such as
    `tool_calls`, `tool_call_id` and `name`.
    """

    role: str
    content: str
    learn: bool = True
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Turn:
        """The turn that `as_dict` wrote."""
        more = {name: value for name, value in message.items() if name not in ("role", "content", "weight")}
        return cls(message["role"], message["content"], message.get("weight") != 0, more)

    def message(self) -> dict[str, Any]:
        """The turn as chat templates read it."""
        return {"role": self.role, "content": self.content, **self.more}

    def as_dict(self) -> dict[str, Any]:
        """The message, with OpenAI's mark `weight: 0` where it is not learnt."""
        return self.message() if self.learn else {**self.message(), "weight": 0}
