"""Fields of a request's body, each read with its kind and its range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.run.nearest import nearest
from pipeline.run.terminal import quoted
from pipeline.serving.server.api_error import ApiError, unsupported

KINDS = {type(None): "null", bool: "true/false", int: "a number", float: "a number", str: "a text", list: "a list",
         dict: "an object"}  # fmt: skip
LONGEST_NAME = 60  # characters of a client's text in a message


class Fields:
    """The fields of one body. A field that is null counts as missing."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body

    def __contains__(self, name: str) -> bool:
        return self.body.get(name) is not None

    def get(self, name: str) -> Any:
        return self.body.get(name)

    def flag(self, name: str) -> bool:
        value = self.body.get(name)
        if value is not None and not isinstance(value, bool):
            raise wrong_kind(name, "true or false", value)
        return bool(value)

    def text(self, name: str) -> str:
        value = self.body.get(name)
        if value is not None and not isinstance(value, str):
            raise wrong_kind(name, "a text", value)
        return value or ""

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Raises: ApiError: no number, or not from `low` to `high`."""
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise wrong_kind(name, "a number", value)
        _check_range(name, value, low, high, "decimal")
        return float(value)

    def whole(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """Raises: ApiError: no whole number, or not from `low` to `high`."""
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_kind(name, "a whole number", value)
        _check_range(name, value, low, high, "integer")
        return value

    def check_names(self, known: Iterable[str], neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuses what is not known, and what would change the answer and is not supported.

        Args:
            known: fields that are read or may be ignored. neutral: fields that are not supported, with the values that
                ask for nothing.

        Raises:
            ApiError: names the field.
        """
        known = set(known)
        for name, value in self.body.items():
            if name in neutral:
                if value is not None and not any(value == same and type(value) is type(same) for same in neutral[name]):
                    raise unsupported(name, f"{name} is not supported by this server")
            elif name not in known:
                shown = quoted(name[:LONGEST_NAME])
                hint = nearest(name[:LONGEST_NAME], sorted(known), "")
                message = f"unknown parameter {shown}{f'; {hint}' if hint else ''}"
                raise ApiError(message, name[:LONGEST_NAME], "unknown_parameter")


def _check_range(name: str, value: float, low: float, high: float, kind: str) -> None:
    if value > high:
        raise ApiError(f"{name} is at most {high:,}, not {value:.12g}", name, f"{kind}_above_max_value")
    if value < low:
        raise ApiError(f"{name} is at least {low:,}, not {value:.12g}", name, f"{kind}_below_min_value")


def wrong_kind(name: str, expected: str, value: Any) -> ApiError:
    return ApiError(f"{name} must be {expected}, not {KINDS.get(type(value), 'this')}", name, "invalid_type")
