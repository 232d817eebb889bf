"""The rule on personal data: e-mail addresses, phone numbers and numbers that identify a person."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

from pipeline.dataset.clean.finding import FIELDS, Finding, Texts

EMAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9][\w.%+-]{0,63}@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24})(?![\w@-])",
    re.A,
)
# Domains reserved by RFC 2606, and common made-up ones.
MADE_UP = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|local)(?:\.[a-z]{2,4}){0,2}$|^(?:e?mail|domain|company|yourcompany|"
    r"mycompany|sample|abc|xyz|website|yourdomain|mydomain|server|acme|anything|somewhere|site|business|organization|"
    r"xxx+|123)\.(?:com|org|net|co\.kr|kr|edu)$",
    re.I,
)
PHONE = re.compile(
    r"(?<![\w.+/-])(?:\+82[ -]?(?:0?1[016789]|[2-6]\d?)[ -]?\d{3,4}[ -]?\d{4}|01[016789][-. ]?\d{3,4}[-. ]?\d{4}|"
    r"0(?:2|[3-6][1-5]|70)[-. )]\d{3,4}[-. ]\d{4}|(?:\+?1[-. ])?\(?[2-9]\d\d\)?[-. ]\d{3}[-.]\d{4}|"
    r"\+(?:[2-79]\d{0,2}|8[0134-9]\d?)[ -]\(?\d{1,4}\)?(?:[ -]\d{2,4}){2,4})(?![\w-]|\.\d)",
    re.A,
)
RESIDENT = re.compile(r"(?<![\w-])(\d{2})(\d{2})(\d{2})(-?)([1-8])(\d{6})(?![\w-])", re.A)
CARD = re.compile(
    r"(?<![\w.-])(?:[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-]|\.\d)", re.A
)
# Test numbers of the card networks.
TEST_CARDS = (
    "4111111111111111",
    "4242424242424242",
    "5555555555554444",
    "378282246310005",
    "4012888888881881",
    "371449635398431",
)
SOCIAL = re.compile(r"(?<![\w-])(?!000|666|9\d\d)(\d{3})-(?!00)(\d{2})-(?!0000)(\d{4})(?![\w-])", re.A)
WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
DIGITS = re.compile(r"\d", re.A)
NUMBERS = re.compile(r"\d[\d() .-]{7,40}\d", re.A)  # a part of all patterns above: one search instead of four


def personal_data(texts: Texts) -> Finding | None:
    """E-mail addresses, phone numbers, Korean resident numbers, US social security numbers and card numbers.

    If on, each is replaced by [email], [phone], [resident-number], [social-security] or [card] in all three texts; by
    default they are only reported, because extraction tasks need them. Addresses and numbers reserved for examples
    (RFC 2606, 555-01xx, 010-0000-0000, 123-45-6789, test cards) do not count. A resident number needs a valid date, and
    its checksum if it is written without a hyphen or was issued before October 2020; a card number its Luhn digit.
    Misses: names, streets, and numbers written in words.
    Source: own; resident numbers by the Korean Resident Registration Act.
    """
    kinds: list[str] = []
    seen: list[tuple[str, int]] = []
    redacted = []
    for field, text in zip(FIELDS, texts, strict=True):
        new = text
        if "@" in text:
            new = _redacted(new, EMAIL, _is_email, "email", kinds)
        if NUMBERS.search(text):
            new = _redacted(new, RESIDENT, _is_resident, "resident-number", kinds)
            new = _redacted(new, CARD, _is_card, "card", kinds)
            new = _redacted(new, SOCIAL, _is_social, "social-security", kinds)
            new = _redacted(new, PHONE, _is_phone, "phone", kinds)
        if new != text:
            seen.append((field, next((i for i, (a, b) in enumerate(zip(text, new, strict=False)) if a != b), 0)))
        redacted.append(new)
    if not seen:
        return None
    field, at = seen[0]
    return Finding(f"holds personal data: {', '.join(dict.fromkeys(kinds))}", type(texts)(*redacted), field, at)


def _redacted(
    text: str, pattern: re.Pattern[str], real: Callable[[re.Match[str]], bool], kind: str, kinds: list[str]
) -> str:
    def mark(match: re.Match[str]) -> str:
        if not real(match):
            return match[0]
        kinds.append(kind)
        return f"[{kind}]"

    return pattern.sub(mark, text)


def _digits(match: re.Match[str]) -> str:
    return "".join(DIGITS.findall(match[0]))


def _is_email(match: re.Match[str]) -> bool:
    return not MADE_UP.search(match[1].lower())


def _is_phone(match: re.Match[str]) -> bool:
    digits = _digits(match)
    if digits[-8:] in ("00000000", "12345678") or len(set(digits)) <= 3 or "1234567" in digits:
        return False
    national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    if len(national) == 10 and national[0] != "0":
        return national[:3] != "555" and national[3:6] != "555"
    return True


def _is_resident(match: re.Match[str]) -> bool:
    year, month, day, hyphen, sex, _ = match.groups()
    century = {"1": 1900, "2": 1900, "5": 1900, "6": 1900}.get(sex, 2000)
    try:
        born = date(century + int(year), int(month), int(day))
    except ValueError:
        return False
    digits = [int(d) for d in _digits(match)]
    total = sum(d * w for d, w in zip(digits, WEIGHTS, strict=False))
    check = {(11 - total % 11) % 10}
    if sex in "5678":
        check.add((13 - total % 11) % 10)
    return digits[12] in check or (bool(hyphen) and born >= date(2020, 10, 1))


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match)
    if digits in TEST_CARDS or len(set(digits)) <= 3:
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _is_social(match: re.Match[str]) -> bool:
    return match[0] not in ("123-45-6789", "078-05-1120", "219-09-9999") and len(set(_digits(match))) > 3
