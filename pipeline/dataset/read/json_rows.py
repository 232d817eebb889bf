"""Rows of a JSON array or of JSONL, read piece by piece: memory holds a few megabytes and the longest row.

In JSONL a bad line costs only itself. In an array nobody can tell where a row with a syntax error ends, so that one
stops the run; a row that is valid but unusable (nested too deeply, a key twice) costs only itself there too.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from pipeline.dataset.read.compressed import CHUNK, Stream
from pipeline.dataset.read.conversation import CONVERSATION
from pipeline.dataset.read.form import is_row
from pipeline.dataset.read.raw import Raw
from pipeline.run.errors import UserError

SPACE = re.compile(r"[ \t\n\r]*")
BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)  # a whole text counts as one
MAX_DEPTH = 200  # brackets in brackets; far above any data, and below what Python can pickle and write again
PROBE = 4 << 20  # bytes looked at to tell a file of one large object from a bad first line
LIST = re.compile(r'"(?P<key>[^"\\]{1,40})"\s*:\s*\[\s*\{')  # a field that holds a list of objects
TOO_DEEP = "not readable JSON: brackets are nested too deeply"
MEND = "mend that place, or fetch the file again"


class Decoder(json.JSONDecoder):
    """Python's decoder, but numbers may have any length, and `repeated` gathers keys that stand twice in an object
    with different values: which of them was meant cannot be known."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        super().__init__(parse_int=_integer, object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            self.repeated += [k for k, v in pairs if v != found[k] or type(v) is not type(found[k])]
        return found

    def problem(self, value: Any, text: str, start: int, end: int) -> tuple[str, str]:
        """Rule and reason when the row just decoded from `text[start:end]` cannot be used, or two empty texts."""
        if self.repeated:
            name, self.repeated = self.repeated[0], []
            return "duplicate-key", f"the field {name[:40]!r} stands there twice, with different values"
        if text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH and _too_deep(value):
            return "not-json", TOO_DEEP
        return "", ""


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4000 else Decimal(digits)  # Python refuses to parse longer ones


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inside = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [v for values in inside for v in values]
        if not level:
            return False
    return any(isinstance(v, dict | list) for v in level)


# --- an array


class _Window:
    """The part of a long text that is looked at. `at` moves on in it, `more` cuts what lies before `at`."""

    def __init__(self, stream: Stream, line: int) -> None:
        self.stream = stream
        # Invalid bytes become lone surrogates: they cost the rows that hold them, not the file.
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.text, self.at, self.ended = "", 0, False
        self.line, self.counted, self.before = line, 0, 0  # line of text[counted]; signs of that line before text[0]

    def more(self) -> bool:
        """Reads on, by at least as much as is there, so that one long row is parsed but twice over; False: the end."""
        if self.ended:
            return False
        self.here()
        last = self.text.rfind("\n", 0, self.at)
        self.before = self.at - last - 1 if last >= 0 else self.before + self.at
        rest = self.text[self.at :]
        data = self.stream.read(max(CHUNK, len(rest)))
        self.ended = not data
        self.text, self.at, self.counted = rest + self.decode(data, self.ended), 0, 0
        return True

    def sign(self) -> str:
        """Moves over white space and says what stands there; empty at the end."""
        while True:
            found = SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def here(self) -> int:
        """The line of `at`."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def place(self, at: int) -> str:
        """`line:column` of a position at or behind `at`."""
        last = self.text.rfind("\n", 0, at)
        column = at - last if last >= 0 else self.before + at + 1
        return f"{self.here() + self.text.count(chr(10), self.at, at)}:{column}"

    def close(self) -> int:
        """The position behind the bracket that closes the one at `at`; -1 when the text ends before."""
        while True:
            depth = 0
            for found in BRACKET.finditer(self.text, self.at):
                sign = found.group()
                if sign == '"':  # a text whose end has not been read yet
                    break
                depth += (sign in "[{") - (sign in "]}")
                if depth == 0:
                    return found.end()
            if not self.more():
                return -1


def array(stream: Stream, name: str, line: int) -> Iterator[Raw]:
    """Rows of the JSON array that begins in the stream's line `line`, each with its line.

    Raises:
        UserError: a syntax error, an end in the middle, an empty array, or something behind the array.
    """
    window, decoder, number = _Window(stream, line), Decoder(), 0
    window.sign()
    window.at += 1
    while window.sign() != "]":
        number += 1
        place = f"{name}:{window.here()} (row {number})"
        yield _element(window, decoder, name, place, number)
        sign = window.sign()
        if sign == ",":
            window.at += 1
        elif sign != "]":
            said = f"expected , or ] after row {number}, found {sign!r}"
            if not sign:
                said = f"the file ends in the middle, after row {number}"
            raise UserError(said, f"{name}:{window.here()}", MEND)
    window.at += 1
    if window.sign():
        found = window.text[window.at : window.at + 20].strip()
        raise UserError(f"something follows the array: {found!r}", f"{name}:{window.here()}", "keep one JSON array")
    if number == 0:
        raise UserError("the array is empty", name, "it needs rows of instruction, input and output")


def _element(window: _Window, decoder: Decoder, name: str, place: str, number: int) -> Raw:
    """The array's next row; the window stands behind it afterwards."""
    while True:
        decoder.repeated.clear()
        try:
            value, end = decoder.raw_decode(window.text, window.at)
        except RecursionError:
            start = f"{name}:{window.here()}, row {number}"
            end = window.close()
            if end < 0:
                raise UserError(TOO_DEEP, start, "mend or delete that row") from None
            window.at = end
            return Raw(None, place, TOO_DEEP)
        except json.JSONDecodeError as error:
            if _may_go_on(error, len(window.text)) and window.more():
                continue
            said = f"not valid JSON: {error.msg}"
            if error.pos >= len(window.text.rstrip()) or error.msg.startswith("Unterminated string"):
                said = f"the file ends in the middle of row {number}"
            raise UserError(said, f"{name}:{window.place(error.pos)}, row {number}", MEND) from None
        # The rest of a number may not have been read yet: 1 of 12, 1 of 1e+5.
        if isinstance(value, int | float | Decimal) and end + 2 >= len(window.text) and window.more():
            continue
        rule, reason = decoder.problem(value, window.text, window.at, end)
        window.at = end
        return Raw(None if reason == TOO_DEEP else value, place, reason, rule) if rule else Raw(value, place)


def _may_go_on(error: json.JSONDecodeError, length: int) -> bool:
    """Whether text behind the end of what was read could still cure the error. 16: more than any literal or escape."""
    return error.pos >= length - 16 or error.msg.startswith("Unterminated string")


# --- lines


def lines(stream: Stream, name: str, line: int) -> Iterator[Raw]:
    """Rows of JSONL; the stream begins with the file's line `line`.

    Raises:
        UserError: the file is one JSON object over several lines, or one that holds the rows inside.
    """
    decoder = Decoder()
    # Only \n ends a line: text mode would also cut at a lone \r.
    for number, data in enumerate(itertools.chain(_first(stream, name, line), stream), line):
        if data.isspace():
            continue
        text = data.decode("utf-8", "surrogateescape")
        place = f"{name}:{number}"
        decoder.repeated.clear()
        try:
            value = decoder.decode(text.removeprefix("\ufeff"))  # files that were put one behind the other
        except RecursionError:
            yield Raw(None, place, TOO_DEEP)
            continue
        except ValueError as error:
            yield Raw(None, place, f"not valid JSON: {getattr(error, 'msg', error)}")
            continue
        rule, reason = decoder.problem(value, text, 0, len(text))
        yield Raw(None if reason == TOO_DEEP else value, place, reason, rule) if rule else Raw(value, place)


def _first(stream: Stream, name: str, line: int) -> list[bytes]:
    """The first line, or more when it takes more to see that the file is JSONL at all."""
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
    """Whether nothing but blank lines follows; what had to be read for it goes to `head`."""
    while data := stream.readline():
        head.append(data)
        if not data.isspace():
            return False
    return True


def _refuse_rows_inside(whole: dict[str, Any], place: str, several: bool) -> None:
    """Stops when the only object of a file is over several lines, or is no row and holds a list of objects that must
    be the rows."""
    inside = [k for k, v in whole.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    inside = [k for k in inside if k not in ("instances", "history", *CONVERSATION)]  # parts of one row
    if not several and (not inside or is_row(whole)):
        return
    keys = ", ".join(repr(key[:40]) for key in list(whole)[:5])
    fix = f"keep the list under {inside[0]!r} and save that as the file" if inside else "put the rows between [ and ]"
    raise UserError(f"a JSON object instead of an array of rows (its keys: {keys})", place, fix)
