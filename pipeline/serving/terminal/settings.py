"""How answers are sampled, as `/set` shows and changes it."""

from __future__ import annotations

from pydantic import ValidationError

from pipeline.config.schema import Chat
from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest

KEYS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition": "repetition_penalty",
    "max_new_tokens": "max_new_tokens", "seed": "seed",
}  # fmt: skip
ALSO = {"repetition_penalty": "repetition", "max_tokens": "max_new_tokens"}
NONE = ("", "none", "off", "null")


def shown(settings: Chat) -> str:
    """All settings with their values."""
    return ", ".join(f"{name} {_text(getattr(settings, key))}" for name, key in KEYS.items())


def changed(settings: Chat, words: str) -> Chat:
    """The settings with another value. words: `NAME VALUE` or `NAME=VALUE`.

    Raises:
        UserError: no such setting, or not a value of it.
    """
    name, _, value = words.replace("=", " ", 1).partition(" ")
    name, value = name.strip().removeprefix("chat."), value.strip()
    name = ALSO.get(name, name)
    if name not in KEYS:
        fix = nearest(name, [*KEYS, *ALSO], f"there are {', '.join(KEYS)}")
        raise UserError(f"no setting is called {name[:40]}", "", fix)
    key = KEYS[name]
    if not value:
        raise UserError(f"{name} is {_text(getattr(settings, key))}", "", f"/set {name} VALUE changes it")
    given: str | None = None if key == "seed" and value.lower() in NONE else value
    try:
        return Chat.model_validate({**settings.model_dump(), key: given})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{name} cannot be {value[:40]}: {why[:1].lower()}{why[1:]}", "", f"/set {name} VALUE"
        ) from None


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
