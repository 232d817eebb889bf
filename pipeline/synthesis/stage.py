"""The generate stage: a teacher's replies in, `generated/` out.

rows.jsonl       rows in Alpaca form, each with its provenance under `generated`; an ordinary source
rejected.jsonl   drafts that were not kept, with rule, reason and the raw reply where it could not be used
report.json      counts, spending, and what the page shows

journal/journal.jsonl, in the run folder, holds every reply; the stage is a pure function of it and of the config.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pipeline.api.key import key_of
from pipeline.config.schema import Config
from pipeline.config.synthesis import Synthesis
from pipeline.dataset.read.benchmark import files_of as benchmark_files
from pipeline.dataset.read.source import files_of as source_files
from pipeline.dataset.read.source import located
from pipeline.run.errors import UserError
from pipeline.run.files import write_json, write_json_lines
from pipeline.run.folder import Run, input_hashes
from pipeline.run.progress import bar, say
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.documents.read import files_of as document_files
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.generation import Generation, Result
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.methods import method, note
from pipeline.synthesis.request import Draft
from pipeline.synthesis.seeds import seed_files
from pipeline.synthesis.spend import Budget
from pipeline.synthesis.teachers import parallel_of, teachers_of

# Keys that change how a teacher is asked, not what it is asked.
HOW = ("base_url", "key", "parallel", "retries", "timeout", "kind", "price", "context")


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the rows depend on besides the journal."""
    settings = config.value("synthesis")
    for name in ("preview", "replay"):
        del settings[name]
    for role in ("teacher", "judge"):
        settings[role] = {name: value for name, value in settings[role].items() if name not in HOW}
    return {"version": 1, "synthesis": settings, "inputs": input_hashes(input_files(config.synthesis))}


def input_files(settings: Synthesis) -> list[Path]:
    """The files that requests are made from, and that rows are compared with."""
    benchmarks = [path for benchmark in settings.benchmarks for path in benchmark_files(benchmark.path)]
    sources = [path for source in settings.sources for path in source_files(source)]
    return [*seed_files(settings), *sources, *document_files(settings.documents), *benchmarks]


def journal_of(run: Run) -> Path:
    """Where a run keeps its replies."""
    return run.root / "journal" / "journal.jsonl"


def is_source(config: Config) -> bool:
    """Whether a source of the config is what this config generates."""
    own = Run.of(config.name).folder("generated")
    return config.synthesis.method != "none" and any(located(s.path) == own for s in config.data.sources)


def check(config: Config, run: Run) -> None:
    """What can be wrong before the first request.

    Raises:
        UserError: no method or no teacher is named, its package or its key is missing.
    """
    settings = config.synthesis
    if settings.method == "none":
        fix = "self-instruct, translate or questions (docs/synthesis.md)"
        raise UserError("no method is named", "synthesis.method", fix)
    if not run.is_current("generated", key(config, run)) and not settings.replay:
        key_of(settings.teacher, "synthesis.teacher")


def build(config: Config, run: Run, stage_key: dict[str, Any]) -> None:
    """Asks for what the journal does not hold, and writes the rows.

    Raises:
        UserError: the teacher fails, or gives nothing that can be kept; replies so far stay in the journal.
    """
    settings = config.synthesis
    result = asyncio.run(_generate(settings, Journal(journal_of(run))))
    with run.writing("generated", stage_key) as output:
        write_json_lines(output.folder / "rows.jsonl", (_row(row) for row in result.rows))
        write_json_lines(output.folder / "rejected.jsonl", (_row(row) for row in result.rejected))
        report = {"rows": len(result.rows), "drafts": result.drafts, "rejected": dict(result.counts())}
        write_json(output.folder / "report.json", report)
        output.counts.update(report)
    say(f"generate: {len(result.rows):,} rows of {result.drafts:,} drafts: {run.folder('generated') / 'rows.jsonl'}")


async def _generate(settings: Synthesis, journal: Journal) -> Result:
    budget = Budget(settings, journal)
    teachers = {} if settings.replay else teachers_of(settings, budget)
    if teachers:
        note(settings, journal)
    try:
        with bar(total=settings.rows, what="generate") as progress:

            def show(result: Result) -> None:
                progress.update(len(result.rows) - progress.n)

            asker = Asker(journal, budget, teachers)
            return await Generation(
                method(settings, journal),
                DraftFilters(settings),
                asker,
                settings.rows,
                parallel_of(settings.teacher),
                show,
            ).run()
    finally:
        for teacher in set(teachers.values()):
            await teacher.close()
        journal.close()


def _row(draft: Draft) -> dict[str, Any]:
    row = {name: getattr(draft, name) for name in ("instruction", "input", "output", "task")}
    return {**row, "generated": {**draft.origin, "requests": draft.requests}}
