"""The rule on wrong arithmetic: claims such as "3 + 4 = 8", and wrong answers to "What is 12 * 7?"."""

from __future__ import annotations

import re
from fractions import Fraction

from pipeline.dataset.clean.calculator import NUMBER, Value, compute, number
from pipeline.dataset.clean.finding import Finding, Texts

WINDOW = 120  # characters before "=" that can belong to an expression
MOST_CLAIMS = 200
LONGEST_BARE = 60  # an answer of more characters is more than a number
ALLOWED = frozenset("0123456789.,+-*/^%×÷·x−–() \t$€£₩")
MONEY = re.compile(r"[$€£₩]")
RESULT = re.compile(
    rf"[ \t]*(?P<money>[$€£₩]?)[ \t]*(?P<minus>[-−–]?)[ \t]*[$€£₩]?(?P<number>{NUMBER})(?P<percent> ?%)?"
)
# What may not follow the result: more of an expression, a letter, a fraction, a base, a remainder, a rounded number.
GOES_ON = re.compile(
    r"\s*(?:[-+*/^×÷·−–=(%<>~≈…]|\.\.)|[ \t]*(?:x|plus|minus|times|divided|multiplied|remainder|rem|r|mod|modulo|"
    r"million|billion|thousand|trillion|base|in base|hundred|dozen|pi|π|sqrt|and \d+/\d+|\d)(?![a-z])|"
    r"[A-Za-z_₀-₉°!√²³]|[.,:/]\d|\s*(?:만|억|천|백|조|나머지|나누기|곱하기|더하기|빼기)",
    re.I,
)
LEADING = re.compile(r"^(?:[ \t,]|\.(?!\d))+")  # punctuation of the sentence; the point of `.20` belongs to the number
# Before the expression: what applies to its result.
UNFIT = tuple("√!_\\}]{[|'\"<>")
VARIABLE = re.compile(r"\w\Z|(?<![^\W_])[b-zB-HJ-Z] \Z|\d[:/]\Z")  # next to the expression: a letter, 6:00
ACTING = re.compile(
    r"(?:root(?: of)?|log|ln|sin|cos|tan|mod|sqrt|sum of|average of|mean of|√|!|\^|half of|third of|base|binary|"
    r"hex\w*|factorial of|[a-z]\()[\s(]*\Z",
    re.I,
)
WRONG_ON_PURPOSE = re.compile(
    r"\b(?:incorrect|wrong|false|untrue|fallac\w*|mistakes?|errors?|not (?:equal|true|correct)|does not|doesn't|"
    r"binary|hexadecimal|octal|modul[ou]|modular|base[ -]?\d+|boolean|joke|matri\w+|vectors?|estimat\w*|"
    r"approximat\w*|round\w*|nearest|puzzle|sequence|pattern|riddle|clock|cipher|encod\w*|cryptarithm\w*|matchstick|"
    r"rewrit\w*)\b|틀린|오류|거짓|이진|진법|반올림|근사|어림|수열|퍼즐|암호",
    re.I,
)
UNIT = re.compile(r"\s?(?:[A-Za-z¢₵]|[가-힣])")
RATIOS = frozenset((100, 1000, 60, 3600, 24, 1440, 7, 12))  # of units: cents, metric, time, dozens and inches
TIME = re.compile(r"\s?(?:(?:hour|minute|second|day|week|month|year)s?\b|시간|분|초|일|주|개월|년)", re.I)
CODE_LINE = re.compile(
    r"[{};\[\]_\"'`]|==|:=|\b(?:print|return|def|let|var|int|const|for|while|if|cell|range)\b|//|=>|->|\\"
)
OPERATOR_WORDS = (
    (re.compile(r"(?<=[\d)%])\s*(?:plus|더하기)\s+(?=[\d(.-])", re.I), " + "),
    (re.compile(r"(?<=[\d)%])\s*(?:minus|빼기)\s+(?=[\d(.-])", re.I), " - "),
    (re.compile(r"(?<=[\d)%])\s*(?:times|multiplied by|곱하기)\s+(?=[\d(.-])", re.I), " * "),
    (re.compile(r"(?<=[\d)%])\s*(?:divided by|over|나누기)\s+(?=[\d(.-])", re.I), " / "),
    (re.compile(r"(?<=\d)\s?% of (?=[$€£₩]?[\d(.])", re.I), "% * "),
    (re.compile(r"(?<=[\d)])(?: (?:equals|is equal to)|[는은]) (?=[$€£₩]?-?\d)", re.I), " = "),
)
OPERATOR_HINTS = re.compile("plus|minus|times|multiplied|divided|over|% of|equal|더하기|빼기|곱하기|나누기")
EXPRESSION = (
    r"(?P<sum>[-(]?[ (]*(?:[$€£₩]?(?:"
    + NUMBER
    + r"))(?:[ )]*[-+*/^×÷·x%−–]+[ (]*[$€£₩]?(?:"
    + NUMBER
    + r"|\())[-+*/^×÷·x%−– ()\d.,$]*)"
)
QUESTION = re.compile(
    r"\s*(?:please )?(?:what is|what's|what does|calculate|compute|evaluate|solve|work out|find|determine|simplify|"
    r"how much is|add|subtract|multiply|divide)?(?: the)?(?: (?:value|result|answer|sum|product|difference|quotient|"
    r"following|expression|equation|problem|solution|of|to|for|this|given|math|arithmetic|mathematical|simple|"
    r"calculation|operation|numbers?))*\s*[:,]?\s*"
    + EXPRESSION
    + r"\s*(?:=\s*\??|\?|\.|equals?\??)?\s*(?:은|는)?(?: ?(?:얼마|몇|"
    r"무엇)[가-힣? ]{0,10})?(?:[을를] ?계산[가-힣 .?]{0,12})?\s*",
    re.I,
)
WHOLE = re.compile(
    r"\s*(?:equation|expression|problem|calculation)?\s*:?\s*" + EXPRESSION + r"\s*(?:=\s*\??)?\.?\s*", re.I
)
TO_COMPUTE = re.compile(
    r"\b(?:calculat\w*|comput\w*|evaluat\w*|solv\w*|work out|result|answer|value|perform|simplif\w*|what is|"
    r"find the)\b|계산|구하|풀어|얼마|답",
    re.I,
)
OTHER_TASK = re.compile(
    r"\b(?:fractions?|roots?|convert\w*|notation|words?|factor\w*|code|program|function|round\w*|estimat\w*|"
    r"percent\w*|derivative|integral|slope|perimeter|area|volume|angle|remainder|modulo|mod|binary|hex\w*|base|"
    r"how many|ratio|type|operation|lowest|simplest|reduce|mixed|digits?|decimal places?|unit|missing|next|nearest|"
    r"prime|average|mean|median|squared?|cube[ds]?)\b",
    re.I,
)
BARE = re.compile(
    r"\s*(?:(?:the )?(?:answer|result|solution|value|product|sum|quotient|difference|total)(?: is| =|:)|answer ?[:=]|"
    r"it is|=|정답은|답은|답:|답)?"
    rf"\s*[$€£₩]?(?P<minus>[-−]?)[$€£₩]?(?P<number>{NUMBER})(?P<percent> ?%)?"
    r"\s*(?:입니다|이다|이에요|예요|원|개)?\.?\s*",
    re.I,
)


def wrong_arithmetic(texts: Texts) -> Finding | None:
    """Wrong arithmetic: "3 + 4 = 8" anywhere in the answer, or a wrong number as the answer to "What is 12 * 7?".

    Computed with fractions, without eval. A claim needs plain numbers on both sides of its "="; results may be rounded
    or truncated to the digits shown. Not checked: variables, code, dates, ranges, changes of unit, other bases, and
    rows about mistakes, estimates or puzzles.
    Misses: wrong steps in words, wrong equations with letters, a wrong choice of what to compute.
    Source: AlpacaDataCleaned, class 8, found by hand there.
    """
    output = texts.output
    may_claim = "=" in output or "equal" in output or "는 " in output or "은 " in output
    if may_claim and (claim := _wrong_claim(texts)):
        return claim
    if len(output) <= LONGEST_BARE and (answer := BARE.fullmatch(output)):
        return _wrong_answer(texts, answer)
    return None


def _wrong_claim(texts: Texts) -> Finding | None:
    """The first "expression = number" in the answer that is wrong, unless the row is about wrong ones."""
    output = texts.output
    spoken = output if len(output) > 20_000 else _written(output)
    at, seen = spoken.find("="), 0
    while at >= 0 and seen < MOST_CLAIMS:
        seen += 1
        wrong = _claim(spoken, at)
        if wrong and not _excused(texts, wrong[0]):
            return Finding(
                f"wrong sum: {wrong[0]} (it is {_shown(wrong[1])})", None, "output", max(0, output.find(wrong[0][:8]))
            )
        at = spoken.find("=", at + 1)
    return None


def _claim(text: str, at: int) -> tuple[str, Fraction] | None:
    """The claim around the "=" at `at` and the correct value; None if it is right or not a claim."""
    if text[at - 1 : at] in ("=", "<", ">", "!", ":", "~") or text[at + 1 : at + 2] in ("=", ">", "~"):
        return None
    result = RESULT.match(text, at + 1)
    if result is None or GOES_ON.match(text, result.end()):
        return None
    start = at
    while start > 0 and at - start < WINDOW and text[start - 1] in ALLOWED:
        start -= 1
    left, before = text[start:at], text[max(0, start - 20) : start]
    left, before = _trimmed(left, before)
    if not left or VARIABLE.search(before) or before.endswith(UNFIT):
        return None
    if before and ACTING.search(before):
        return None
    line = text[text.rfind("\n", 0, start) + 1 : result.end()]
    if CODE_LINE.search(line[-WINDOW:]):
        return None
    both = _contradiction(left, result)
    if both is None:
        return None
    sum_, stated = both
    if _ambiguous(left, sum_, text[result.end() : result.end() + 20]) or _percent_as_word(left, stated):
        return None
    if UNIT.match(text, result.end()) and _other_unit(sum_.value, stated):
        return None
    if bool(MONEY.search(left)) != bool(result["money"]) and _ratio(sum_.value, stated) == 100:
        return None  # dollars and cents
    return f"{left.strip()} = {text[at + 1 : result.end()].strip()}", sum_.value


def _contradiction(expression: str, result: re.Match[str]) -> tuple[Value, Fraction] | None:
    """The value of an expression and the stated one, where they differ; None also where one is not known.

    Args:
        result: match of `RESULT` or `BARE`.
    """
    value, stated = compute(MONEY.sub("", expression)), number(result["number"])
    if value is None or stated is None or not value.signs:
        return None
    stated = -stated if result["minus"] else stated
    return None if _agrees(value, stated, result["number"], bool(result["percent"])) else (value, stated)


def _ratio(value: Fraction, stated: Fraction) -> Fraction:
    """The larger divided by the smaller; 0 if one of them is 0."""
    if not value or not stated:
        return Fraction(0)
    return max(value / stated, stated / value)


def _other_unit(value: Fraction, stated: Fraction) -> bool:
    """Whether the result is right in another unit: `3 * 20 = 1 hour`, `4 * 25 = 1 dollar`."""
    return _ratio(value, stated) in RATIOS


def _percent_as_word(left: str, stated: Fraction) -> bool:
    """Whether the result is right without the percent signs: `10/100% * 5 = 0.5`, `5 + 20 = 25%`."""
    bare = compute(MONEY.sub("", left.replace("%", ""))) if "%" in left else None
    return bare is not None and stated in (bare.value, bare.value / 100, bare.value * 100)


def _trimmed(left: str, before: str) -> tuple[str, str]:
    """The expression without punctuation of the sentence before it: list numbers, dots, commas, unmatched brackets."""
    if numbered := re.match(r"\s*(?:\d{1,2}[.)]|[-–•*])\s+(?=[(\d$.])", left):
        ends_line = not before or before.endswith(("\n", ":"))
        if ends_line:
            left, before = left[numbered.end() :], ""
    stripped = LEADING.sub("", left)
    if left.startswith(".") and before[-1:].isalnum():
        return "", before  # the end of a sentence or a decimal point: `so.20 * 20`
    before += " " * (stripped != left)
    while stripped.startswith("(") and stripped.count("(") > stripped.count(")"):
        stripped = stripped[1:].lstrip()
        before = before.rstrip() + " "
    if stripped[:1] in "+*/^%×÷·x)-−–" and before.strip():
        return "", before
    return stripped, before


def _agrees(sum_: Value, stated: Fraction, written: str, percent: bool) -> bool:
    """Whether the stated number is the value, rounded or truncated to the digits shown."""
    shown = len(written.partition(".")[2])
    step = Fraction(1, 10**shown)
    candidates = [stated, stated / 100] if percent else [stated]
    if sum_.percent and not percent:
        candidates.append(stated / 100)
    for index, candidate in enumerate(candidates):
        near = step / 100 if index else step
        difference = abs(sum_.value - candidate)
        if difference == 0 or (sum_.value.denominator != 1 and difference < near):
            return True
        if shown and difference < near:
            return True
        # Results of rounded numbers are rounded as well.
        if (sum_.decimals or sum_.percent) and difference <= abs(sum_.value) / 100:
            return True
    return False


def _ambiguous(left: str, sum_: Value, after: str) -> bool:
    """Text that only looks like an expression: ranges, grades ("90-100 = 4"), dates, ratios with a change of unit."""
    if sum_.signs.strip("-") == "" and " " not in left.strip():
        return True
    if sum_.signs.strip("/") == "" and (" " not in left.strip() or len(sum_.signs) == 2):
        return True
    return bool(("/" in sum_.signs or "*" in sum_.signs) and TIME.match(after))


def _wrong_answer(texts: Texts, answer: re.Match[str]) -> Finding | None:
    """An answer that is a number, but not the value of the only expression in the question."""
    asked, given = _written(texts.instruction[:300]), texts.input.strip()
    if given:
        if len(given) > WINDOW or not TO_COMPUTE.search(asked) or OTHER_TASK.search(asked) or re.search(r"\d", asked):
            return None
        match = WHOLE.fullmatch(_written(given))
    else:
        if OTHER_TASK.search(re.sub(r"^\s*what is", "", asked, flags=re.I)):
            return None
        match = QUESTION.fullmatch(asked)
    if match is None:
        return None
    both = _contradiction(match["sum"], answer)
    if both is None or WRONG_ON_PURPOSE.search(texts.asked):
        return None
    reason = f"wrong answer: {match['sum'].strip()} is {_shown(both[0].value)}, not {texts.output.strip()[:30]}"
    return Finding(reason)


def _written(text: str) -> str:
    """The text with operators in words replaced by signs."""
    if OPERATOR_HINTS.search(text):
        for pattern, sign in OPERATOR_WORDS:
            text = pattern.sub(sign, text)
    return text


def _excused(texts: Texts, claim: str) -> bool:
    """Whether the row is about wrong or unusual arithmetic, or quotes the claim from the question."""
    if WRONG_ON_PURPOSE.search(texts.asked) or WRONG_ON_PURPOSE.search(texts.output[:5_000]):
        return True
    bare = claim.replace(" ", "")
    return bare in texts.input[:20_000].replace(" ", "") or bare in texts.instruction[:20_000].replace(" ", "")


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):.6g}"
