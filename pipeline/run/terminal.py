"""Text from data, files, models and servers as it may stand on a terminal or in a file that is read on one.

A terminal obeys escape sequences: a row with OSC 52 would set the reader's clipboard, and a bidi override would show
an answer in another order than a program reads it. `say` and `guarded` pass everything through `safe`; coloured text is
built from safe pieces and marked as `Styled`.
"""

from __future__ import annotations

import re
import unicodedata

# C0 but tab and line feed, delete and C1; soft hyphen, zero width space, marks and overrides of the writing direction,
# line and paragraph separators, invisible operators, byte order mark, tags; halves of surrogate pairs, which no
# terminal can be sent. Joiners stay: emoji and some scripts are written with them.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


class Styled(str):
    """Text that is already safe, with escape sequences of our own in it; never made of text from outside alone."""


def safe(text: object) -> str:
    r"""The text with every control and invisible character as an escape such as `\x1b`; letters stay as they are."""
    return UNSAFE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def printable(text: object) -> str:
    """`safe`, but what is `Styled` stays as it is."""
    return text if isinstance(text, Styled) else safe(text)


def quoted(text: str, most: int = 60) -> str:
    """The beginning of a text from outside in quotation marks: letters as they are, everything invisible escaped."""
    start = "".join(c if c.isprintable() and not unicodedata.combining(c) else ascii(c)[1:-1] for c in text[:most])
    return f"'{start}{'...' if len(text) > most else ''}'"
