"""The commands that show something and train nothing: plan, preview, report, verify, data-diff."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.demo.base_model import fetch_if_named
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import say, working

INDENT = 11  # columns in front of the values of a plan


def show_plan(config: Config, run: Run, options: Mapping[str, str]) -> None:
    """Prints the arithmetic of a config; counts tokens where the tokens stage is up to date.

    Args:
        options: `gpus` and what goes with it: what the training costs on so many cards.

    Of a config that generates its rows: first what that takes. As long as they are not there, nothing is known of the
    training.
    """
    if config.synthesis.method != "none" and not _show_forecast(config, run):
        return
    fetch_if_named(config.model.base)
    with working("plan: loading torch and transformers"):
        from pipeline.model import cpu_dtype
        from pipeline.model.precision import check_card
        from pipeline.stages import stale
        from pipeline.training import card_plan, cost_plan, duration
        from pipeline.training.plan import plan
        from pipeline.training.plan_lines import lines

    manifest = run.manifest("tokens")
    counted = manifest["counts"]["train"] if manifest and not stale(config, run, "tokens") else None
    config = cpu_dtype.expected(config, run)
    with working("plan: counting"):
        planned = plan(config, counted)
        times = duration.lines(planned, duration.duration(config, planned, run.root.parent))
        card = card_plan.lines(config, planned)
    for line in (*lines(config, planned, times, card), *cost_plan.lines(config, planned, options)):
        say(line, hanging=0 if line.startswith(" ") else INDENT)
    if not (options or config.train.gpu_memory):  # else the plan is for another machine
        try:
            check_card(config.model)
        except UserError as error:
            say(f"here       training is refused on this machine: {error.what}", hanging=INDENT)


def _show_forecast(config: Config, run: Run) -> bool:
    """Prints what `generate` will take; returns whether a plan of the training can follow."""
    from pipeline.synthesis import stage
    from pipeline.synthesis.forecast import forecast
    from pipeline.synthesis.journal import Journal
    from pipeline.synthesis.methods import method
    from pipeline.synthesis.plan_lines import lines
    from pipeline.synthesis.summary import Spent

    journal = Journal(stage.journal_of(run))
    with working("plan: prompts and journal"):
        planned = forecast(config.synthesis, method(config.synthesis, journal), journal)
    for line in lines(config.name, config.synthesis, planned, Spent.of(journal)):
        say(line, hanging=0 if line.startswith(" ") else INDENT)
    if stage.is_source(config) and not run.is_current("generated", stage.key(config, run)):
        say(f"training   not known before the rows are there. To make them:\n  {next_command('generate')}")
        return False
    if not config.data.sources or not (config.model.base or config.model.geometry):
        missing = "model.base" if config.data.sources else "data.sources"
        say(f"training   not planned: {missing} is not set", hanging=INDENT)
        return False
    return True


def show_preview(config: Config, run: Run) -> None:
    """Prints five encoded rows and how many rows change prompt tokens when the answer is joined."""
    from pipeline.dataset.examples import read_examples
    from pipeline.model.base import resolve
    from pipeline.prompt.preview import preview
    from pipeline.prompt.stage import encoder_of
    from pipeline.stages import bring_up_to_date

    bring_up_to_date(config, run, "tokens")
    run.check("dataset")
    encoder = encoder_of(config.prompt, resolve(config.model).tokenizer, config.model.add_tokens)
    preview(encoder, list(read_examples(run.folder("dataset"), "train")))


def show_replies(config: Config, run: Run) -> None:
    """Prints a few prompts of `generate` with their replies, as `synthesis.preview` says; writes no rows.

    Raises:
        UserError: no method is named, or the teacher cannot be asked.
    """
    from pipeline.synthesis.journal import Journal
    from pipeline.synthesis.methods import method
    from pipeline.synthesis.preview import preview
    from pipeline.synthesis.readiness import check_method, check_teachers
    from pipeline.synthesis.stage import journal_of

    check_method(config.synthesis)
    if not config.synthesis.replay:
        check_teachers(config.synthesis)
    with run.lock():
        journal = Journal(journal_of(run))
        preview(config.synthesis, method(config.synthesis, journal), journal)


def make_report(config: Config, run: Run) -> None:
    """Writes one page of all that a run folder holds (docs/report.md); makes no stage.

    Raises:
        UserError: the run folder is empty, or a file in it was changed.
    """
    from pipeline.run_report.stage import build
    from pipeline.stages import STAGES

    run.check(*(stage.folder for stage in STAGES), but=".safetensors")
    build(config, run)


def verify_run(config: Config, run: Run) -> None:
    """Hashes all that the run folder holds, and what it was made from.

    Raises:
        UserError: something is not what was written.
    """
    from pipeline.run.integrity import verify
    from pipeline.stages import STAGES

    made = [stage for stage in STAGES if stage.is_wanted(config) or run.manifest(stage.folder)]
    verify(run, [(stage.name, stage.folder) for stage in made])


def show_data_diff(first: str, second: str) -> None:
    """Prints what changed between two builds of a data set, given by names of runs or their folders.

    Raises:
        UserError: a name is empty, or there is no finished data set.
    """
    from pipeline.dataset.diff import show

    if not first or not second:
        raise UserError("two runs are needed", "A and B", "make data-diff A=run1 B=run2, names or run folders")
    a, b = (Path(name) if Path(name, "dataset").is_dir() else Run.of(name).root for name in (first, second))
    for root in (a, b):
        Run(root).check("dataset")
    show(a, b)
