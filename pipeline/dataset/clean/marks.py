"""Rules on marks left in a text: further tasks in an answer, prompt templates, special tokens, calculator marks."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import FIELDS, Finding, Texts

NUMBERED = re.compile(r"^[ \t]*(\d{1,3})\. ?(?:Instruction|Task|지시(?:문|사항)?|명령(?:어)?) ?:", re.I | re.M)
# "1. Instruction:" begins a list that the task asks for; the prompts of self-instruct continue with higher numbers.
FIRST_NUMBER = 2
TEMPLATE = re.compile(
    r"^[ \t]*#{2,3} ?(?:Instruction|Input|Response|Human|Assistant|User|질문|답변|명령어?|입력|응답|맥락|지시|"
    r"Instruction\(명령어\)|Input\(입력\)|Response\(응답\)) ?:",
    re.I | re.M,
)
LEADING = re.compile(r"\s*#{2,3} ?(?:Response|Assistant|답변|응답|Response\(응답\)) ?:[ \t]*\n?", re.I)
ASKED_FOR = re.compile(
    r"\b(?:instructions?|prompts?|tasks?|templates?|dataset)\b|지시문|프롬프트|명령어|과제|양식|서식", re.I
)
# Separators between tasks: lines of punctuation, HTML comments, a code fence.
SEPARATOR = re.compile(r"[^\w\n]*_*[^\w\n]*")
MOST_SEPARATORS, SEPARATOR_LENGTH = 20, 40
SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|system|"
    r"user|assistant|end|pad|startoftext|fim_\w{3,6})\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>(?=\s|$|"
    r"\[|<)|<unk>|<bos>|<eos>"
)
CALCULATOR = re.compile(
    r"<<(?P<sum>[-+*/().,\d\s$%x]{1,120})=(?P<result>[-+.,\d$%\s]{1,40})>>(?P<number>(?=[-$]?\.?\d))?"
)
HTML = re.compile(r"</?(?:html|body|div|p|b|i|a|del|strike|h1|head|span|ul|li)[ >]", re.I)


def merged_instructions(texts: Texts) -> Finding | None:
    """Answers that continue with the next task: "… .\\n## \\n18. Instruction: …". They are cut before it.

    The text before was a complete answer in all 37 rows of Alpaca with such a mark. Separators such as "##" are cut.
    "### Instruction:" and the like at the start of a line also count; "### Response:" before the answer is removed.
    Rejected if nothing is left; left alone if the row asks for instructions or prompts.
    Misses: a further task without a mark.
    Source: AlpacaDataCleaned, class 2 (tool_mergedInstructions.py).
    """
    output = texts.output
    if ":" not in output:
        return None
    task = _next_task(output)
    template = TEMPLATE.search(output) if "##" in output else None
    if task is None and template is None:
        return None
    if ASKED_FOR.search(texts.asked):
        return None
    if template and (leading := LEADING.match(output)):
        answer = output[leading.end() :]
        return Finding("the answer begins with the mark of a template", texts._replace(output=answer))
    at = min(mark.start() for mark in (task, template) if mark)
    answer = output[:at].rstrip()
    for _ in range(MOST_SEPARATORS):
        start = answer.rfind("\n") + 1
        if not start or len(answer) - start > SEPARATOR_LENGTH or not SEPARATOR.fullmatch(answer, start):
            break
        answer = answer[:start].rstrip()
    if not answer:
        return Finding("the output is another task, not an answer", None, "output", at)
    return Finding("another task follows the answer", texts._replace(output=answer), "output", at)


def _next_task(output: str) -> re.Match[str] | None:
    """The first "N. Instruction:" at the start of a line, N being 2 or more."""
    if "nstruction" not in output and "ask:" not in output and "지시" not in output and "명령" not in output:
        return None
    return next((match for match in NUMBERED.finditer(output) if int(match[1]) >= FIRST_NUMBER), None)


def template_markers(texts: Texts) -> Finding | None:
    """Prompt marks or special tokens inside a row: "### Instruction:" in a question, "<|im_end|>", "[INST]".

    A model may read them as the end of a turn, and a tokenizer may encode them as special tokens. In code or HTML "<s>"
    is a tag. Only reported by default, because rows about chat formats may contain them.
    Misses: marks of templates that are not listed here.
    Source: own.
    """
    for field in FIELDS:
        text = getattr(texts, field)
        match = TEMPLATE.search(text) if "##" in text else None
        if match is None and ("|>" in text or "INST]" in text or "<" in text):
            match = SPECIAL.search(text)
            if match and match[0] in ("<s>", "</s>") and HTML.search(text):
                match = None
        if match:
            return Finding(f"{field} holds the prompt mark {match[0].strip()!r}", None, field, match.start())
    return None


def calculator_marks(texts: Texts) -> Finding | None:
    """Marks for a calculator in the answer: "16 - 3 = <<16-3=13>>13" becomes "16 - 3 = 13".

    There is no calculator here, so a model would learn to write each number twice. If no number follows a mark, the
    mark is replaced by its result.
    Misses: marks in words, and the `#### 13` at the end, which stays because some evaluations need it.
    Source: GSM8K (Cobbe et al. 2021, section 3.3).
    """
    if "<<" not in texts.output:
        return None
    plain = CALCULATOR.sub(lambda match: "" if match["number"] is not None else match["result"].strip(), texts.output)
    if plain == texts.output:
        return None
    return Finding("marks for a calculator", texts._replace(output=plain), "output", texts.output.find("<<"))
