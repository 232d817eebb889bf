"""Self-instruct: a prompt shows seed tasks and asks for new ones (Wang et al. 2022, arXiv 2212.10560; the form with
many whole tasks in one reply is that of Taori et al. 2023, stanford_alpaca).

    item n -> seeds of n -> request -> tasks -> drafts                first phase
                               |  no task: one repair request
    draft -> classification: a row for each label -> finished rows    second phase

With `evolve_seeds` the prompt of item n also shows tasks from the reply of one item below n / 2, which its hash
chooses. So a prompt depends on replies only, not on what filters kept.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.refusals import refusal
from pipeline.dataset.example import Example
from pipeline.run.files import sha256_json
from pipeline.synthesis.asking import wants_json
from pipeline.synthesis.classification import TASK, balanced_rows
from pipeline.synthesis.finishing import finished
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.reply_form import Records, without_thoughts
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.seeds import SeedChoice, rank
from pipeline.synthesis.task_prompt import PROMPT_HASH, repair_request, task_of, tasks_of, tasks_request
from pipeline.synthesis.teachers import asked_of

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

    def draft(self, number: int) -> Work:
        """New tasks, asked for with the seeds of this item; where none can be parsed, asked for once again."""
        request, origin = yield from self._request(number)
        reply = yield request
        draft = Draft(origin=origin).made_of(request)
        found, draft = self._parsed(reply, draft)
        if found.problem and not draft.rejected:
            repair = repair_request(self.settings, request, reply, found.problem)
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
        found = tasks_of(reply)
        if found.problem and reply.finish == "content_filter":
            return found, draft.reject("refusal", "the provider's content filter ended the reply", reply.text)
        if found.problem and refusal(Texts("", "", without_thoughts(reply.text))):
            return found, draft.reject("refusal", "the teacher refuses to write tasks", reply.text)
        return found, draft

    def _request(self, number: int) -> Ask:
        """The request of an item, and what it was made from."""
        seeds = self.choice.of(number)
        origin: dict[str, Any] = {"seeds": [seed.id for seed in seeds], "prompt": PROMPT_HASH}
        shown = [task_of(seed) for seed in seeds]
        if self.settings.evolve_seeds and number > 1:
            parent = rank(self.settings.seed, number, "parent") % (number // 2)
            request, _ = yield from self._request(parent)
            reply = yield request
            tasks = tasks_of(reply).whole
            order = sorted(tasks, key=lambda task: rank(self.settings.seed, number, task["instruction"]))
            shown += order[: max(1, len(seeds) // 3)]
            origin["shown_tasks_of"] = request.key
        return tasks_request(self.settings, shown, number), origin


def first_items(settings: Synthesis, seeds: Sequence[Example], journal: Journal, after: int) -> dict[str, int]:
    """The first item that may show each seed: 0, or for seeds that were added later, the first item not asked for."""
    noted = journal.notes.get(series(settings))
    known = {name: item for name, item in noted.items() if isinstance(item, int)} if isinstance(noted, dict) else {}
    old = [seed for seed in seeds if seed.id in known]
    if not known or len(old) == len(seeds):
        return known or {seed.id: 0 for seed in seeds}
    start = 0
    if len(old) >= settings.seeds_per_prompt:
        start = SelfInstruct(settings, old, known).items_asked(journal, after)
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
