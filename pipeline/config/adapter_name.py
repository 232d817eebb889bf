"""What an adapter in the store may be called: a list of what is allowed, not of what is not.

A name becomes a folder's name and a word on a command line, so one string must mean one folder everywhere. Allowed are
ASCII letters and digits, `-`, `_` and precomposed Hangul syllables (U+AC00 to U+D7A3), a letter first, 64 at most.
Among these there is no separator, no dot, no white space, nothing invisible and nothing that turns the writing
direction. A Hangul syllable is its own NFC and NFKC form and has no upper or lower case; jamo, half-width forms and
syllables in pieces (NFD) are outside the range. So two different allowed names are never equal after normalising, case
aside, and the store refuses two names that differ in case alone. 64 syllables are 192 bytes, below the 255 of a file's
name.
"""

from __future__ import annotations

import re
import unicodedata

from pipeline.run.errors import UserError
from pipeline.run.terminal import quoted

ALLOWED = re.compile(r"[A-Za-z가-힣][A-Za-z0-9가-힣_-]*")
LONGEST = 64
RULE = "letters a-z and A-Z, digits, Hangul syllables, - and _, a letter first, at most 64 characters"
BASE = "base"  # where an adapter is asked for: none, the base alone
# Devices of Windows, whatever their ending; words that YAML or our own commands read as something else.
RESERVED = {
    *("con", "prn", "aux", "nul"), *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
    *("true", "false", "yes", "no", "on", "off", "null", "none"), BASE, "default", "all",
}  # fmt: skip


def problem(name: str) -> str:
    """Why an adapter cannot be called so; empty when it can."""
    if not name:
        return "an adapter needs a name"
    if len(name) > LONGEST:
        return f"the name {quoted(name)} is longer than {LONGEST} characters"
    if name.lower() in RESERVED:
        return f"the name {name} is reserved"
    if ALLOWED.fullmatch(name):
        return ""
    composed = unicodedata.normalize("NFC", name)
    if composed != name and ALLOWED.fullmatch(composed):
        return f"the name {quoted(name)} is written in pieces (Unicode form NFD); type it anew as {composed}"
    wrong = next((c for c in name if not ALLOWED.fullmatch("a" + c)), name[0])
    return f"the name {quoted(name)} holds {_character(wrong)}, which an adapter's name cannot"


def check(name: str, where: str = "the adapter's name") -> str:
    """The name, when it is one.

    Raises:
        UserError: it is not.
    """
    if wrong := problem(name):
        raise UserError(wrong, where, f"allowed are {RULE}")
    return name


def _character(c: str) -> str:
    """A character by its sign, where it has one, its code, and its name."""
    sign = f"'{c}' " if c.isprintable() and not unicodedata.combining(c) else ""
    if c.isascii() and c.isalnum():
        return f"{sign}in front"
    name = unicodedata.name(c, "")
    return f"{sign}(U+{ord(c):04X}{' ' + name if name else ''})"
