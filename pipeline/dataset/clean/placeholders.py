"""Rules on placeholders for a missing text: "<noinput>", "N/A", an empty code block."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

LONGEST = 80  # characters; longer texts are not placeholders
EDGE = r"[\s\[\](){}<>\"'`“”‘’\\.,:;!?*_/|-]*"
NO_INPUT = re.compile(
    EDGE
    + r"(?:no[ _-]?(?:in)?puts?e?|no (?:further |additional |specific |other |text |extra )?inputs?)"
    + r"(?: (?:is |was )?(?:required|needed|necessary|provided|given|available|applicable))?"
    + EDGE,
    re.I,
)
NO_INPUT_OTHER = re.compile(
    EDGE + r"(?:n\.?/?a|none|nil|null|nan|empty|blank|not (?:applicable|required|needed|available)|none (?:required|"
    r"needed|given)"
    + r"|(?:추가 ?)?입력 ?(?:값|문|내용|데이터)?(?:은|이|을|를)? ?(?:없음|없습니다|없다|없어요|필요 ?없음|"
    r"필요하지 않음|불필요)"
    + r"|(?:해당|관련) ?(?:사항|없음|내용)? ?(?:이 |은 )?(?:없음|없습니다)|해당없음|없음|무입력|입력없음|"
    r"노인풋|비어 ?있음|빈 ?입력)" + EDGE,
    re.I,
)
# Tasks about such a word.
ABOUT_WORD = re.compile(
    r"\b(?:words?|sentences?|phrases?|text|translate|types?|values?|python|java(?:script)?|code|strings?|null|none|"
    r"letters?|spell|syllables?|abbreviation|acronym|stand for|mean(?:s|ing)?)\b|단어|문장|번역|뜻|의미|자료형|코드|"
    r"철자|약자",
    re.I,
)
NO_OUTPUT = re.compile(
    EDGE + r"(?:no[ _-]?(?:out|in)put|no (?:output|answer|response|result)s?(?: (?:is |was )?(?:required|needed|"
    r"available|provided|"
    + r"given|possible|generated|expected))?|n/a|not (?:applicable|available)|nan|null|undefined|출력 ?없음|"
    r"(?:응답|답변|대답) ?없음" + r"|해당 ?(?:사항)? ?없음)" + EDGE,
    re.I,
)
BRACKETED_NONE = re.compile(r"\s*[<\[({]\s*(?:none|empty|blank|output|없음|출력|답변|응답)\s*[>\])}]\s*", re.I)
# "<noinput>" before an answer, perhaps with "Output:" after it.
LEADING = re.compile(r"\s*[<\[]\s*no ?(?:in|out)put\s*[>\]][\s.:-]*(?:Output:\s*)?", re.I)
EMPTY_BLOCK = re.compile(r"\s*```[\w+#-]*\s*(?:```)?\s*")
STUB = re.compile(
    r"(?:```[\w+#-]*\s*)?(?:(?:#|//|--|/\*|<!--)\s*)?[\[<(]?\s*(?:insert |write |put |add |your |"
    r"the )*code (?:goes )?here\.*\s*[\])>]?(?:\s*(?:\*/|-->))?\s*(?:```)?",
    re.I,
)


def no_input_spelling(texts: Texts) -> Finding | None:
    """Placeholders for an empty input: "No input", "<noinput>", "N/A", "입력 없음" become the empty text.

    Only if the placeholder is the whole input. "None", "N/A" and the like stay if the task is about a word or a value.
    Misses: whole sentences.
    Source: AlpacaDataCleaned, class 7 (tool_inputcheck.py, which searches in any position).
    """
    given = texts.input
    if not given or len(given) > LONGEST:
        return None
    stripped = given.strip()
    if not stripped:
        return Finding("the input is only white space", texts._replace(input=""), "input")
    if NO_INPUT.fullmatch(stripped) or (NO_INPUT_OTHER.fullmatch(stripped) and not ABOUT_WORD.search(texts.asked)):
        return Finding(f"the input {stripped[:40]!r} says that there is none", texts._replace(input=""), "input")
    return None


def output_empty(texts: Texts) -> Finding | None:
    """Empty answers, or only white space.

    Misses: placeholders in words (`output-not-available`).
    Source: AlpacaDataCleaned, class 3.
    """
    if texts.output and not texts.output.isspace():
        return None
    return Finding("output is empty")


def output_not_available(texts: Texts) -> Finding | None:
    """Placeholders for an answer: "N/A", "<nooutput>", "null"; only the mark is removed if an answer follows it.

    "None" and "없음" without brackets stay: they are the right answer in many classifications. So does a word that the
    instruction names.
    Misses: whole sentences (`refusal`).
    Source: AlpacaDataCleaned, class 6.
    """
    output = texts.output
    if len(output) <= LONGEST and (NO_OUTPUT.fullmatch(output) or BRACKETED_NONE.fullmatch(output)):
        word = re.sub(EDGE + "$", "", re.sub("^" + EDGE, "", output)).lower()
        if word not in texts.instruction.lower() and word.strip():
            return Finding(f"the output {output.strip()[:40]!r} is no answer")
        return None
    start = output[:LONGEST].lstrip()[:1]
    if start and start in "<[" and (mark := LEADING.match(output[:LONGEST])):
        return Finding("a mark for no output stands before the answer", texts._replace(output=output[mark.end() :]))
    return None


def empty_code(texts: Texts) -> Finding | None:
    """Answers that are only an empty code block, or "your code goes here".

    Misses: a function without a body.
    Source: AlpacaDataCleaned, class 4.
    """
    output = texts.output
    if len(output) > LONGEST or ("`" not in output and "ere" not in output):
        return None
    if ("```" in output and EMPTY_BLOCK.fullmatch(output)) or STUB.fullmatch(output.strip()):
        return Finding("the output is a code block without code")
    return None
