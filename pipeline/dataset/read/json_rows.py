"""Rows of a JSON array or of JSONL, read as a stream: memory holds a few megabytes and the longest row.

In JSONL only the bad line is rejected. In an array the end of a row with a syntax error is unknown, so it stops the
run; a row that is valid but unusable (nested too deeply, a key twice) is rejected alone.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from pipeline.dataset.read.compressed import CHUNK, Stream
from pipeline.dataset.read.conversation import CONVERSATION
from pipeline.dataset.read.forms import is_row
from pipeline.dataset.read.row import RawRow
from pipeline.run.errors import UserError
from pipeline.run.json_file import is_deeper

SPACE = re.compile(r"[ \t\n\r]*")
BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)  # or a whole string, to skip it
MAX_DEPTH = 200  # of nested brackets; far above any data, and below what Python can pickle and write
PROBE = 4 << 20  # bytes read to distinguish a file of one large object from a bad first line
LIST = re.compile(r'"(?P<key>[^"\\]{1,40})"\s*:\s*\[\s*\{')  # a field that holds a list of objects
TOO_DEEP = "not readable JSON: brackets are nested too deeply"
FIX = "fix that place, or fetch the file again"


class Decoder(json.JSONDecoder):
    """Python's decoder, with numbers of any length. `repeated` collects keys that occur twice in an object with
    different values: the intended one is unknown."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        super().__init__(parse_int=_integer, object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            self.repeated += [k for k, v in pairs if v != values[k] or type(v) is not type(values[k])]
        return values

    def row(self, value: Any, text: str, start: int, end: int, place: str) -> RawRow:
        """The row that was just decoded from `text[start:end]`, rejected if it cannot be used."""
        if self.repeated:
            name, self.repeated = self.repeated[0], []
            reason = f"the field {name[:40]!r} occurs twice, with different values"
            return RawRow(value, place, reason, "duplicate-key")
        if text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
            return RawRow(None, place, TOO_DEEP)
        return RawRow(value, place)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4000 else Decimal(digits)  # Python refuses to parse longer ones


# --- an array


class _Window:
    """The part of a long text that is in memory. `at` is the position in it; `more` reads on and drops what is before.

    file   ...already parsed |  text = [ dropped by `more` | at -> still to parse ] | not read yet ...
    """

    def __init__(self, stream: Stream, line: int) -> None:
        self.stream = stream
        # Invalid bytes become lone surrogates: they cost the rows that hold them, not the file.
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.text, self.at, self.ended = "", 0, False
        self.line, self.counted, self.before = line, 0, 0  # line of text[counted]; characters of it before text[0]

    def more(self) -> bool:
        """Reads on, at least as much as is in memory, so that a long row is parsed about twice; False: the end."""
        if self.ended:
            return False
        self.line_here()
        last = self.text.rfind("\n", 0, self.at)
        self.before = self.at - last - 1 if last >= 0 else self.before + self.at
        rest = self.text[self.at :]
        data = self.stream.read(max(CHUNK, len(rest)))
        self.ended = not data
        self.text, self.at, self.counted = rest + self.decode(data, self.ended), 0, 0
        return True

    def next_character(self) -> str:
        """Moves over white space and returns the character there; empty at the end."""
        while True:
            space = SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def line_here(self) -> int:
        """The line of `at`."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def place(self, at: int) -> str:
        """`line:column` of a position at or after `at`."""
        last = self.text.rfind("\n", 0, at)
        column = at - last if last >= 0 else self.before + at + 1
        return f"{self.line_here() + self.text.count(chr(10), self.at, at)}:{column}"

    def closing_bracket(self) -> int:
        """The position after the bracket that closes the one at `at`; -1 if the text ends before."""
        while True:
            depth = 0
            for match in BRACKET.finditer(self.text, self.at):
                token = match.group()
                if token == '"':  # a string whose end has not been read yet
                    break
                depth += (token in "[{") - (token in "]}")
                if depth == 0:
                    return match.end()
            if not self.more():
                return -1


def array(stream: Stream, name: str, line: int) -> Iterator[RawRow]:
    """Rows of the JSON array that begins in the file's line `line`, each with its line.

    Raises:
        UserError: a syntax error, an end in the middle, an empty array, or something after the array.
    """
    window, decoder, number = _Window(stream, line), Decoder(), 0
    window.next_character()
    window.at += 1
    while window.next_character() != "]":
        number += 1
        place = f"{name}:{window.line_here()} (row {number})"
        yield _element(window, decoder, name, place, number)
        character = window.next_character()
        if character == ",":
            window.at += 1
        elif character != "]":
            what = f"expected , or ] after row {number}, found {character!r}"
            if not character:
                what = f"the file ends in the middle, after row {number}"
            raise UserError(what, f"{name}:{window.line_here()}", FIX)
    window.at += 1
    if window.next_character():
        rest = window.text[window.at : window.at + 20].strip()
        raise UserError(f"something follows the array: {rest!r}", f"{name}:{window.line_here()}", "keep one JSON array")
    if number == 0:
        raise UserError("the array is empty", name, "it needs rows of instruction, input and output")


def _element(window: _Window, decoder: Decoder, name: str, place: str, number: int) -> RawRow:
    """The array's next row; moves the window to its end."""
    while True:
        decoder.repeated.clear()
        try:
            value, end = decoder.raw_decode(window.text, window.at)
        except RecursionError:
            start = f"{name}:{window.line_here()}, row {number}"
            end = window.closing_bracket()
            if end < 0:
                raise UserError(TOO_DEEP, start, "fix or delete that row") from None
            window.at = end
            return RawRow(None, place, TOO_DEEP)
        except json.JSONDecodeError as error:
            if _may_go_on(error, len(window.text)) and window.more():
                continue
            what = f"not valid JSON: {error.msg}"
            if error.pos >= len(window.text.rstrip()) or error.msg.startswith("Unterminated string"):
                what = f"the file ends in the middle of row {number}"
            raise UserError(what, f"{name}:{window.place(error.pos)}, row {number}", FIX) from None
        # The rest of a number may not have been read yet: 1 of 12, 1 of 1e+5.
        if isinstance(value, int | float | Decimal) and end + 2 >= len(window.text) and window.more():
            continue
        row = decoder.row(value, window.text, window.at, end, place)
        window.at = end
        return row


def _may_go_on(error: json.JSONDecodeError, length: int) -> bool:
    """Whether more text could resolve the error. 16: longer than any literal or escape."""
    return error.pos >= length - 16 or error.msg.startswith("Unterminated string")


# --- lines


def lines(stream: Stream, name: str, line: int) -> Iterator[RawRow]:
    """Rows of JSONL; the stream begins with the file's line `line`.

    Raises:
        UserError: the file is one JSON object over several lines, or one that holds the rows inside.
    """
    yield from parsed_lines(itertools.chain(_first(stream, name, line), stream), name, line)


def parsed_lines(lines: Iterable[bytes], name: str, line: int) -> Iterator[RawRow]:
    """The value of each line that is not blank; the first one is the file's line `line`."""
    decoder = Decoder()
    for number, data in enumerate(lines, line):  # bytes, which end at \n only: text mode would also cut at a lone \r
        if data.isspace():
            continue
        text = data.decode("utf-8", "surrogateescape")
        place = f"{name}:{number}"
        decoder.repeated.clear()
        try:
            value = decoder.decode(text.removeprefix("\ufeff"))  # of a file that was appended to another
        except RecursionError:
            yield RawRow(None, place, TOO_DEEP)
            continue
        except ValueError as error:
            yield RawRow(None, place, f"not valid JSON: {getattr(error, 'msg', error)}")
            continue
        yield decoder.row(value, text, 0, len(text), place)


def _first(stream: Stream, name: str, line: int) -> list[bytes]:
    """The first line, or more if more are needed to see that the file is JSONL."""
    head = [stream.readline()]
    text = head[0].decode("utf-8", "surrogateescape")
    start = text.find("{")
    place = f"{name}:{line}"
    try:
        whole, end = Decoder().raw_decode(text, start)
    except json.JSONDecodeError as error:
        if not _may_go_on(error, len(text)):
            return head  # a bad row
    except RecursionError:
        return head
    else:
        if not text[end:].strip() and _alone(stream, head):
            _refuse_rows_inside(whole, place, several=False)
        return head
    head += stream.readlines(PROBE)
    text = b"".join(head).decode("utf-8", "surrogateescape")
    try:
        whole, end = Decoder().raw_decode(text, start)
    except json.JSONDecodeError as error:
        if _may_go_on(error, len(text)) and stream.peek(1):
            inside = LIST.search(text)
            fix = f"save the list under {inside['key']!r}" if inside else "save the list of rows inside it"
            raise UserError("a JSON object instead of rows: it goes on for more than 4 MB", place,
                            f"{fix} as a file of its own") from None  # fmt: skip
        return head
    except RecursionError:
        return head
    if not text[end:].strip() and _alone(stream, head):
        _refuse_rows_inside(whole, place, several=True)
    raise UserError("JSON objects over several lines each, with no array around them", place,
                    "put the rows between [ and ] with commas, or each row on one line")  # fmt: skip


def _alone(stream: Stream, head: list[bytes]) -> bool:
    """Whether only blank lines follow; lines that had to be read are added to `head`."""
    while data := stream.readline():
        head.append(data)
        if not data.isspace():
            return False
    return True


def _refuse_rows_inside(whole: dict[str, Any], place: str, several: bool) -> None:
    """Checks the only object of a file.

    Raises:
        UserError: it goes over several lines, or it is not a row and holds a list of objects, which must be the rows.
    """
    inside = [k for k, v in whole.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    inside = [k for k in inside if k not in ("instances", "history", *CONVERSATION)]  # parts of one row
    if not several and (not inside or is_row(whole)):
        return
    keys = ", ".join(repr(key[:40]) for key in list(whole)[:5])
    fix = f"keep the list under {inside[0]!r} and save that as the file" if inside else "put the rows between [ and ]"
    raise UserError(f"a JSON object instead of an array of rows (its keys: {keys})", place, fix)
