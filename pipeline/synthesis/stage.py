"""The generate stage: a teacher's replies in, `generated/` out.

rows.jsonl       rows in Alpaca form, each with its provenance under `generated`; an ordinary source
rejected.jsonl   drafts that were not kept, with rule, reason and the raw reply where it could not be used
report.json      yield, novelty, lengths, spending, provenance; report.html shows it
README.md        the datasheet

journal/journal.jsonl, in the run folder, holds every reply; the stage is a pure function of it and of the config.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.portable_paths import shortened, shortener
from pipeline.config.schema import Config
from pipeline.config.synthesis import Synthesis
from pipeline.dataset.read.benchmark import files_of as benchmark_files
from pipeline.dataset.read.source import files_of as source_files
from pipeline.dataset.read.source import located
from pipeline.run.errors import UserError
from pipeline.run.files import write_json, write_json_lines, write_text
from pipeline.run.folder import Run, input_hashes
from pipeline.run.next_command import command_without, next_command, verb_started
from pipeline.run.object_store import DataFile
from pipeline.run.progress import bar, say
from pipeline.synthesis import receipts
from pipeline.synthesis.documents.read import files_of as document_files
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.generation import Generation, Method, Result
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.methods import method, open_asker
from pipeline.synthesis.other_journal import warning
from pipeline.synthesis.progress import Progress
from pipeline.synthesis.readiness import check_method, check_teachers
from pipeline.synthesis.readme import readme
from pipeline.synthesis.report import report
from pipeline.synthesis.row import RowWriter
from pipeline.synthesis.seeds import seed_files
from pipeline.synthesis.summary import Spent, lines
from pipeline.synthesis.teachers import parallel_of

# Keys that change how a teacher is asked, not what it is asked.
HOW = ("base_url", "key", "parallel", "retries", "timeout", "kind", "price", "context")

Page = Callable[[str, Path], None]  # writes report.html, from the name of the run and the folder with the other files


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the rows depend on besides the journal."""
    settings = config.value("synthesis")
    for name in ("preview", "replay"):
        del settings[name]
    for source in settings["sources"]:
        del source["licence"]  # shown only
    for role in ("teacher", "judge"):
        settings[role] = {name: value for name, value in settings[role].items() if name not in HOW}
    again = {"again": True} if _is_made_again(config.synthesis, run) else {}
    return {"version": 1, "synthesis": settings, "inputs": input_hashes(input_files(config.synthesis)), **again}


def _is_made_again(settings: Synthesis, run: Run) -> bool:
    """Whether `generate` makes the rows anew although key and files are the same: for a replay that was asked for, and
    where requests failed or a replay ended for want of replies. Other commands take the rows that are there."""
    if verb_started() != "generate":
        return False
    counts = (run.manifest("generated") or {}).get("counts", {})
    missing = counts.get("ended") == "journal" or (counts.get("lost") and counts.get("ended") != "rows")
    return settings.replay or bool(missing)


def input_files(settings: Synthesis) -> list[DataFile]:
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
        UserError: no method is named; or a package or a key of a model that is to be asked is missing.
    """
    settings = config.synthesis
    check_method(settings)
    if not settings.replay and not run.is_current("generated", key(config, run)):
        check_teachers(settings)


def build(
    config: Config, run: Run, stage_key: dict[str, Any], page: Page = lambda name, folder: None
) -> None:  # fmt: skip
    """Asks for what the journal does not hold, and writes the rows.

    Args:
        page: writes the page about them.

    Raises:
        UserError: the teacher fails, or gives nothing that can be kept; replies so far stay in the journal.
    """
    settings, journal = config.synthesis, Journal(journal_of(run))
    maker = method(settings, journal)
    before = Spent.of(journal)
    if not settings.replay and (text := warning(settings, maker, journal, run)):
        say(text)
    result = asyncio.run(_generate(settings, maker, journal))
    if not result.drafts:
        raise _no_draft(settings, result)
    stage_key = {name: value for name, value in stage_key.items() if name != "again"}
    received, short = receipts.read(journal_of(run)), shortener(run.root, config)
    with run.writing("generated", stage_key) as output:
        rows = RowWriter(settings, received, result.rows)
        write_json_lines(output.folder / "rows.jsonl", map(rows.row, result.rows))
        write_json_lines(output.folder / "rejected.jsonl", map(rows.rejected, result.rejected))
        seeds = [seed.instruction for seed in getattr(maker, "seeds", ())]
        told = shortened(report(settings, result, received, seeds, stage_key["inputs"]), short)
        write_json(output.folder / "report.json", told)
        write_text(output.folder / "README.md", readme(config.name, told))
        page(config.name, output.folder)
        names = ("rows", "wanted", "drafts", "rejected", "ended", "unfinished", "lost")
        output.counts.update({name: told[name] for name in names})
    for line in lines(settings, result, Spent.of(journal), before, run.folder("generated")):
        say(line)


def _no_draft(settings: Synthesis, result: Result) -> UserError:
    """What to say where no reply came at all; the rows of an earlier command stay."""
    if result.ended == "budget":
        what = f"the budget of {settings.budget} allows no further request, and no reply came before"
        return UserError(what, "synthesis.budget", "raise it, or lower synthesis.teacher.max_tokens")
    if result.ended == "journal":
        return UserError(
            "the journal holds no reply for this config",
            "synthesis.replay",
            f"`{command_without('generate', 'synthesis.replay')}` asks for some",
        )
    return UserError("no reply came, so there are no rows", "synthesis", f"`{next_command('generate')}` tries again")


async def _generate(settings: Synthesis, maker: Method, journal: Journal) -> Result:
    async with open_asker(settings, journal) as asker:
        with bar(total=settings.rows, what="generate") as drawn:
            show = Progress(drawn, asker, settings)
            parallel = parallel_of(settings.teacher)
            generation = Generation(maker, DraftFilters(settings), asker, settings.rows, parallel, show)
            return await _run(generation, settings.replay)


async def _run(generation: Generation, replay: bool) -> Result:
    """The result; of a replay also where the last replies gave no row any more, since nothing is paid for them.

    Raises:
        UserError: as of `Generation.run`.
    """
    try:
        return await generation.run()
    except UserError:
        if not replay or not generation.result.rows:
            raise
        generation.result.ended = "yield"
        return generation.result
