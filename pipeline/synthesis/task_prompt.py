"""The prompt that asks for new tasks, in English and Korean, and the tasks of its reply.

JSON: one message with the rules, the shown tasks as lines of JSON, and the form. Text: a conversation in which the
shown tasks are the reply to a first request: a small model copies a form that it sees there, and does not keep one that
it is only told about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.clean.finding import FIELDS as FIELDS_OF_ROW
from pipeline.dataset.example import Example
from pipeline.run.files import sha256_json
from pipeline.synthesis.asking import FLAG, TEXT, list_schema, object_schema, request_of, wants_json
from pipeline.synthesis.classification import TASK
from pipeline.synthesis.language_names import Wording, name_of, wording
from pipeline.synthesis.repair import shown
from pipeline.synthesis.reply_form import Field, Records, records
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.teachers import asked_of

PROMPT: dict[Wording, str] = {
    "en": """You extend a collection of tasks that teaches a language model to follow instructions. Some of its tasks:

{shown}

Write {count} new tasks for the collection, in {language}. They must differ from these and from each other in \
topic, in form and in what is to be done: writing, explaining, editing, classifying, extracting, calculating, \
coding, advising and so on.

- instruction: a question or a request of one to three sentences, as a person would type it. A language model \
without tools can do it: no pictures or sounds, no browsing, no actions in the world, nothing that only today's \
news can answer.
- input: the text or data that the instruction is about, made up, realistic and whole, at most 120 words; empty if \
the instruction needs none. No "see the attached file" and no "[insert text]".
- output: what a careful expert would answer: correct, complete, in the form that was asked for, at most 200 words.
- classification: whether the output is one of a few labels that the instruction names or implies.

{form}""",
    "ko": """언어 모델이 지시를 따르도록 가르치는 과제 모음을 늘리려고 합니다. 모음에 있는 과제의 예입니다.

{shown}

이 모음에 넣을 새 과제를 {language}로 {count}개 쓰세요. 위의 과제와도 서로와도 주제, 형식, 할 일이 달라야 합니다. \
글쓰기, 설명, 고쳐 쓰기, 분류, 추출, 계산, 코드, 조언 등을 고루 섞으세요. 번역투가 아닌 자연스러운 표현을 쓰고, \
한국의 생활과 문화도 다루세요.

- instruction: 사람이 실제로 입력할 법한 한두 문장의 질문이나 부탁. 도구가 없는 언어 모델이 할 수 있어야 합니다. \
그림, 소리, 검색, 현실의 행동, 오늘의 뉴스가 필요한 것은 안 됩니다.
- input: 지시가 다루는 글이나 자료. 지어내되 실제 같고 온전해야 하며 100단어 이하로 씁니다. 필요 없으면 비워 \
두세요. "첨부 파일 참고"나 "[글 입력]" 같은 자리 표시는 쓰지 마세요.
- output: 꼼꼼한 전문가의 답. 정확하고 빠짐없으며 요구된 형식을 따르고 150단어를 넘지 않습니다. 한자와 가나를 섞지 \
마세요.
- classification: 출력이 지시에 나오거나 정해진 몇 가지 라벨 가운데 하나인지 여부.

{form}""",
}
IN_JSON: dict[Wording, str] = {
    "en": 'Reply with JSON only: {"tasks": [{"instruction": "...", "input": "...", "output": "...", '
    '"classification": false}]}',
    "ko": '다음 JSON으로만 답하세요: {"tasks": [{"instruction": "...", "input": "...", "output": "...", '
    '"classification": false}]}',
}
TEXT_PROMPT: dict[Wording, str] = {
    "en": """Write tasks for a collection that teaches a language model to follow instructions, in {language}. Each \
has an instruction as a person would type it, an input that it is about (<noinput> if it needs none), and the output \
that does it correctly and completely. A language model without tools can do it. Classification says whether the \
output is one of a few labels. Vary topic, form and what is to be done. Write {count} tasks.""",
    "ko": """언어 모델이 지시를 따르도록 가르치는 과제를 {language}로 쓰세요. 과제마다 사람이 실제로 입력할 법한 \
지시, 지시가 다루는 입력(필요 없으면 <noinput>), 그리고 지시를 정확하고 빠짐없이 해낸 출력이 있습니다. 도구가 없는 \
언어 모델이 할 수 있는 과제여야 합니다. 분류에는 출력이 정해진 몇 가지 라벨 가운데 하나인지 적습니다. 주제와 형식과 할 \
일을 고루 바꾸고, 자연스러운 표현만 쓰며, 한자와 가나를 섞지 마세요. 과제 {count}개를 쓰세요.""",
}
MORE: dict[Wording, str] = {
    "en": "Write {count} more in the same form, numbered from 1, about other topics and of other kinds. Write nothing "
    "else.",
    "ko": "같은 형식으로 주제와 종류가 다른 과제를 {count}개 더 쓰고 1부터 번호를 매기세요. 그 밖의 말은 쓰지 마세요.",
}
REPAIR: dict[Wording, str] = {
    "en": "This reply cannot be used: {problem}. Send the tasks again, whole and only in the form that was asked for; "
    "if they were too long, fewer and shorter ones.",
    "ko": "이 답은 쓸 수 없습니다: {problem}. 요구한 형식으로만, 온전한 과제를 다시 보내 주세요. "
    "너무 길었다면 더 적고 더 짧게 쓰세요.",
}
LABELS: dict[Wording, tuple[str, str, str, str]] = {
    "en": ("Instruction", "Classification", "Input", "Output"), "ko": ("지시", "분류", "입력", "출력"),
}  # fmt: skip
FIELDS = (
    Field("instruction", ("Instruction", "Instructions", "지시")), Field("input", ("Input", "입력"), may_lack=True),
    Field("output", ("Output", "출력")), Field("classification", ("Classification", "분류"), kind=bool, may_lack=True),
)  # fmt: skip
SCHEMA = object_schema(tasks=list_schema(object_schema(instruction=TEXT, input=TEXT, output=TEXT, classification=FLAG)))
PROMPT_HASH = sha256_json([PROMPT, IN_JSON, TEXT_PROMPT, MORE, LABELS])[:16]
Task = Mapping[str, Any]
"""instruction, input, output: str; classification: bool."""


def task_of(seed: Example) -> Task:
    """A seed as a prompt shows it."""
    return {**{name: getattr(seed, name) for name in FIELDS_OF_ROW}, "classification": seed.task == TASK}


def tasks_request(settings: Synthesis, tasks: Sequence[Task], draw: int) -> Request:
    """Shows tasks and asks for new ones."""
    within, count = wording(settings.language), settings.tasks_per_prompt
    language = name_of(settings.language, within)
    if wants_json(asked_of(settings, "teacher")):
        shown = "\n".join(json.dumps(task, ensure_ascii=False) for task in tasks)
        text = PROMPT[within].format(shown=shown, count=count, language=language, form=IN_JSON[within])
        return request_of(settings, text, "tasks", SCHEMA, draw=draw)
    conversation = (
        ("user", TEXT_PROMPT[within].format(count=len(tasks), language=language)),
        ("assistant", _numbered(tasks, within)), ("user", MORE[within].format(count=count)),
    )  # fmt: skip
    return request_of(settings, conversation, "tasks", draw=draw)


def repair_request(settings: Synthesis, request: Request, reply: Reply, problem: str) -> Request:
    """Asks again, with the reply and what is wrong with it."""
    words = REPAIR[wording(settings.language)].replace("{problem}", problem)
    messages = (*request.messages, ("assistant", shown(reply)), ("user", words))
    return request_of(settings, messages, "repair", SCHEMA, draw=request.draw)


def tasks_of(reply: Reply) -> Records:
    """The tasks of a reply."""
    return records(reply.text, "tasks", FIELDS, reply.finish)


def _numbered(tasks: Sequence[Task], within: Wording) -> str:
    instruction, classification, given, output = LABELS[within]
    yes, no = ("예", "아니요") if within == "ko" else ("yes", "no")
    return "\n".join(
        f"{number}. {instruction}: {task['instruction']}\n{classification}: {yes if task['classification'] else no}\n"
        f"{given}: {task['input'] or '<noinput>'}\n{output}: {task['output']}"
        for number, task in enumerate(tasks, 1)
    )
