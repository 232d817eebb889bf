"""Self-instruct: a prompt shows seed tasks and asks for new ones (Wang et al. 2022, arXiv 2212.10560; the form with
many whole tasks in one reply is that of Taori et al. 2023, stanford_alpaca)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from pipeline.config.synthesis import Asked, Synthesis
from pipeline.dataset.example import Example
from pipeline.run.files import sha256_json
from pipeline.synthesis.request import Draft, Request, Work

LANGUAGES = {"en": "English", "ko": "Korean"}
PROMPT = (
    "Write {count} new tasks for a collection that teaches a model to follow instructions. Each has an instruction, an "
    "input (may be empty) and the output that does the task well. Write in {language}. Examples:\n\n{seeds}\n\n"
    'Reply with JSON: {{"tasks": [{{"instruction": ..., "input": ..., "output": ...}}]}}'
)


class SelfInstruct:
    """Drafts from seed tasks."""

    items: int | None = None

    def __init__(self, settings: Synthesis, seeds: Sequence[Example]) -> None:
        self.settings, self.seeds = settings, seeds
        self.rows_per_item = settings.tasks_per_prompt

    def draft(self, number: int) -> Work:
        """New tasks, asked for with the seeds of this item."""
        request, origin = self._request(number)
        reply = yield request
        try:
            tasks = json.loads(reply.text)["tasks"]
            return [
                Draft(task["instruction"], task["input"], task["output"], origin=origin).made_of(request)
                for task in tasks
            ]
        except (ValueError, TypeError, KeyError):
            return [Draft(origin=origin).made_of(request).reject("unparsable", "no list of tasks", reply.text)]

    def finish(self, draft: Draft) -> Work:
        """Nothing more to ask."""
        return [draft]
        yield  # a generator

    def _request(self, number: int) -> tuple[Request, dict[str, object]]:
        settings = self.settings
        teacher: Asked = settings.teacher
        chosen = random.Random(f"{settings.seed}:{number}").sample(
            list(self.seeds), min(settings.seeds_per_prompt, len(self.seeds))
        )
        shown = "\n".join(
            json.dumps({"instruction": s.instruction, "input": s.input, "output": s.output}, ensure_ascii=False)
            for s in chosen
        )
        text = PROMPT.format(
            count=settings.tasks_per_prompt, language=LANGUAGES.get(settings.language, settings.language), seeds=shown
        )
        request = Request(
            (("user", text),), teacher.max_tokens, teacher.temperature, teacher.model, "tasks", draw=number,
            extra=teacher.extra,
        )  # fmt: skip
        return request, {"seeds": [s.id for s in chosen], "prompt": sha256_json(PROMPT)[:16]}
