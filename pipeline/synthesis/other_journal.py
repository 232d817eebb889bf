"""A journal of another config: its replies answer other requests, so all would be paid anew. Said before the first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.run.folder import Run
from pipeline.synthesis import receipts
from pipeline.synthesis.generation import Method
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Request

FIRST = 8  # requests that are looked for
# Keys that change what is asked; the others decide on replies, or on how many are asked for.
ASKED = (
    "method", "language", "from_language", "seeds", "seeds_per_prompt", "tasks_per_prompt", "evolve_seeds", "sources",
    "documents", "passage", "questions_per_passage", "rewrite", "seed",
)  # fmt: skip
OF_TEACHER = ("model", "temperature", "max_tokens", "json_mode", "extra")


def first_requests(maker: Method, count: int = FIRST) -> list[Request]:
    """The first request of each of the first items that ask for anything."""
    return list(islice(_first_requests(maker, 10 * count), count))


def _first_requests(maker: Method, most: int) -> Iterator[Request]:
    for number in range(most if maker.items is None else min(most, maker.items)):
        work = maker.draft(number)
        request = next(work, None)
        work.close()
        if request is not None:
            yield request


def warning(settings: Synthesis, maker: Method, journal: Journal, run: Run) -> str:
    """One line where the journal has replies, but none to the first requests of this config; else empty."""
    if not len(journal):
        return ""
    requests = first_requests(maker)
    if not requests or any(request.key in journal for request in requests):
        return ""
    return (
        f"generate: the journal's {len(journal):,} replies are to other requests than this config's first "
        f"{len(requests)}, which are asked and paid anew: {_reason(settings, run, journal)}"
    )


def _reason(settings: Synthesis, run: Run, journal: Journal) -> str:
    manifest = run.manifest("generated") or {}
    changed = _changed(settings, manifest.get("key", {}).get("synthesis", {}))
    if changed:
        return f"changed since: {', '.join(changed)}"
    models = dict.fromkeys(r.model for r in receipts.read(journal.path).values() if r.model)
    if models and not any(settings.teacher.model in model or model in settings.teacher.model for model in models):
        return f"they are by {', '.join(models)}, now {settings.teacher.model} is asked"
    return "the prompts, the seeds or other settings have changed"


def _changed(settings: Synthesis, then: dict[str, Any]) -> list[str]:
    """Keys that change requests and had another value when rows were last written."""
    if not then:
        return []
    now = settings.model_dump(mode="json")
    keys = [f"synthesis.{name}" for name in ASKED if name in then and now[name] != then[name]]
    teacher = then.get("teacher") or {}
    of_teacher = [name for name in OF_TEACHER if name in teacher and now["teacher"][name] != teacher[name]]
    return keys + [f"synthesis.teacher.{name}" for name in of_teacher]
