"""All commands in one table: `suri`, `python -m scripts.NAME` and the targets of `make` are made from it.

Imports nothing that is slow: a command imports what it needs when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.cli import adapters, benchmarks, differences, look, publish, run_folders, serving, talk, train
from pipeline.cli.command_line import Command, Given, Option
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.nearest import nearest

GROUPS = {
    "start": "from data to a model that answers",
    "look": "check before and after; nothing is trained",
    "compare": "base against tuned model",
    "share": "many adapters on one base",
    "advanced": "speed, experiments, clean up",
}


def on_run(work: Callable[[Config, Run], object]) -> Callable[[Given], object]:
    """A command that needs its config and run folder only."""
    return lambda given: work(*given.load())


def to_stage(last: str) -> Callable[[Given], object]:
    """A command that brings a stage, and all that it needs, up to date."""

    def work(given: Given) -> None:
        config, run = given.load()
        from pipeline.stages import bring_up_to_date

        bring_up_to_date(config, run, last)

    return work


def _data(given: Given) -> None:
    config, run = given.load()
    from pipeline.stages import make_data

    make_data(config, run)


def _generate(given: Given) -> None:
    config, run = given.load()
    if config.synthesis.preview:
        look.show_replies(config, run)
        return
    from pipeline.stages import bring_up_to_date

    bring_up_to_date(config, run, "generate")


def _plan(given: Given) -> None:
    config, run = given.load()
    if config.synthesis.method == "none":  # without generated rows there is only training to plan, which needs a base
        config, run = replace(given, command=replace(given.command, model=True)).load()
    look.show_plan(config, run, given.options)


def _chat(given: Given) -> None:
    if name := given.options.get("adapter"):
        from pipeline.config.reference import as_yaml

        given = replace(given, overrides=(*given.overrides, f"chat.adapter={as_yaml(name)}"))
    talk.talk(*given.load())


REPLACE = Option("replace", "", "take the place of an adapter of that name")
STEPS = Option("steps", "N", "optimiser steps of each run")
ONLY = Option("only", "A,B", "some of the variants, with commas between them")
TO_TOKENS = ("data", "tokens")
TO_TRAIN = (*TO_TOKENS, "train")
TO_EXPORT = (*TO_TRAIN, "export")
MEASURED = ("eval.rows", "eval.max_new_tokens", "eval.general", "eval.general_windows", "eval.prompts")
PLANNED = ("model", "data.sources", "data.val", "prompt.cutoff", "adapter", "train")

COMMANDS = (
    Command("export", "start", "train and export: data, tokens, adapter, merged checkpoint", to_stage("export"),
            keys=("export", *MEASURED), makes_first=TO_TRAIN),
    Command("data", "start", "read, clean, split and tokenise the data; writes a report", _data, model=False,
            keys=("data", "prompt", "model.tokenizer", "model.add_tokens")),
    Command("generate", "start", "a teacher model makes rows of data", _generate, model=False, fetch=False,
            keys=("synthesis",)),
    Command("train", "start", "train the adapter; resumes from the newest checkpoint", train.train,
            options=(Option("gpus", "N", "cards of this machine to train on"),
                     Option("restarts", "N", "times that it goes on by itself after a card has failed")),
            keys=("model", "adapter", "train"), makes_first=TO_TOKENS),
    Command("chat", "start", "talk to the exported model, or to a stored adapter", _chat,
            options=(Option("adapter", "NAME", "an adapter of the store, on its base"),),
            keys=("chat",), makes_first=TO_EXPORT),
    Command("serve", "start", "OpenAI's API over base, export and stored adapters", serving.serve,
            keys=("serve",), makes_first=TO_EXPORT, extra=lambda config: "serving"),
    Command("ui", "start", "the same server, and its page in a browser", serving.ui,
            keys=("serve",), makes_first=TO_EXPORT, extra=lambda config: "serving"),
    Command("plan", "look", "rows, tokens, steps, trained parameters and memory", _plan, model=False, fetch=False,
            options=(Option("gpus", "N", "time, efficiency and price on N cards"),
                     Option("card", "NAME", "a100, h100, h200, b200 or l40s; default: h200"),
                     Option("price", "P", "of a card for an hour"),
                     Option("rate", "N", "tokens a second of one card, if you measured them"),
                     Option("link", "GB/S", "bandwidth of an all-reduce, if you measured it")),
            keys=PLANNED),
    Command("preview", "look", "five encoded rows; what carries loss is green", on_run(look.show_preview),
            keys=("prompt",), makes_first=TO_TOKENS),
    Command("report", "look", "one HTML page about the run so far", on_run(look.make_report), model=False,
            files=False),
    Command("verify", "look", "has any file of the run, its data or base changed?", on_run(look.verify_run),
            model=False, files=False),
    Command("data-diff", "look", "what changed between the data of two runs",
            lambda given: look.show_data_diff(*given.words), words=("RUN1", "RUN2"), config=False),
    Command("eval", "compare", "held-out rows, benchmarks, forgetting, with errors", to_stage("eval"),
            keys=("eval",), makes_first=TO_EXPORT, extra=lambda config: "eval" if config.eval.tasks else ""),
    Command("compare", "compare", "answers side by side on a page to vote on", to_stage("compare"),
            keys=("compare",), makes_first=TO_EXPORT),
    Command("judge", "compare", "another model votes on the answers", to_stage("judge"),
            keys=("judge",), makes_first=(*TO_EXPORT, "compare"), extra=lambda config: "judge"),
    Command("keep", "share", "put the run's adapter into the store", adapters.keep, words=("NAME",),
            variables=("ADAPTER",), options=(REPLACE,), makes_first=TO_TRAIN),
    Command("adapters", "share", "list the adapters of the store", adapters.manage, config=False),
    Command("adapters show", "share", "the record of one adapter", adapters.manage, words=("NAME",), config=False),
    Command("adapters remove", "share", "delete an adapter", adapters.manage, words=("NAME",), config=False),
    Command("adapters measure", "share", "measure an adapter on the run's held-out rows", adapters.measure,
            words=("NAME",), variables=("MEASURE",), keys=("eval.rows", "eval.max_new_tokens"), makes_first=TO_TOKENS),
    Command("adapters combine", "share", "a weighted sum of LoRA adapters as a new one", adapters.combine,
            words=("NAME",), more="ADAPTER=WEIGHT", config=False,
            options=(Option("how", "HOW", "cat (exact, the default), svd, ties or dare"),
                     Option("rank", "N", "rank for svd, ties, dare; default: the largest of the adapters"),
                     Option("density", "D", "share of entries that ties and dare keep; default: 0.2"), REPLACE)),
    Command("ask", "share", "several adapters answer stdin's questions in one batch", on_run(talk.ask),
            files=False, keys=("chat.max_new_tokens",)),
    Command("diff", "share", "the export without its base: an exact difference", differences.diff,
            keys=("export.dtype",), makes_first=TO_EXPORT),
    Command("recover", "share", "base and difference give the model back", differences.recover,
            words=("BASE", "DIFF", "OUT"), config=False),
    Command("push", "share", "send the export to a hub, private unless told otherwise", publish.push, words=("REPO",),
            variables=("REPO",), model=False, files=False, fetch=False,
            options=(Option("what", "hf,gguf", "formats: hf (the default), adapter, gguf, diff"),
                     Option("skip", "FILE", "files that are not sent, with commas between them"),
                     Option("public", "", "everyone may see the repository"),
                     Option("yes", "", "send without asking"),
                     Option("unfinished", "", "send an export whose answers do not end by themselves"),
                     Option("replace", "", "make a repository that holds something else equal to the export"))),
    Command("publish", "share", "send the data to an object store, in parts", publish.publish, words=("TO",),
            variables=("TO",), model=False, fetch=False, keys=("data", "prompt"), makes_first=("data",)),
    Command("bench", "advanced", "training speed on this GPU, beside Hugging Face", benchmarks.bench,
            words=("DATA", "TOKENIZER"), more="[CASE]", config=False),
    Command("profile", "advanced", "the largest kernels of bench's cases, and a trace", benchmarks.bench,
            words=("DATA", "TOKENIZER"), more="[CASE]", config=False),
    Command("curves", "advanced", "loss curves beside those of Hugging Face's Trainer", benchmarks.curves,
            words=("DATA",), variables=("DATA",),
            options=(STEPS, Option("rows", "N", "rows to train on"), Option("looks", "N", "held-out losses"),
                     Option("seeds", "1,2,3", "one pair of runs each"), Option("picture", "FILE", "where to draw it"))),
    Command("methods", "advanced", "every way to adapt a model, in one table", benchmarks.compare_runs,
            options=(STEPS, ONLY)),
    Command("forgetting", "advanced", "what rehearsal, L2-SP and EWC do against forgetting", benchmarks.compare_runs,
            options=(STEPS, ONLY)),
    Command("clean", "advanced", "remove what stopped commands left half-written",
            lambda given: run_folders.clean(), config=False),
    Command("clean-runs", "advanced", "list the runs with sizes; --yes removes them",
            lambda given: run_folders.clean_runs("yes" in given.options), config=False,
            options=(Option("yes", "", "remove them, with all that was trained in them"),)),
)  # fmt: skip
BY_NAME = {command.name: command for command in COMMANDS}
ALSO = {"adapters list": "adapters", "adapters keep": "keep"}  # other names of a command


def find(words: list[str]) -> tuple[Command, list[str]]:
    """The command that the first one or two words name, and the words behind it.

    Raises:
        UserError: there is no such command; with the nearest one that there is.
    """
    two = " ".join(words[:2])
    if command := BY_NAME.get(ALSO.get(two, two)):
        return command, words[len(two.split()) :]
    first = words[0]
    if command := BY_NAME.get(first):
        if verbs := [name.split()[1] for name in (*BY_NAME, *ALSO) if name.startswith(f"{first} ")]:
            _check_verb(first, words[1:], verbs)
        return command, words[1:]
    if first.endswith((".yaml", ".yml")):
        raise UserError(f"no command before {first!r}", "", f"such as: suri export {first}")
    raise UserError(f"no such command: {first!r}", "", nearest(first.lower(), BY_NAME, "suri --help lists all"))


def _check_verb(command: str, words: list[str], verbs: list[str]) -> None:
    if words and not words[0].startswith("-"):
        hint = nearest(words[0], verbs, f"there is {', '.join(verbs)}")
        raise UserError(f"no such verb: {words[0]!r}", f"suri {command}", hint)
