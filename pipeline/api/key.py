"""The secret key of a model behind an address: from the environment, and in no message."""

from __future__ import annotations

import os
from typing import Protocol

from pipeline.run.errors import UserError

OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # sent to a server that needs no key
LONGEST_DETAIL = 200  # characters of a server's text in a message


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


def without_key(text: str, key: str) -> str:
    """A text of the server in which the key is replaced; servers may repeat what they were sent."""
    return text if key == NO_KEY or key not in text else text.replace(key, "[key]")


def clean(text: str, key: str) -> str:
    """A text of the server for a message: one line, short, without the key."""
    return without_key(" ".join(text.split()), key)[:LONGEST_DETAIL]
