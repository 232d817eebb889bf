"""The rule on answers that refuse the task."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

HEAD = 300  # characters; a refusal is at the start
OPENING = (
    r"[\s\"'<(\[*-]*(?:(?:sorry|i(?:'|’)m sorry|i am sorry|apologies|i apologi[sz]e|unfortunately)[,.!]? (?:but )?)?"
)
CAN_NOT = r"(?:can(?:no|'|’)?t|can not|am (?:un|not )able to|do(?: not|n't|n’t) have the ability to)"
MODEL = (
    r"(?:the |this |an? )?(?:gpt(?:-\d)?|ai|text-based|language|this type of)? ?(?:language )?(?:models?|assistant)\b"
)
TASK = r"(?:the|this) (?:task|instruction|type of (?:task|instruction)|request)\b"
# A refusal in every context.
PLAIN = re.compile(
    OPENING
    + "(?:"
    + "|".join(
        (
            r"as an? (?:ai|artificial intelligence|large language|language|gpt|text-based)\b[^.\n]{0,80}"
            r"\b(?:i|we|it) (?:do(?: not|n't|n’t)|can(?:not|'t|’t)|am (?:not|unable)|am only)",
            TASK + r"[^.\n]{0,60}\b(?:involves?|requires?|can(?:not|'t|’t) be|is not (?:possible|suitable|feasible))"
            r"[^\n]{0,160}\b(?:models?|can(?:not|'t|’t)|unable|not possible|visual|text)\b",
            TASK + r"[^.\n]{0,20}\bcannot be (?:performed|completed|fulfilled|done|executed)",
            r"this cannot be done\b",
            r"this is not a suitable (?:task|instruction)\b",
            r"unable to (?:perform|complete|fulfil+|execute|carry out) (?:this|the) (?:task|instruction|request)",
            r"no output\b[^\n]{0,80}\b(?:can(?:not|'t|’t)|not suitable|not text|visual|model)",
            r"n/a \([^)\n]{0,40}\b(?:can(?:not|'t|’t)|not)\b",
            r"visuals? [^.\n]{0,20}cannot be created by",
            r"cannot (?:create|design|develop|generate|produce|perform) [^.\n]{0,60}\b(?:"
            + MODEL
            + "|visual|graphical)",
            r"you are asking me to [^\n]{0,120}\bi cannot\b",
        )
    )
    + ")",
    re.I,
)
# A refusal unless the task is to write what a person says.
FIRST_PERSON = re.compile(
    OPENING
    + r"(?:i (?:will not be able to|won(?:'|’)t be able to|"
    + CAN_NOT
    + r")|i(?:'|’)m (?:unable|not able) to) (?:[a-z]+ly )?"
    r"(?:set|creat|generat|play|draw|provid|perform|access|complet|fulfil|help|assist|answer|open|display|search|"
    r"brows|design|show|render|design|record|compos|produc|execut|process|do th(?:is|at)|tell you|give you|find that|"
    r"see|view|write|predict|translate)\w*",
    re.I,
)
SOMEBODY = re.compile(
    r"\b(?:repl(?:y|ies)|respon[ds]\w*|respond|sentence|dialog(?:ue)?|conversation|rewrite|reword|rephrase|rearrange|"
    r"paraphras\w*|edit|correct|convert|chang\w*|replace|translat\w*|apolog\w*|excuse|customer|email|e-mail|letter|"
    r"message|note|say|said|speech|story|tweet|quote|script|role|pretend|imagine|explain why|line|phrase|express\w*|"
    r"statement|opposite|negati\w*|limitation\w*|poem|song|lyrics|complain\w*|summari\w*|complete|finish|use|using|"
    r"decline|refus\w*|text|resign\w*|tense)\b",
    re.I,
)
KOREAN_NOT = (
    r"(?:수(?:는|가)? 없(?:습니다|어요|네요|다)|어렵습니다|어려워요|불가능|지원하지 않|능력이 없|권한이 없|못합니다)"
)
KOREAN = re.compile(
    r"\s*(?:"
    + "|".join(
        (
            r"(?:죄송하지만|죄송합니다만?|미안하지만|유감스럽게도|안타깝지만|안타깝게도|아쉽지만)[,. ][^\n]{0,80}?"
            + KOREAN_NOT,
            r"(?:저는 |나는 )?(?:AI|인공 ?지능|언어|챗봇)[^.\n]{0,20}(?:로서|이기 때문에|이므로|이라서|이라|입니다)"
            r"[^\n]{0,100}?(?:않습니다|" + KOREAN_NOT + ")",
            r"(?:이 |해당 |본 )?(?:작업|요청|지시|과제)[은는을를]? [^.\n]{0,40}"
            r"(?:(?:수행|완료|처리)할 수 없|불가능합니다)",
        )
    )
    + ")"
)
KOREAN_SOMEBODY = re.compile(
    r"답장|대답|사과|바꾸|바꿔|바꿈|번역|대화|문장|고쳐|고치|존댓말|높임|메일|편지|안내|문자|답변을|답글|상황|거절|"
    r"역할|대사|요약|고객|회신|말투|설명해"
)


# An answer follows the refusal; or the question is about the model, and the opening answers it.
HELPS = re.compile(
    r"\b(?:however|but|instead|that said|nevertheless)\b[^.\n]{0,80}\b(?:i (?:can|could|will|have|am able)|you can|"
    r"here)|\bi can (?:provide|give|offer|help|suggest|describe|show|explain)|\bhere(?:'s|’s| is| are)\b|```|"
    r"\n *(?:1\.|[-*•]) |\b(?:assuming|for example)\b|(?:하지만|그러나|다만|대신)[^.\n]{0,60}(?:드리|수 있|도와)",
    re.I,
)
HELPED = 250  # least characters of an answer that helps after its refusal
ABOUT_MODEL = re.compile(
    r"\b(?:are|were|do|did|have|would|should|will you be|which\b[^?.\n]{0,30}) you\b(?! (?:able|please))|"
    r"\byour(?:self)?\b[^?.\n]{0,60}\?|\bhow are you\b",
    re.I,
)


def refusal(texts: Texts) -> Finding | None:
    """Answers that refuse the task: "As an AI language model, I cannot …", "죄송하지만 … 할 수 없습니다".

    Only at the start of the answer; not if help follows ("However, I can …") or the question is about the model ("Are
    you …?"). "I cannot …" counts only if the task is not to write what a person says (a reply, a dialogue, a sentence
    to reword). Turn the rule off if refusals are wanted, as in safety data.
    Misses: refusals after an introduction, or without one of the known openings.
    Source: AlpacaDataCleaned; the openings of text-davinci-003, ChatGPT and Korean services.
    """
    head = texts.output[:HEAD]
    if len(texts.output) > HELPED and HELPS.search(texts.output):
        return None
    if ABOUT_MODEL.search(texts.asked) and PLAIN.match(head):
        return None
    if not head.isascii() and KOREAN.match(head):
        if KOREAN_SOMEBODY.search(texts.asked):
            return None
        return Finding("the answer refuses the task")
    if PLAIN.match(head) or (FIRST_PERSON.match(head) and not SOMEBODY.search(texts.asked)):
        return Finding("the answer refuses the task")
    return None
