"""Self-instruct: a prompt shows seed tasks and asks for new ones (Wang et al. 2022, arXiv 2212.10560; the form with
many whole tasks in one reply is that of Taori et al. 2023, stanford_alpaca).

    item n -> seeds of n -> request -> tasks -> drafts                first phase
                               |  no task: one repair request
    draft -> classification: a row for each label -> finished rows    second phase

With `evolve_seeds` the prompt of item n also shows tasks from the reply of one item below n / 2, which its hash
chooses. So a prompt depends on replies only, not on what filters kept.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.refusals import refusal
from pipeline.dataset.example import Example
from pipeline.run.files import sha256_json
from pipeline.synthesis.asking import FLAG, TEXT, list_schema, object_schema, request_of, wants_json
from pipeline.synthesis.classification import TASK, balanced_rows
from pipeline.synthesis.finishing import finished
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.language_names import Wording, name_of, wording
from pipeline.synthesis.reply_form import Field, Records, records, without_thoughts
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.seeds import SeedChoice, rank
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
IN_TEXT: dict[Wording, str] = {
    "en": "Number the new tasks from 1, write each in the form of the tasks above, with <noinput> for an empty input, "
    "and write nothing else.",
    "ko": "새 과제에 1부터 번호를 매기고 위의 과제와 같은 형식으로 쓰세요. 입력이 없으면 <noinput>이라고 쓰고, "
    "그 밖의 말은 쓰지 마세요.",
}
REPAIR: dict[Wording, str] = {
    "en": "This reply cannot be used: {problem}. Send the tasks again, whole and only in the form that was asked for; "
    "if they were too long, fewer and shorter ones.",
    "ko": "이 답은 쓸 수 없습니다: {problem}. 요구한 형식으로만, 온전한 과제를 다시 보내 주세요. 너무 길었다면 더 적고 더 짧게 쓰세요.",
}
LABELS: dict[Wording, tuple[str, str, str, str]] = {
    "en": ("Instruction", "Classification", "Input", "Output"), "ko": ("지시", "분류", "입력", "출력"),
}  # fmt: skip
FIELDS = (
    Field("instruction", ("Instruction", "지시")), Field("input", ("Input", "입력")), Field("output", ("Output", "출력")),
    Field("classification", ("Classification", "분류"), kind=bool, may_lack=True),
)  # fmt: skip
SCHEMA = object_schema(tasks=list_schema(object_schema(instruction=TEXT, input=TEXT, output=TEXT, classification=FLAG)))
PROMPT_HASH = sha256_json([PROMPT, IN_JSON, IN_TEXT, LABELS])[:16]
LONGEST_SHOWN = 6000  # characters of a reply that a repair request shows
Shown = Mapping[str, Any]
Ask = Generator[Request, Reply, tuple[Request, dict[str, Any]]]


class SelfInstruct:
    """Drafts from seed tasks.

    Args:
        first_items: the first item that may show a seed, by its id (`seeds.py`).
    """

    items: int | None = None

    def __init__(
        self, settings: Synthesis, seeds: Sequence[Example], first_items: Mapping[str, int] | None = None
    ) -> None:
        self.settings, self.seeds = settings, seeds
        self.choice = SeedChoice(settings, seeds, first_items or {})
        self.rows_per_item = settings.tasks_per_prompt
        self.is_json = wants_json(asked_of(settings, "teacher"))

    def draft(self, number: int) -> Work:
        """New tasks, asked for with the seeds of this item; where none can be parsed, asked for once again."""
        request, origin = yield from self._request(number)
        reply = yield request
        draft = Draft(origin=origin).made_of(request)
        found, draft = self._parsed(reply, draft)
        if found.problem and not draft.rejected:
            repair = self._repair(request, reply, found.problem)
            reply = yield repair
            found, draft = self._parsed(reply, draft.made_of(repair))
        if draft.rejected:
            return [draft]
        if found.problem:
            return [draft.reject("unparsable", found.problem, reply.text)]
        return [
            *(_draft(draft, task) for task in found.whole),
            *(draft.reject("unparsable", problem, raw) for problem, raw in found.faulty),
        ]

    def finish(self, draft: Draft) -> Work:
        """A row for each label of a classification task, else one row; rated and evolved where that is wanted."""
        rows = [draft]
        if draft.task == TASK:
            rows = yield from balanced_rows(self.settings, draft)
        done: list[Draft] = []
        for number, row in enumerate(rows):
            done += [row] if row.rejected else (yield from finished(self.settings, row, evolve=number == 0))
        return done

    def items_asked(self, journal: Journal, after: int) -> int:
        """The number behind the last item with a reply in the journal, or a request that was sent; after: items in a
        row without one, behind which there are no more."""
        number, end = 0, 0
        while number < end + after:
            key = self._key(number, journal)
            number += 1
            if key in journal or key in journal.open:
                end = number
        return end

    def _key(self, number: int, journal: Journal) -> str:
        """Key of an item's request; empty where that depends on a reply that the journal does not hold."""
        work = self._request(number)
        try:
            reply: Reply | None = None
            while True:
                request = next(work) if reply is None else work.send(reply)
                if (reply := journal.reply(request.key)) is None:
                    return ""
        except StopIteration as end:
            request, _ = end.value
            return str(request.key)

    def _parsed(self, reply: Reply, draft: Draft) -> tuple[Records, Draft]:
        """The tasks of a reply; the draft is rejected where the teacher refused to write any."""
        if reply.failure:
            return Records(), draft.reject("refused-request", reply.failure)
        found = records(reply.text, "tasks", FIELDS, reply.finish)
        if found.problem and refusal(Texts("", "", without_thoughts(reply.text))):
            return found, draft.reject("refusal", "the teacher refuses to write tasks", reply.text)
        return found, draft

    def _request(self, number: int) -> Ask:
        """The request of an item, and what it was made from."""
        seeds = self.choice.of(number)
        origin: dict[str, Any] = {"seeds": [seed.id for seed in seeds], "prompt": PROMPT_HASH}
        shown: list[Shown] = [
            {**{name: getattr(seed, name) for name in FIELDS_OF_ROW}, "classification": seed.task == TASK}
            for seed in seeds
        ]
        if self.settings.evolve_seeds and number > 1:
            parent = rank(self.settings.seed, number, "parent") % (number // 2)
            request, _ = yield from self._request(parent)
            reply = yield request
            tasks = records(reply.text, "tasks", FIELDS, reply.finish).whole
            order = sorted(tasks, key=lambda task: rank(self.settings.seed, number, task["instruction"]))
            shown += order[: max(1, len(seeds) // 3)]
            origin["shown_tasks_of"] = request.key
        within = wording(self.settings.language)
        text = PROMPT[within].format(
            shown=self._shown(shown, within), count=self.settings.tasks_per_prompt,
            language=name_of(self.settings.language, within), form=(IN_JSON if self.is_json else IN_TEXT)[within],
        )  # fmt: skip
        return request_of(self.settings, text, "tasks", SCHEMA, draw=number), origin

    def _shown(self, tasks: Sequence[Shown], within: Wording) -> str:
        """Tasks as a prompt shows them: a line of JSON each, or numbered text."""
        if self.is_json:
            return "\n".join(json.dumps(task, ensure_ascii=False) for task in tasks)
        instruction, classification, input, output = LABELS[within]
        yes, no = ("예", "아니요") if within == "ko" else ("yes", "no")
        return "\n".join(
            f"{number}. {instruction}: {task['instruction']}\n{classification}: "
            f"{yes if task['classification'] else no}\n{input}: {task['input'] or '<noinput>'}\n{output}: {task['output']}"
            for number, task in enumerate(tasks, 1)
        )

    def _repair(self, request: Request, reply: Reply, problem: str) -> Request:
        """Asks again, with the reply and what is wrong with it."""
        text = reply.text if len(reply.text) <= LONGEST_SHOWN else reply.text[:LONGEST_SHOWN] + " […]"
        words = REPAIR[wording(self.settings.language)].replace("{problem}", problem)
        messages = (*request.messages, ("assistant", text), ("user", words))
        return request_of(self.settings, messages, "repair", SCHEMA, draw=request.draw)


def first_items(settings: Synthesis, seeds: Sequence[Example], journal: Journal, after: int) -> dict[str, int]:
    """The first item that may show each seed: 0, or for seeds that were added later, the first item not asked for."""
    known: dict[str, int] = journal.notes.get(series(settings), {})
    old = [seed for seed in seeds if seed.id in known]
    if not known or len(old) == len(seeds):
        return known or {seed.id: 0 for seed in seeds}
    start = (
        SelfInstruct(settings, old, known).items_asked(journal, after) if len(old) >= settings.seeds_per_prompt else 0
    )
    return {**known, **{seed.id: start for seed in seeds if seed.id not in known}}


def series(settings: Synthesis) -> str:
    """Name of a journal's note on first items: what all requests of a config have in common."""
    teacher = asked_of(settings, "teacher")
    return "seeds " + sha256_json([
        PROMPT_HASH, settings.language, settings.seed, settings.seeds_per_prompt, settings.tasks_per_prompt,
        settings.evolve_seeds, teacher.model, teacher.max_tokens, teacher.temperature, wants_json(teacher),
        teacher.extra,
    ])[:16]  # fmt: skip


def _draft(draft: Draft, task: Mapping[str, Any]) -> Draft:
    kind = TASK if task["classification"] else ""
    return Draft(task["instruction"], task["input"], task["output"], kind, draft.origin, draft.requests)
