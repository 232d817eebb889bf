"""Published conversations that have no field of messages: guanaco's texts and UltraChat's lists. For chat templates.

    {"text": "### Human: Q1### Assistant: A1### Human: ..."}    timdettmers/openassistant-guanaco; 질문, 답변: KoAlpaca
    {"id": "0", "data": ["Q1", "A1", "Q2", "A2"]}               stingning/ultrachat

hh-rlhf's `Human:` and `Assistant:` texts are in preference.py, UltraChat 200k has `messages`.
Sources: the data sets' cards on the hub; Beomi/KoAlpaca for the Korean headings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HEADING = re.compile(r"(?<!#)###[ \t]*(Human|User|Assistant|질문|답변)[ \t]*:")
ROLES = {"Human": "user", "User": "user", "질문": "user", "Assistant": "assistant", "답변": "assistant"}


def form_of_text(row: Any) -> str:
    """`guanaco` or `ultrachat` if a row is such a conversation, else empty."""
    if not isinstance(row, Mapping):
        return ""
    names = {str(name).strip().lower(): name for name in row}
    if set(names) - {"id"} == {"text"}:
        text = row[names["text"]]
        return "guanaco" if isinstance(text, str) and HEADING.match(text.lstrip()) else ""
    if set(names) == {"id", "data"}:
        data = row[names["data"]]
        return "ultrachat" if isinstance(data, list) and data and all(isinstance(text, str) for text in data) else ""
    return ""


def messages_of_text(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a row for which `form_of_text` gives a name."""
    value = next(value for name, value in row.items() if name.strip().lower() in ("text", "data"))
    if not isinstance(value, str):
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
    parts = HEADING.split(value.strip())  # text before, heading, text, heading, text, ...
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": ROLES[heading], "content": text.strip()} for heading, text in turns]
