"""The chain of stages: which there are, what each depends on, and running those whose results are missing or stale.

This is the front door: it may use every room, and no room uses it. Rooms are imported only when a stage really runs,
so that "up to date" costs no torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison import endpoint
from pipeline.comparison import judge as judging
from pipeline.comparison import stage as comparison
from pipeline.config.adapter_name import BASE
from pipeline.config.load import dump
from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.data_report import stage as report
from pipeline.dataset import stage as dataset
from pipeline.dataset.examples import read_examples
from pipeline.evaluation import tasks
from pipeline.model import base as bases
from pipeline.model import identity, origin
from pipeline.prompt import passages
from pipeline.prompt import stage as tokens
from pipeline.run.files import write_text
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.store.folder import Store

RESUMABLE = ("train.tracker", "train.save_every", "train.keep")  # change how a run is watched, not what comes out
MEASURED = ("rows", "max_new_tokens", "general", "general_windows", "prompts")  # of `eval`: what every export measures


@dataclass(frozen=True)
class Stage:
    """name: as in `make NAME`. folder: its result in the run folder. key: all that the result depends on.

    reads: folders whose files it uses. sources: files outside the run that its manifest records besides the key's.
    """

    name: str
    folder: str
    key: Callable[[Config, Run], dict[str, Any]]
    build: Callable[[Config, Run, dict[str, Any]], None]
    reads: tuple[str, ...] = ()
    sources: Callable[[Config], list[Path]] = lambda _: []


def _tokens_key(config: Config, run: Run) -> dict[str, Any]:
    return tokens.key(config, run, identity.tokenizer_identity(config.model))


def _train_key(config: Config, run: Run) -> dict[str, Any]:
    settings = config.value("train")
    for key in RESUMABLE:
        settings.pop(key.split(".")[1])
    if not settings["accumulation_4_28"]:  # later than the first runs, whose keys lack it
        del settings["accumulation_4_28"]
    left_out = settings["weight_decay"] and spec_of(config.adapter).not_decayed
    return {
        "version": 2,
        **({"not_decayed": "biases and norms"} if left_out else {}),  # in runs before this line they were
        "model": identity.settings(config.model),
        "base": identity.identity(config.model),
        "adapter": config.value("adapter"),
        "train": settings,
        "tokens": run.result("tokens"),
        "ewc_data": passages.identity(config.train.ewc_data, "train.ewc_data") if config.train.ewc_data else "",
    }


def _export_key(config: Config, run: Run) -> dict[str, Any]:
    return {
        "version": 1,
        "name": config.name,
        "export": config.value("export"),
        "eval": {name: config.value("eval")[name] for name in MEASURED},
        "general": passages.identity(config.eval.general),
        "groups": config.value("data.groups"),
        "counts": (run.manifest("dataset") or {}).get("counts"),  # of rows and languages: in the card, and for causes
        "adapter": run.result("adapter"),
    }


def _build_data(config: Config, run: Run, key: dict[str, Any]) -> None:
    dataset.build(config, run, key)


def _build_tokens(config: Config, run: Run, key: dict[str, Any]) -> None:
    base = bases.resolve(config.model)
    tokens.build(config, run, tokens.Vocabulary(base.tokenizer, base.vocabulary, base.eos), key)


def _build_adapter(config: Config, run: Run, key: dict[str, Any]) -> None:
    from pipeline.training.earlier import take_over
    from pipeline.training.loop import train

    base = bases.resolve(config.model)
    if int(os.environ.get("RANK", "0")) > 0 or not take_over(config, run, base, key):
        train(config, run, base, key)


def _build_export(config: Config, run: Run, key: dict[str, Any]) -> None:
    from pipeline.release.stage import export

    export(config, run, bases.resolve(config.model), key)


def _build_eval(config: Config, run: Run, key: dict[str, Any]) -> None:
    from pipeline.evaluation.stage import evaluate as build

    build(config, run, bases.resolve(config.model), key)


STAGES = (
    Stage("data", "dataset", dataset.key, _build_data),
    Stage("tokens", "tokens", _tokens_key, _build_tokens, ("dataset",), origin.of_tokens),
    Stage("train", "adapter", _train_key, _build_adapter, ("dataset", "tokens"), origin.of_train),
    Stage("export", "export", _export_key, _build_export, ("dataset", "tokens", "adapter"), origin.of_export),
)
# Beside the chain: nothing depends on it, so only `make data` makes it.
REPORT = Stage("report", "report", report.key, report.build, ("dataset", "tokens"))
EVAL = Stage("eval", "eval", tasks.key, _build_eval, ("dataset", "tokens", "export"))
COMPARE = Stage("compare", "compare", comparison.key, comparison.build, ("dataset", "export"))
JUDGE = Stage("judge", "judge", judging.key, judging.build, ("compare",))
ALL = (*STAGES, REPORT, EVAL, COMPARE, JUDGE)


def make_data(config: Config, run: Run) -> None:
    """Data, tokens and the report, since looking at all three is part of trusting data. Without a base: no tokens.

    Raises:
        UserError: from a stage.
    """
    data, encoded = STAGES[:2]
    if config.model.base or config.model.tokenizer:
        _bring(config, run, (data, encoded, REPORT))
    else:
        say("tokens: skipped, since neither model.base nor model.tokenizer is set; the report counts letters")
        _bring(config, run, (data, REPORT))


def bring_up_to_date(config: Config, run: Run, last: str) -> None:
    """Runs every stage up to `last` whose result is missing or stale, in order.

    Raises:
        UserError: from a stage.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        _help_to_train(config, run)
        return
    _bring(config, run, STAGES[: [s.name for s in STAGES].index(last) + 1])


def compare(config: Config, run: Run) -> None:
    """Base and tuned model side by side on the config's question sets.

    Raises:
        UserError: from a stage; a question set that is not there is told before any other work.
    """
    comparison.key(config, run)
    _bring(config, run, (*STAGES, COMPARE))


def judge(config: Config, run: Run) -> None:
    """What a judge says of base and tuned model, on the answers of `compare`.

    Raises:
        UserError: from a stage; a judge that is not set up is told before any other work.
    """
    wanted = (*STAGES, COMPARE, JUDGE)
    comparison.key(config, run)
    if not config.judge.model or stale(config, run, wanted):
        endpoint.check(config.judge)
    _bring(config, run, wanted)


def _bring(config: Config, run: Run, wanted: tuple[Stage, ...]) -> None:
    if not stale(config, run, wanted):
        for stage in wanted:
            say(f"{stage.name}: up to date ({run.folder(stage.folder)})")
        run.sweep()
        return
    with run.lock():
        for stage in wanted:
            key = stage.key(config, run)
            if run.is_current(stage.folder, key):
                say(f"{stage.name}: up to date ({run.folder(stage.folder)})")
                continue
            run.check(*stage.reads)
            stage.build(config, run.made_from(stage.sources(config)), key)
            write_text(run.root / "config.yaml", dump(config))  # of what is there, so not before it is there


def evaluate(config: Config, run: Run) -> None:
    """Base against tuned model on held-out rows and benchmarks, making the export first.

    Raises:
        UserError: from a stage.
    """
    tasks.files_of(config)  # before anything is trained for it
    _bring(config, run, (*STAGES, EVAL))


def _help_to_train(config: Config, run: Run) -> None:
    """What the further ranks of `accelerate launch` do: wait for the first one's tokens, then train along.

    When the first rank fails, the launcher ends them.
    """
    before: list[int] = []
    while True:
        # Keys hash the sources, so they are asked for only when a manifest was written.
        now = [run.written(stage.folder) for stage in STAGES[:2]]
        if all(now) and now != before and not stale(config, run, STAGES[:2]):
            break
        before = now
        time.sleep(0.5)
    if stale(config, run, STAGES[:3]):
        _build_adapter(config, run, _train_key(config, run))


def stale(config: Config, run: Run, wanted: tuple[Stage, ...] = STAGES) -> list[str]:
    """Names of the stages that would run."""
    return [s.name for s in wanted if not run.is_current(s.folder, s.key(config, run))]


def show_plan(config: Config, run: Run) -> None:
    """Prints the arithmetic of a config; counts tokens where the tokens stage is up to date."""
    from pipeline.training.plan import lines, plan

    manifest = run.manifest("tokens")
    counted = manifest["counts"]["train"] if manifest and not stale(config, run, STAGES[:2]) else None
    say("\n".join(lines(config, plan(config, counted))))


def make_report(config: Config, run: Run) -> None:
    """One page of all that the run folder holds. It makes no stage.

    Raises:
        UserError: the run folder is empty.
    """
    from pipeline.run_report.stage import build

    run.check(*(stage.folder for stage in ALL), but=".safetensors")
    build(config, run)


def verify_run(_: Config, run: Run) -> None:
    """Hashes all that the run folder holds, and what it was made from.

    Raises:
        UserError: something is not what was written.
    """
    from pipeline.run.integrity import verify

    verify(run, [(stage.name, stage.folder) for stage in ALL])


def show_preview(config: Config, run: Run) -> None:
    """Prints five encoded rows and how many rows change prompt tokens when the answer is joined."""
    from pipeline.prompt.preview import preview

    bring_up_to_date(config, run, "tokens")
    run.check("dataset")
    encoder = tokens.encoder_of(config, bases.resolve(config.model).tokenizer)
    preview(encoder, list(read_examples(run.folder("dataset"), "train")))


def talk(config: Config, run: Run) -> None:
    """Chats with a stored adapter where the config names one; else with the run's export, making it first."""
    if config.chat.adapter:
        Store.here().folder(config.chat.adapter)  # before anything is loaded
        from pipeline.serving.chat import chat_with

        chat_with(config, bases.resolve(config.model), Store.here())
        return
    bring_up_to_date(config, run, "export")
    run.check("dataset", "export")  # of the former, examples that stand before a question
    from pipeline.serving.chat import chat

    chat(config, run)


def keep_adapter(config: Config, run: Run, name: str, replace: bool) -> None:
    """Trains, where that is not done, and puts the run's adapter into the store."""
    store = Store.here()
    store.check_free(name, replace)
    bring_up_to_date(config, run, "train")
    run.check("dataset", "adapter")
    from pipeline.release.keep import keep

    keep(config, run, bases.resolve(config.model), store, name, replace)


def measure_adapter(config: Config, run: Run, name: str) -> dict[str, Any]:
    """Measures a stored adapter (`base`: none) on the held-out rows of the config's run, prints and records it.

    Returns:
        What `pipeline.evaluation.results.measure` found.
    """
    store = Store.here()
    record = {} if name == BASE else store.record(name)
    bring_up_to_date(config, run, "tokens")
    run.check("dataset", "tokens")
    from pipeline.evaluation.results import numbers_of
    from pipeline.store.commands import print_measured
    from pipeline.store.measure import measure_stored

    found = measure_stored(config, run, bases.resolve(config.model), store, name)
    print_measured(found)  # before the store, which may be in use by now
    if record:
        store.add_results(name, config.name, numbers_of(found), record["files"])
    return found


def ask(config: Config, run: Run) -> None:
    """Questions from standard input to the adapters that each of them names, answered in one batch."""
    from pipeline.serving.questions import read

    questions = read(sys.stdin)
    store = Store.here()
    for name in {q.adapter for q in questions} - {BASE}:
        store.record(name)  # before torch is imported
    from pipeline.serving.mixed import Mixed

    mixed = Mixed(config, bases.resolve(config.model), store, [q.adapter for q in questions])
    for q, reply in zip(questions, mixed.answer(questions, config.chat.max_new_tokens), strict=True):
        end = "" if reply.stopped else f" [cut off after {config.chat.max_new_tokens} tokens]"
        say(f"{q.adapter}> {q.instruction}{' | ' + q.input if q.input else ''}\n{reply.text.strip()}{end}\n")
