"""Evolves an instruction: deeper (harder) or wider (another one of the same field), and has it answered anew.

Evol-Instruct (Xu et al. 2023, WizardLM, arXiv 2304.12244), with its ways to make an instruction harder and its checks
for evolutions without a gain; prompts and checks are our own, and the gain is measured, not asked for.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.api.judge_form import filled, mark_of
from pipeline.config.synthesis import Synthesis
from pipeline.dataset.language import language_of
from pipeline.dataset.select.rouge_tokens import tokens
from pipeline.run.files import sha256_json
from pipeline.synthesis.asking import TEXT, object_schema, request_of, wants_json
from pipeline.synthesis.language_names import Wording, name_of, wording
from pipeline.synthesis.novelty_pool import rouge_l
from pipeline.synthesis.reply_form import Field, record, without_thoughts
from pipeline.synthesis.request import Draft, Request, Step
from pipeline.synthesis.teachers import asked_of

COPIED = 0.95  # ROUGE-L with its parent above which an evolution changed nothing
EVOLVED = "evolved"
"""Note of an evolved row: the instructions that it came from, with which filters do not compare it."""

DEEPER: dict[Wording, tuple[str, ...]] = {
    "en": (
        "Add one more requirement or limit that the answer has to meet.",
        "Ask for more depth: a reason, a mechanism, a consequence or a comparison.",
        "Replace a general notion by a specific case, with names, numbers or circumstances.",
        "Change it so that several steps of reasoning are needed where one was enough.",
    ),
    "ko": (
        "답이 지켜야 할 조건이나 제한을 하나 더하세요.",
        "까닭, 원리, 결과, 비교 가운데 하나를 더 깊이 묻도록 바꾸세요.",
        "두루뭉술한 말을 이름, 숫자, 상황이 있는 구체적인 사례로 바꾸세요.",
        "한 단계로 풀리던 것을 여러 단계로 따져야 풀리도록 바꾸세요.",
    ),
}
WIDER: dict[Wording, tuple[str, ...]] = {
    "en": (
        "Do not change the task but write another one of the same field and about as hard, on a rarer topic.",
        "Do not change the task but write another one for the same person, of a different kind.",
    ),
    "ko": (
        "이 과제를 고치지 말고, 같은 분야에서 난이도가 비슷하지만 더 드문 주제의 새 과제를 쓰세요.",
        "이 과제를 고치지 말고, 같은 사람이 부탁할 만한 다른 종류의 새 과제를 쓰세요.",
    ),
}
PROMPT: dict[Wording, str] = {
    "en": """Here is a task, between tags:
<task-{mark}>
{instruction}
</task-{mark}>
{given}
{way} A language model without tools must be able to do the new task, and a person must understand it by itself, \
without the one above. Add at most 40 words. Write in {language}. If the task needs a text or data to work on, write \
that into the input; else leave the input empty. Do not solve it.

{form}""",
    "ko": """태그 사이에 과제가 하나 있습니다.
<task-{mark}>
{instruction}
</task-{mark}>
{given}
{way} 새 과제는 도구가 없는 언어 모델이 할 수 있어야 하고, 위의 과제를 보지 않은 사람도 \
이해할 수 있어야 합니다. 늘리는 분량은 서른 단어를 넘지 마세요. {language}로 쓰세요. 다룰 글이나 \
자료가 필요한 과제면 입력에 적고, 아니면 입력을 비워 두세요. 과제를 풀지는 마세요.

{form}""",
}
GIVEN = "<input-{mark}>\n{input}\n</input-{mark}>\n"
IN_JSON: dict[Wording, str] = {
    "en": 'Reply with JSON only: {"instruction": "...", "input": "..."}',
    "ko": '다음 JSON으로만 답하세요: {"instruction": "...", "input": "..."}',
}
IN_TEXT: dict[Wording, str] = {
    "en": "Reply in this form only (<noinput> for an empty input):\nInstruction: ...\nInput: ...",
    "ko": "다음 형식으로만 답하세요(입력이 없으면 <noinput>):\n지시: ...\n입력: ...",
}
FIELDS = (Field("instruction", ("Instruction", "지시")), Field("input", ("Input", "입력"), may_lack=True))
ANSWER: dict[Wording, str] = {
    "en": "Do the following task completely and correctly, in {language} where it does not ask for another language. "
    "Reply with the result only, without an introduction.\n\n{task}",
    "ko": "다음 과제를 빠짐없이 정확하게 해 주세요. 과제가 다른 언어를 요구하지 않으면 {language}로 쓰고, "
    "머리말 없이 결과만 답하세요.\n\n{task}",
}
PROMPT_HASH = sha256_json([PROMPT, DEEPER, WIDER, GIVEN, IN_JSON, IN_TEXT, ANSWER])[:16]


def evolved(settings: Synthesis, row: Draft, number: int) -> Step:
    """A new row from this one, answered anew; rejected where it gains nothing or has no usable answer.

    Args:
        number: of the round, from 0. The row's hash and this choose the way.
    """
    kind, way = way_of(settings, row, number)
    request = evolution_request(settings, row, way)
    reply = yield request
    steps = (*row.origin.get("evolved", ()), {"kind": kind, "way": way, "prompt": PROMPT_HASH})
    parents = (*row.notes.get(EVOLVED, ()), row.instruction)
    task = row.task if kind == "deeper" else ""
    origin = {name: value for name, value in row.origin.items() if name != "rating"}
    child = Draft(task=task, origin={**origin, "evolved": steps}, requests=row.requests, notes={EVOLVED: parents})
    child = child.made_of(request)
    if reply.failure:
        return child.reject("refused-request", reply.failure)
    got = record(reply.text, FIELDS, reply.finish)
    if isinstance(got, str):
        return child.reject("unparsable", got, reply.text)
    child = replace(child, **got)
    if problem := without_gain(row, child, kind):
        return child.reject("no-gain", problem)
    return (yield from _answered(settings, child))


def way_of(settings: Synthesis, row: Draft, number: int) -> tuple[str, str]:
    """Kind and way of a round: kinds in turn, from one that the instruction's hash chooses."""
    chosen = int(sha256_json([row.instruction, row.input])[:8], 16)
    kinds = settings.evolve.kinds
    kind = kinds[(chosen + number) % len(kinds)]
    ways = (DEEPER if kind == "deeper" else WIDER)[wording(settings.language)]
    return kind, ways[chosen // len(kinds) % len(ways)]


def evolution_request(settings: Synthesis, row: Draft, way: str) -> Request:
    """Asks for the new instruction."""
    within = wording(settings.language)
    is_json = wants_json(asked_of(settings, "teacher"))
    mark = mark_of([row.instruction, row.input])
    given = filled(GIVEN, mark, input=row.input) if row.input.strip() else ""
    text = filled(
        PROMPT[within], mark, instruction=row.instruction, given=given, way=way,
        language=name_of(settings.language, within), form=(IN_JSON if is_json else IN_TEXT)[within],
    )  # fmt: skip
    return request_of(settings, text, "evolve", object_schema(instruction=TEXT, input=TEXT))


def without_gain(row: Draft, child: Draft, kind: str) -> str:
    """Why an evolution is none: empty, the same again, shorter though it was to be harder, or the prompt in it."""
    if not child.instruction:
        return "the evolved instruction is empty"
    if "<task-" in child.instruction or "<input-" in child.instruction + child.input:
        return "the evolved instruction repeats the prompt"
    language = language_of(row.instruction)
    before, after = (tokens(f"{d.instruction}\n{d.input}", language) for d in (row, child))
    if (f := rouge_l(after, before)) > COPIED or row.instruction.split() == child.instruction.split():
        return f"the evolved instruction is the same again (ROUGE-L {f:.2f})"
    if kind == "deeper" and 2 * len(after) < len(before):
        return f"the evolved instruction has {len(after)} tokens, {len(before)} before"
    return ""


def _answered(settings: Synthesis, row: Draft) -> Step:
    """The row with the teacher's answer to it."""
    within = wording(settings.language)
    task = f"{row.instruction}\n\n{row.input}" if row.input.strip() else row.instruction
    text = filled(ANSWER[within], "", language=name_of(settings.language, within), task=task)
    request = request_of(settings, text, "answer")
    reply = yield request
    row = row.made_of(request)
    if reply.failure:
        return row.reject("refused-request", reply.failure)
    if reply.finish == "length":
        return row.reject("cut-off", "the answer was cut off at teacher.max_tokens", reply.text)
    return replace(row, output=without_thoughts(reply.text))
