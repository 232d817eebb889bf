"""Kinds of values that a config holds, each with what it refuses."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ConfigDict, Field

from pipeline.adapter_name import problem

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.IGNORECASE)
SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


def number(value: object) -> object:
    """True would pass as 1; in a config that is a mistake, never a wish."""
    if isinstance(value, bool):
        raise ValueError("expected a number, found true/false")
    return value


def count_or_share(value: object) -> object:
    if isinstance(value, float) and value >= 1 and not value.is_integer():
        raise ValueError("expected a share below 1, or whole rows")
    return int(value) if isinstance(value, float) and value >= 1 else number(value)


def adapter_name(value: str) -> str:
    if value and (wrong := problem(value)):
        raise ValueError(wrong)
    return value


def variable_name(value: str) -> str:
    """A name in the environment; most keys would not pass for one, and those that do are no harm there."""
    if value and not VARIABLE.fullmatch(value):
        raise ValueError("must be the name of an environment variable, not the key itself")
    return value


def plain_url(value: str) -> str:
    """An address that can be written into config.yaml, since no key hides in it."""
    try:
        parts = urlsplit(value)
        wrong = bool(value) and (parts.scheme not in ("http", "https") or not parts.hostname)
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError("expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("must not hold a key: put it into the environment variable that judge.key names")
    return value


Action = Literal["on", "warn", "off"]
Count = Annotated[int, BeforeValidator(number), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(number), Field(ge=1)]
Rate = Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
