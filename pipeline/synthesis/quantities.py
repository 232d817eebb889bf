"""Numbers in a text by value, so that 1,000 in one language is found as 천, 1.000 or a thousand in another.

A number in digits has several readings, since signs differ by language (1.000 is one, or a thousand) and a word behind
it may multiply it (3 million, 3만 5천). A reading is a set of values; one of the readings is right, which one is not
decided here. Number words (열두 명, twenty-five, January) are found in English and Korean.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from decimal import Decimal

SMALL = 12  # largest number that languages without a table of number words may write as a word

DIGITS = re.compile(r"\d+(?:[.,'’\u00a0\u202f]\d+)*")
LONGEST = 40  # digits of a number that is compared by value
SCALES: dict[str, tuple[int, ...]] = {
    "hundred": (100,), "thousand": (1000,), "k": (1000,), "million": (10**6,), "millions": (10**6,), "m": (10**6,),
    "billion": (10**9, 10**12), "billions": (10**9,), "bn": (10**9,), "b": (10**9,), "trillion": (10**12, 10**18),
    "tausend": (1000,), "millionen": (10**6,), "mio": (10**6,), "milliarde": (10**9,), "milliarden": (10**9,),
    "mrd": (10**9,), "billionen": (10**12,),
    "mille": (1000,), "milliard": (10**9,), "milliards": (10**9,), "mil": (1000,), "millón": (10**6,),
    "millones": (10**6,), "mila": (1000,), "milione": (10**6,), "milioni": (10**6,), "miliardo": (10**9,),
    "miliardi": (10**9,), "milhão": (10**6,), "milhões": (10**6,), "bilhão": (10**9,), "bilhões": (10**9,),
    "百": (100,), "千": (1000,), "万": (10**4,), "萬": (10**4,), "億": (10**8,), "亿": (10**8,), "兆": (10**12,),
}  # fmt: skip
SCALE = re.compile(rf"[ -]?({'|'.join(sorted(SCALES, key=len, reverse=True))})(?![^\W\d_])", re.IGNORECASE)
CJK_SCALE = re.compile("[百千万萬億亿兆]")

# Korean: 3만 5천, 1억 2,000만, 이백오십만.
KO_DIGITS = {c: i for i, c in enumerate("영일이삼사오육칠팔구")} | {"공": 0, "륙": 6}
KO_SMALL = {"십": 10, "백": 100, "천": 1000}
KO_LARGE = {"만": 10**4, "억": 10**8, "조": 10**12}
KO_PIECE = r"\d[\d,]*(?:\.\d+)?(?:[십백천][만억조]?|[만억조])"
KO_CHAIN = re.compile(rf"{KO_PIECE}(?: ?{KO_PIECE})*(?: ?\d(?:[\d,]*\d)?)?")
KO_TOKEN = re.compile(r"\d[\d,]*(?:\.\d+)?|[십백천만억조영일이삼사오육륙칠팔구공]")
COUNTER = (
    "(?:명|개|년|월|일|시|분|초|원|번|위|회|장|쪽|점|배|층|주|단계|등|차|호|도|퍼센트|인|세기|세대|살|권|마리|대|잔|"
    "가지|달러|유로|킬로|미터|센티|그램|여|단어|문장|사람|문단|단락|줄|편|곳|컵|병|자루|그루|벌|켤레|송이|째|달|해|"
    "시간|학년|건|항목|예|질문|이상|이하|미만)"
)
KO_WORDS = re.compile(
    rf"(?<![가-힣])(?:[일이삼사오육칠팔구십백천만억조]{{2,}}|[일삼사오육칠팔구십백천만억] ?(?={COUNTER})|"
    rf"이(?={COUNTER}))"
)
KO_NATIVE = {
    "한": 1, "하나": 1, "두": 2, "둘": 2, "세": 3, "셋": 3, "석": 3, "네": 4, "넷": 4, "넉": 4, "다섯": 5, "여섯": 6,
    "일곱": 7, "여덟": 8, "아홉": 9, "열": 10, "스무": 20, "스물": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60,
    "일흔": 70, "여든": 80, "아흔": 90, "첫": 1, "둘째": 2, "셋째": 3, "넷째": 4, "다섯째": 5, "처음": 1,
}  # fmt: skip
KO_TENS = "|".join(word for word, value in KO_NATIVE.items() if value >= 10)
KO_ONES = "|".join(sorted((word for word, value in KO_NATIVE.items() if value < 10), key=len, reverse=True))
# Behind it: a space, what is counted, or a particle; 세 in 세종 is no number.
KO_NATIVE_NUMBER = re.compile(
    rf"(?<![가-힣])(?:({KO_TENS})({KO_ONES})?|({KO_ONES}))(?:(?={COUNTER})|(?:[은는이가을를과와도로의만에]|째)?(?![가-힣]))"
)
KO_OTHER = {"절반": (1, 2), "반": (1, 2), "하루": (1,), "이틀": (2,), "사흘": (3,), "나흘": (4,), "열흘": (10,),
            "보름": (15,), "일주일": (1, 7), "백분율": (100,)}  # fmt: skip
KO_OTHERS = re.compile(rf"(?<![가-힣])(?:{'|'.join(KO_OTHER)})(?![가-힣]{{2}})")

EN_ONES = (
    "zero", "one first once single", "two second twice both double pair couple", "three third triple",
    "four fourth", "five fifth", "six sixth", "seven seventh", "eight eighth", "nine ninth", "ten tenth decade",
    "eleven eleventh", "twelve twelfth dozen", "thirteen thirteenth", "fourteen fourteenth", "fifteen fifteenth",
    "sixteen sixteenth", "seventeen seventeenth", "eighteen eighteenth", "nineteen nineteenth",
)  # fmt: skip
EN_TENS = ("twent", "thirt", "fort", "fift", "sixt", "sevent", "eight", "ninet")
EN_WORDS = {word: value for value, words in enumerate(EN_ONES) for word in words.split()} | {
    stem + ending: 10 * value for value, stem in enumerate(EN_TENS, 2) for ending in ("y", "ieth", "ies")
}
EN_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
EN_OTHER = {
    "a": (1,),
    "an": (1,),
    "half": (1, 2),
    "halves": (1, 2),
    "quarter": (1, 4),
    "quarters": (4,),
    "century": (100,),
} | {name: (number,) for number, month in enumerate(MONTHS, 1) for name in (month, month[:3])}
LETTERS = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Quantity:
    """A number in digits.

    Attributes:
        text: as written. start, end: its place.
        readings: what it may mean; each is a set of values, all of which would have to be there.
    """

    text: str
    start: int
    end: int
    readings: tuple[frozenset[Decimal], ...]


def quantities(text: str) -> Iterator[Quantity]:
    """The numbers that a text writes in digits, in order; `text` in NFKC, as of `plain`."""
    end = 0
    for match in DIGITS.finditer(text):
        if match.start() < end:
            continue
        start, end = match.span()
        readings = _readings(match.group())
        chain = KO_CHAIN.match(text, start)
        if chain and chain.end() > end:
            tail = chain.group()
            parts = [value for part in DIGITS.findall(tail) for value in _readings(part)[0]]
            readings = [frozenset({korean_value(tail)}), frozenset(parts), *readings]
            end = chain.end()
        elif scale := SCALE.match(text, end) or CJK_SCALE.match(text, end):
            for factor in SCALES[scale.group(scale.lastindex or 0).lower()]:
                readings = [frozenset(v * factor for v in readings[0]), *readings]
            end = scale.end()
        yield Quantity(text[start:end].strip(), start, end, tuple(dict.fromkeys(readings)))


def without_value(wanted: Iterable[Quantity], values: Set[Decimal]) -> list[str]:
    """The quantities, as they are written, none of whose readings is among these values."""
    return [quantity.text for quantity in wanted if not any(reading <= values for reading in quantity.readings)]


def values(text: str, language: str) -> set[Decimal]:
    """Every value that a text may mean by a number in digits or, in English and Korean, by a number word."""
    found = {value for quantity in quantities(text) for reading in quantity.readings for value in reading}
    return found | word_values(text, language)


def word_values(text: str, language: str) -> set[Decimal]:
    """Values of number words; other languages than English and Korean may have any up to `SMALL`."""
    if language == "ko":
        return _korean_words(text)
    if language == "en":
        return _english_words(text)
    return {Decimal(value) for value in range(SMALL + 1)}


def plain(text: str) -> str:
    """NFKC: digits of full width and the like as usual ones."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def korean_value(text: str) -> Decimal:
    """The value of digits and Korean scale words, such as 1억 2,000만 or 이백오십만."""
    total, section, current = Decimal(0), Decimal(0), None
    for token in KO_TOKEN.findall(text):
        if token in KO_SMALL:
            section += (Decimal(1) if current is None else current) * KO_SMALL[token]
            current = None
        elif token in KO_LARGE:
            section += current or 0
            total += (section or 1) * KO_LARGE[token]
            section, current = Decimal(0), None
        else:
            current = Decimal(KO_DIGITS[token]) if token in KO_DIGITS else Decimal(token.replace(",", ""))
    return total + section + (current or 0)


def _readings(token: str) -> list[frozenset[Decimal]]:
    """Readings of digits with signs between them: groups of three, a decimal sign, or several numbers."""
    groups = re.split(r"\D", token)
    if len(token) > LONGEST or len(groups) == 1:
        return [frozenset({_decimal(token[:LONGEST])})] if len(groups) == 1 else [frozenset(map(_decimal, groups))]
    signs = [c for c in token if not c.isdigit()]
    readings = []
    if all(len(group) == 3 for group in groups[1:]) and len(groups[0]) <= 3 and len(set(signs)) == 1:
        readings.append(frozenset({_decimal("".join(groups))}))
    if signs[-1] in ".," and signs.count(signs[-1]) == 1 and len(set(signs)) <= 2:
        readings.append(frozenset({_decimal("".join(groups[:-1]) + "." + groups[-1])}))
    return [*readings, frozenset(map(_decimal, groups))]


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    return value.normalize() if value else Decimal(0)


def _korean_words(text: str) -> set[Decimal]:
    found = {korean_value(match.group()) for match in KO_WORDS.finditer(text)}
    for match in KO_NATIVE_NUMBER.finditer(text):
        found.add(Decimal(sum(KO_NATIVE[part] for part in match.groups() if part)))
    for match in KO_OTHERS.finditer(text):
        found |= {Decimal(value) for value in KO_OTHER[match.group()]}
    return found


def _english_words(text: str) -> set[Decimal]:
    found: set[Decimal] = set()
    total, section, inside = 0, 0, False
    for word in [*LETTERS.findall(text.lower()), ""]:
        found |= {Decimal(value) for value in EN_OTHER.get(word, ())}
        if word in EN_WORDS:
            found.add(Decimal(EN_WORDS[word]))
            section, inside = section + EN_WORDS[word], True
        elif word.rstrip("sth") in EN_SCALES or word in EN_SCALES:
            scale = EN_SCALES.get(word) or EN_SCALES[word.rstrip("sth")]
            if scale == 100:
                section = (section or 1) * 100
            else:
                total, section = total + (section or 1) * scale, 0
            inside = True
        elif word != "and" or not inside:
            if inside:
                found.add(Decimal(total + section))
            total, section, inside = 0, 0, False
    return found
