"""What a chat prints: messages as wide as the terminal, and answers while they are generated."""

from __future__ import annotations

import contextlib
import shutil
import sys
from typing import Any

from transformers import TextStreamer

from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.run.terminal import safe
from pipeline.run.width import WIDTH, wrapped

NARROWEST = 20  # columns; below that words stay whole anyway


def width() -> int:
    """Columns of a message: those of the terminal, at most `WIDTH`."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(NARROWEST, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def tell(text: str, hanging: int = 2) -> None:
    """Prints a message. hanging: columns by which continued lines are indented."""
    say(wrapped(safe(text), hanging, width()), hanging=hanging)


def tell_error(error: UserError) -> None:
    """Prints why a command of the chat was refused, in one line, and how to fix it."""
    tell(f"[{error.what}{'; ' + error.fix if error.fix else ''}]")


class AnswerStream(TextStreamer):
    """Prints an answer while it is generated, with control characters as escapes; keeps its ids.

    Text is printed up to the last space, so that no letter is printed in halves.
    """

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, **options)
        self.ids: list[int] = []

    def put(self, value: Any) -> None:
        """Takes the prompt first, then a token at a time."""
        if not self.next_tokens_are_prompt:
            self.ids += value.flatten().tolist()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        super().on_finalized_text(safe(text), stream_end)

    def stop(self) -> None:
        """Prints what is left of an answer that was stopped."""
        with contextlib.suppress(Exception):  # it may have been stopped in the middle of `put`
            self.end()
            return
        print()
