"""Earlier turns of a conversation, as `pipeline.dataset.read.conversation` writes them into a row's input."""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.dataset.example import Example

FROM_USER = re.compile(r"\nUser: ")
OPENINGS = ("User: ", "Assistant: ")


def shortened(example: Example) -> list[Example]:
    """The row with ever fewer earlier turns, the oldest gone first, down to none; empty where it has no history.

    Every one begins with a user's turn. Instruction and answer stay as they are.
    """
    if not example.thread or not example.input.startswith(OPENINGS):
        return []
    rest = [example.input[found.start() + 1 :] for found in FROM_USER.finditer(example.input)]
    return [replace(example, input=text) for text in (*rest, "")]
