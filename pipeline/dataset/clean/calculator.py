"""Computes `+ - * / ^ %` and brackets exactly, without `eval`, recursion or numbers that grow without bound.

The method is Dijkstra's shunting yard with fractions.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MOST_TOKENS = 60
MOST_DIGITS = 18
BIGGEST_POWER = 64
BIGGEST = Fraction(10) ** 40
NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+"
# "3x - 1" and "3x-1" have a variable, "3x4" and "3 x 4" multiply.
VARIABLE = re.compile(r"\dx(?![\d.(])|x[ \t]*[-+]", re.A)
TOKEN = re.compile(rf"\s*(?:(?P<number>{NUMBER})|(?P<sign>\*\*|[-+*/^()%×÷·x−–]))")
SAME = {"×": "*", "x": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "**": "^"}
RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "^": 4}


class Value(NamedTuple):
    """A result, the operators used, and whether decimals and percent signs occurred."""

    value: Fraction
    signs: str
    decimals: bool
    percent: bool


def number(text: str) -> Fraction | None:
    """`1,234.5` as a fraction; None for more than `MOST_DIGITS` digits."""
    plain = text.replace(",", "")
    return Fraction(plain) if len(plain) <= MOST_DIGITS else None


def compute(text: str) -> Value | None:
    """The value of an expression, or None if the text is not clearly one.

    `x` between numbers and `×` multiply, `^` and `**` are powers with whole exponents, `%` after a number is a
    hundredth. None for adjacent numbers, multiplication without a sign (its rank is disputed), a remainder,
    `100 + 20%` (of what?), division by zero and huge results.
    """
    tokens = _tokens(text)
    if tokens is None:
        return None
    values: list[Fraction] = []
    pending: list[str] = []
    signs, expects_value = "", True
    percent = decimals = plain = False
    for index, token in enumerate(tokens):
        if isinstance(token, Fraction):
            if not expects_value:
                return None
            values.append(token)
            expects_value = False
            decimals = decimals or token.denominator != 1
            plain = plain or tokens[index + 1 : index + 2] != ["%"]
        elif token == "%":
            if expects_value or isinstance(tokens[index - 1], str):
                return None
            values[-1] /= 100
            percent = True
        elif token == "(":
            if not expects_value:
                return None
            pending.append(token)
        elif token == ")":
            if expects_value or not _unwind(pending, values, 0) or not pending:
                return None
            pending.pop()
        elif expects_value:
            # A minus sign may begin the expression or a bracket, or follow `*`, `/`, `^`; after + or - it is an error.
            if token != "-" or (pending and pending[-1] not in "(*/^"):
                return None
            pending.append("neg")
        else:
            signs += token
            if not _unwind(pending, values, RANK[token] + (token == "^")):
                return None
            pending.append(token)
            expects_value = True
    if expects_value or "(" in pending or not _unwind(pending, values, 0) or len(values) != 1:
        return None
    if percent and plain and ("+" in signs or "-" in signs):
        return None
    return Value(values[0], signs, decimals, percent)


def _tokens(text: str) -> list[Fraction | str] | None:
    if VARIABLE.search(text):
        return None
    tokens: list[Fraction | str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None or len(tokens) == MOST_TOKENS:
            return None
        if match["number"]:
            value = number(match["number"])
            if value is None:
                return None
            tokens.append(value)
        else:
            tokens.append(SAME.get(match["sign"], match["sign"]))
        at = match.end()
    return tokens


def _unwind(pending: list[str], values: list[Fraction], rank: int) -> bool:
    """Applies pending operators of at least `rank`, down to an open bracket; False if one cannot be applied."""
    while pending and pending[-1] != "(" and RANK[pending[-1]] >= rank:
        sign = pending.pop()
        right = values.pop()
        if sign == "neg":
            values.append(-right)
            continue
        left = values.pop()
        result = _apply(sign, left, right)
        if result is None or abs(result) > BIGGEST or result.denominator > BIGGEST:
            return False
        values.append(result)
    return True


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction | None:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if sign == "/":
        return left / right if right else None
    if right.denominator != 1 or abs(right) > BIGGEST_POWER or (not left and right < 0):
        return None
    # Digits grow with the exponent: refuse before computing, not after.
    size = max(left.numerator.bit_length(), left.denominator.bit_length())
    return left ** int(right) if size * abs(right) <= 140 else None
