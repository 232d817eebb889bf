"""Texts put into a prompt's wording."""

from __future__ import annotations

import re

NAME = re.compile(r"\{(\w+)\}", re.ASCII)


def filled(wording: str, **texts: str) -> str:
    """The wording with each `{name}` replaced by the text of that name; other braces, and those in texts, stay."""
    return NAME.sub(lambda match: texts.get(match[1], match[0]), wording)
