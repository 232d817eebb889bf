"""Rows of a classification task: labels first, then an input for each.

Asked for an input first, a model writes inputs of one label only; asked for the labels first, it writes one for each
(Wang et al. 2022, Self-Instruct, arXiv 2212.10560, section 2.2, "output-first").
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.api.judge_form import filled, mark_of
from pipeline.config.synthesis import Synthesis
from pipeline.run.files import sha256_json
from pipeline.synthesis.asking import TEXT, list_schema, object_schema, request_of, wants_json
from pipeline.synthesis.language_names import Wording, name_of, wording
from pipeline.synthesis.reply_form import Field, Records, records
from pipeline.synthesis.request import Draft, Request, Work
from pipeline.synthesis.teachers import asked_of

TASK = "classification"
GROUP = "group"
"""Note of rows that share an instruction, which filters compare once: the key of their request."""
MOST_LABELS = 8

PROMPT: dict[Wording, str] = {
    "en": """Here is a classification task, between tags:
<task-{mark}>
{instruction}
</task-{mark}>
One input for it:
<input-{mark}>
{input}
</input-{mark}>

First decide on the labels that an answer to this task can have, at most {most}. Then write one new input for each \
label, realistic and different from the input above, and the output as the task wants it. The right output for that \
input must give that label. Write in {language}.

{form}""",
    "ko": """태그 사이에 분류 과제가 하나 있습니다.
<task-{mark}>
{instruction}
</task-{mark}>
이 과제의 입력 하나:
<input-{mark}>
{input}
</input-{mark}>

먼저 이 과제의 답이 될 수 있는 라벨을 {most}개 이하로 정하세요. 그런 다음 라벨마다 새 입력을 하나씩 쓰세요. 입력은 \
실제로 있을 법하고 위의 입력과 달라야 합니다. 출력은 과제가 요구한 형식을 따르고, 그 입력의 올바른 답이 그 \
라벨이어야 합니다. {language}로 쓰세요.

{form}""",
}
IN_JSON: dict[Wording, str] = {
    "en": 'Reply with JSON only: {"rows": [{"label": "...", "input": "...", "output": "..."}]}',
    "ko": '다음 JSON으로만 답하세요: {"rows": [{"label": "...", "input": "...", "output": "..."}]}',
}
IN_TEXT: dict[Wording, str] = {
    "en": "Reply in this form only:\n1. Label: ...\nInput: ...\nOutput: ...\n2. Label: ...",
    "ko": "다음 형식으로만 답하세요:\n1. 라벨: ...\n입력: ...\n출력: ...\n2. 라벨: ...",
}
FIELDS = (Field("label", ("Label", "라벨")), Field("input", ("Input", "입력")), Field("output", ("Output", "출력")))
PROMPT_HASH = sha256_json([PROMPT, IN_JSON, IN_TEXT])[:16]


def balanced_rows(settings: Synthesis, draft: Draft) -> Work:
    """One row for each label of the draft's task, in place of its one row; that one where the reply gives no rows.

    A draft without an input stays as it is: what is to be classified stands in its instruction.
    """
    if not draft.input.strip():
        return [draft]
    request = _request(settings, draft)
    reply = yield request
    draft = draft.made_of(request)
    if reply.failure:
        return [draft]
    found = records(reply.text, "rows", FIELDS, reply.finish)
    shared = replace(
        draft, notes={**draft.notes, GROUP: request.key}, origin={**draft.origin, "label_prompt": PROMPT_HASH}
    )
    rows = [
        replace(shared, input=row["input"], output=row["output"], origin={**shared.origin, "label": row["label"]})
        for row in _one_of_each(found)
    ]
    unusable = [shared.reject("unparsable", problem, raw) for problem, raw in found.faulty]
    if found.problem:
        unusable = [shared.reject("unparsable", found.problem, reply.text)]
    return [*(rows or [replace(draft, notes={**draft.notes, GROUP: request.key})]), *unusable]


def _request(settings: Synthesis, draft: Draft) -> Request:
    within = wording(settings.language)
    form = (IN_JSON if wants_json(asked_of(settings, "teacher")) else IN_TEXT)[within]
    text = filled(
        PROMPT[within], mark_of([draft.instruction, draft.input]), instruction=draft.instruction, input=draft.input,
        most=str(MOST_LABELS), language=name_of(settings.language, within), form=form,
    )  # fmt: skip
    row = object_schema(label=TEXT, input=TEXT, output=TEXT)
    return request_of(settings, text, TASK, object_schema(rows=list_schema(row)))


def _one_of_each(found: Records) -> list[dict[str, str]]:
    """The first whole row of each label, so that none has more rows than another."""
    rows: dict[str, dict[str, str]] = {}
    for row in found.whole:
        label = " ".join(row["label"].casefold().split())
        if label and row["input"] and row["output"]:
            rows.setdefault(label, row)
    return list(rows.values())[:MOST_LABELS]
