"""Rules about the marks of prompts: further tasks inside an answer, and template text inside a row."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import FIELDS, Finding, Texts

NUMBERED = re.compile(r"^[ \t]*(\d{1,3})\. ?(?:Instruction|Task|지시(?:문|사항)?|명령(?:어)?) ?:", re.I | re.M)
# "1. Instruction:" begins a list that was asked for; the prompts of self-instruct go on from a higher number.
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
# What separated the tasks: rows of signs, HTML comments, a lone fence.
SEPARATOR = re.compile(r"[^\w\n]*_*[^\w\n]*")
MOST_SEPARATORS, SEPARATOR_LENGTH = 20, 40
SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|system|"
    r"user|assistant|end|pad|startoftext|fim_\w{3,6})\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>(?=\s|$|"
    r"\[|<)|<unk>|<bos>|<eos>"
)
HTML = re.compile(r"</?(?:html|body|div|p|b|i|a|del|strike|h1|head|span|ul|li)[ >]", re.I)


def merged_instructions(texts: Texts) -> Finding | None:
    """Answers that run on into the next task: "… .\\n## \\n18. Instruction: …". They are cut before it.

    What stands before was a whole answer in all 37 rows of Alpaca that have the mark. The cut takes separators such as
    "##" along. "### Instruction:" and the like at the start of a line count too, "### Response:" before the answer is
    taken off. Rejected where nothing is left, left alone where the row asks for instructions or prompts.
    Source: AlpacaDataCleaned, class 2 (tool_mergedInstructions.py). It does not see a task that follows without a mark.
    """
    output = texts.output
    if ":" not in output:
        return None
    found = _next_task(output)
    template = TEMPLATE.search(output) if "##" in output else None
    if found is None and template is None:
        return None
    if ASKED_FOR.search(texts.asked):
        return None
    if template and (leading := LEADING.match(output)):
        kept = output[leading.end() :]
        return Finding("the answer begins with the mark of a template", texts._replace(output=kept))
    at = min(mark.start() for mark in (found, template) if mark)
    kept = output[:at].rstrip()
    for _ in range(MOST_SEPARATORS):
        start = kept.rfind("\n") + 1
        if not start or len(kept) - start > SEPARATOR_LENGTH or not SEPARATOR.fullmatch(kept, start):
            break
        kept = kept[:start].rstrip()
    if not kept:
        return Finding("the output is another task, not an answer", None, "output", at)
    return Finding("another task follows the answer", texts._replace(output=kept), "output", at)


def _next_task(output: str) -> re.Match[str] | None:
    """The first "N. Instruction:" at the start of a line, N being 2 or more."""
    if "nstruction" not in output and "ask:" not in output and "지시" not in output and "명령" not in output:
        return None
    return next((found for found in NUMBERED.finditer(output) if int(found[1]) >= FIRST_NUMBER), None)


def template_markers(texts: Texts) -> Finding | None:
    """Prompt marks or special tokens inside a row: "### Instruction:" in a question, "<|im_end|>", "[INST]".

    A model may take them for the end of a turn, and a tokenizer may turn them into special tokens. In code or HTML
    "<s>" is a tag and stays. Only reported unless switched on, because rows about chat formats hold them rightly.
    Source: own. It does not see the marks of templates that the rule does not name.
    """
    for field in FIELDS:
        text = getattr(texts, field)
        found = TEMPLATE.search(text) if "##" in text else None
        if found is None and ("|>" in text or "INST]" in text or "<" in text):
            found = SPECIAL.search(text)
            if found and found[0] in ("<s>", "</s>") and HTML.search(text):
                found = None
        if found:
            return Finding(f"{field} holds the prompt mark {found[0].strip()!r}", None, field, found.start())
    return None
