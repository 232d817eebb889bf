r"""The stages of a run: their table, and making those whose results are missing or stale.

    [generate ->] data -> tokens -> train -> export -+-> eval
                               \-> report            +-> compare -> judge

Data is generated first where a source of the config is its own run's `generated` folder.

`stage_keys.py` says what tokens, adapter and export depend on. This module may import every package, and no package
imports it. Packages that need torch are imported when their stage is made, so that "up to date" takes no torch.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.api import endpoint
from pipeline.comparison import judge as verdicts
from pipeline.comparison import stage as comparison
from pipeline.config.load import dump
from pipeline.config.schema import Config
from pipeline.data_report import stage as report
from pipeline.dataset import stage as dataset
from pipeline.evaluation import tasks
from pipeline.model import base as bases
from pipeline.model import cpu_dtype
from pipeline.model.base import identity, input_files
from pipeline.prompt import stage as tokens
from pipeline.ranks.place import Place
from pipeline.ranks.together import together
from pipeline.release import early, summary
from pipeline.run.files import sha256_json, write_text
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command, verb_started
from pipeline.run.progress import say, working
from pipeline.run.versions import versions
from pipeline.stage_keys import Key, export_key, tokens_key, train_key
from pipeline.synthesis import stage as synthesis
from pipeline.synthesis_report import page as synthesis_page
from pipeline.training import early as training

# What comes after a stage, for the last lines of its command: a purpose, and the verb of the command.
ON_ONE_PAGE = ("All results on one page", "report")
NEXT = {
    "generate": (("Clean and look at the rows as data", "data"),),
    "report": (("Rows as the model sees them", "preview"), ("Train, merge, check and measure", "export")),
    "train": (("Merge, check and measure it", "export"),),
    "export": (("Talk to it", "chat"), ON_ONE_PAGE),
    "eval": (ON_ONE_PAGE,),
    "compare": (ON_ONE_PAGE,),
    "judge": (ON_ONE_PAGE,),
}

BaseOf = Callable[[], bases.Base]  # resolves the config's base at the first call, once a command


@dataclass(frozen=True)
class Stage:
    """One step of a run, whose result has a separate folder.

    name: as in messages, and in `make NAME`.
    folder: of the result, in the run folder.
    needs: names of the stages that are made before it.
    reads: folders of those whose files it uses, which are compared with their manifests first.
    key: all that the result depends on.
    build: makes the result.
    sources: files outside the run folder that the manifest records besides those in the key.
    check: what can be wrong and be told before any stage is made.
    is_wanted: whether a config has this stage at all.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    key: Callable[[Config, Run], Key]
    build: Callable[[Config, Run, Key, BaseOf], None]
    sources: Callable[[Config, BaseOf], list[Path]] = lambda config, base: []
    check: Callable[[Config, Run], object] = lambda config, run: None
    is_wanted: Callable[[Config], bool] = lambda config: True


def _build_tokens(config: Config, run: Run, key: Key, base: BaseOf) -> None:
    tokens.build(config, run, tokens.Vocabulary(base().tokenizer, base().vocabulary, base().eos), key)


def _build_adapter(config: Config, run: Run, key: Key, base: BaseOf) -> None:
    rank = Place.here().rank
    with working("train: loading torch and transformers", disable=rank > 0):
        from pipeline.training.earlier import take_over
        from pipeline.training.loop import train

    if rank > 0 or not take_over(config, run, base(), key):
        train(config, run, base(), key)


def _build_export(config: Config, run: Run, key: Key, base: BaseOf) -> None:
    with working("export: loading torch and transformers"):
        from pipeline.release.stage import export

    export(config, run, base(), key)


def _build_eval(config: Config, run: Run, key: Key, base: BaseOf) -> None:
    with working("eval: loading torch and transformers"):
        from pipeline.evaluation.stage import evaluate

    evaluate(config, run, base(), key)


def check_train(config: Config, run: Run, world: int) -> None:
    """Whether so many ranks can train is asked only when there is something to train. That the card lacks a named type
    is told here for one rank alone, since this takes torch; several ranks each tell it when they meet.

    Raises:
        UserError: they cannot.
    """
    if not stale(config, run, "train"):
        return
    training.check(config, world)
    if world == 1 and (config.model.dtype in ("fp16", "bf16") or config.model.quantize == "fp8"):
        from pipeline.model.precision import check_card

        check_card(config.model)


def _check_judge(config: Config, run: Run) -> None:
    """A judge that is set up is asked whether it answers only when there is something to judge."""
    if not config.judge.model or stale(config, run, "judge"):
        endpoint.check(config.judge)


STAGES = (
    Stage("generate", "generated", (), (), synthesis.key,
          lambda c, r, key, _: synthesis.build(c, r, key, synthesis_page.write),
          check=synthesis.check, is_wanted=synthesis.is_source),
    Stage("data", "dataset", ("generate",), ("generated",), dataset.key, lambda c, r, key, _: dataset.build(c, r, key)),
    Stage("tokens", "tokens", ("data",), ("dataset",), tokens_key, _build_tokens, input_files.of_tokens),
    Stage("train", "adapter", ("tokens",), ("dataset", "tokens"), train_key, _build_adapter, input_files.of_train,
          check=lambda c, r: check_train(c, r, Place.here().world)),
    Stage("export", "export", ("train",), ("dataset", "tokens", "adapter"), export_key, _build_export,
          input_files.of_export, check=early.check),
    Stage("report", "report", ("tokens",), ("dataset", "tokens"), report.key,
          lambda c, r, key, _: report.build(c, r, key)),
    Stage("eval", "eval", ("export",), ("dataset", "tokens", "export"), tasks.key, _build_eval,
          check=lambda c, _: tasks.files_of(c.eval)),
    Stage("compare", "compare", ("export",), ("dataset", "export"), comparison.key,
          lambda c, r, key, _: comparison.build(c, r, key), check=comparison.key),
    Stage("judge", "judge", ("compare",), ("compare",), verdicts.key, lambda c, r, key, _: verdicts.build(c, r, key),
          check=_check_judge),
)  # fmt: skip
BY_NAME = {stage.name: stage for stage in STAGES}


def up_to(last: str) -> tuple[Stage, ...]:
    """A stage and all that it needs, in the order in which they are made."""
    before = [stage for name in BY_NAME[last].needs for stage in up_to(name)]
    return *before, BY_NAME[last]


def wanted(config: Config, last: str) -> tuple[Stage, ...]:
    """A stage and those of its needs that this config has."""
    return tuple(stage for stage in up_to(last) if stage.name == last or stage.is_wanted(config))


def bring_up_to_date(config: Config, run: Run, last: str) -> Config:
    """Makes every stage up to `last` whose result is missing or stale, in order.

    Returns:
        The config, with the type of the arithmetic that its run computes with (`model.cpu_dtype`).

    Raises:
        UserError: from a stage; what can be told before any work is told then.
    """
    config = cpu_dtype.bound(config, run)
    place = Place.here()
    if place.world == 1:
        return _check_and_make(config, run, last)
    with together(place, lambda: _facts(config, run, place), run.root):
        if not place.rank:
            return _check_and_make(config, run, last)
        _help_to_train(config, run)
    return config


def _check_and_make(config: Config, run: Run, last: str) -> Config:
    needed = wanted(config, last)
    for stage in needed:
        stage.check(config, run)
    return _make(config, run, needed)


def make_data(config: Config, run: Run) -> None:
    """Data, tokens and their report, since reading it is part of trusting the data. Without a base: no tokens.

    Raises:
        UserError: from a stage.
    """
    if config.model.base or config.model.tokenizer:
        bring_up_to_date(config, run, "report")
    else:
        say("tokens: skipped: neither model.base nor model.tokenizer is set; the report counts letters instead")
        made = (*wanted(config, "data"), BY_NAME["report"])
        for stage in made:
            stage.check(config, run)
        _make(config, run, made)


def stale(config: Config, run: Run, last: str = "export") -> list[str]:
    """Names of the stages up to `last` that would be made."""
    return _stale(config, run, wanted(config, last))


def _stale(config: Config, run: Run, needed: tuple[Stage, ...]) -> list[str]:
    first = needed[0]
    if first.name == "generate" and not run.is_current(first.folder, first.key(config, run)):
        return [stage.name for stage in needed]  # keys of the others hash the rows that it will make
    return [stage.name for stage in needed if not run.is_current(stage.folder, stage.key(config, run))]


def _make(config: Config, run: Run, needed: tuple[Stage, ...]) -> Config:
    """Makes those of the stages that are stale; holds the run folder's lock as soon as there is one. Returns the config
    as `bring_up_to_date` does."""
    if not _stale(config, run, needed):
        for stage in needed:
            say(f"{stage.name}: up to date ({run.folder(stage.folder)})")
        run.sweep()
        if needed[-1].name == "export" == verb_started():
            say("\n".join(summary.of_run(run)))
        _hint(needed[-1].name)
        return config
    base = functools.cache(lambda: bases.resolve(config.model))
    with run.lock():
        for stage in needed:
            if stage.name == "train":
                config = cpu_dtype.choose(config, run)
            key = stage.key(config, run)
            if run.is_current(stage.folder, key):
                say(f"{stage.name}: up to date ({run.folder(stage.folder)})")
                continue
            run.check(*stage.reads)
            stage.build(config, run.made_from(stage.sources(config, base)), key, base)
            write_text(run.root / "config.yaml", dump(config))  # of what is there, so not before it is there
    _hint(needed[-1].name)
    return config


def _hint(last: str) -> None:
    """Prints the commands that come next, where the command was asked for the stage that was made last."""
    if verb_started() == ("data" if last == "report" else last):
        for what, verb in NEXT.get(last, ()):
            say(f"{what}:\n  {next_command(verb)}")


def _facts(config: Config, run: Run, place: Place) -> dict[str, str]:
    """What must be the same on all ranks of a run: versions as they are, the rest as hashes.

    Raises:
        UserError: this rank cannot train.
    """
    if stale(config, run, "train"):
        training.check(config, place.world)
        training.check_rank(config, place)
    from pipeline.model.precision import dtype_name
    from pipeline.ranks.card import card_name

    hashed = {"config": config.model_dump(mode="json"), "base": identity.identity(config.model)}
    if not synthesis.is_source(config):  # else the rows are not there yet
        hashed["data"] = dataset.key(config, run)
    return {
        **versions(),
        **{name: sha256_json(value)[:16] for name, value in hashed.items()},
        "dtype": dtype_name(config.model),
        "card": card_name(place.local),
    }


def _help_to_train(config: Config, run: Run) -> None:
    """What the further ranks do: wait for the first one's tokens, then train with it.

    If the first rank fails, their watch ends them.
    """
    before: list[int] = []
    while True:
        # Keys hash the sources, so they are asked for only when a manifest was written.
        now = [run.written(stage.folder) for stage in wanted(config, "tokens")]
        if all(now) and now != before and not stale(config, run, "tokens"):
            break
        before = now
        time.sleep(0.5)
    if stale(config, run, "train"):
        _build_adapter(config, run, train_key(config, run), lambda: bases.resolve(config.model))
