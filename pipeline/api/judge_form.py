"""The form of a judge's prompt and reply: texts to be judged between marked tags, the decision on the last line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.run.files import sha256_json

PLACE = re.compile(r"\{(\w+)\}")


def mark_of(texts: Sequence[str]) -> str:
    """A mark for the tags around these texts, 8 hex digits: a hash of them, so that no text can close its own tag."""
    return sha256_json(list(texts))[:8]


def filled(template: str, mark: str, **texts: str) -> str:
    """The template with the mark and the texts in their places. A text is inserted as it is, whatever it holds.

    Raises:
        KeyError: the template has a place for which there is no text.
    """
    return PLACE.sub(lambda place: {"mark": mark, **texts}[place[1]], template)


def decision_line(name: str, values: str) -> re.Pattern[str]:
    """A pattern for a line such as `Verdict: A`, with or without bold type. values: a pattern of the decisions."""
    return re.compile(rf"[*_\s]*{name}[*_\s]*:[*_\s]*({values})[*_\s.]*", re.IGNORECASE)


def decision(reply: str, line: re.Pattern[str]) -> str | None:
    """The decision on the last line, in small letters; None where there is none, or an earlier line has another."""
    lines = [text for text in reply.split("\n") if text.strip()]
    found = [match[1].lower() for text in lines if (match := line.fullmatch(text))]
    if not found or not line.fullmatch(lines[-1]) or len(set(found)) > 1:
        return None
    return found[0]
