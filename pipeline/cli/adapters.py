"""The commands of the adapter store: keep, and adapters with its verbs show, remove, measure and combine."""

from __future__ import annotations

from typing import Any

from pipeline.cli.command_line import Given
from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.progress import working


def keep_adapter(config: Config, run: Run, name: str, replace: bool) -> None:
    """Trains, where that is not done, and puts the run's adapter into the store."""
    from pipeline.model.base import resolve
    from pipeline.stages import bring_up_to_date
    from pipeline.store.folder import Store

    store = Store.here()
    store.check_free(name, replace)
    config = bring_up_to_date(config, run, "train")
    run.check("dataset", "adapter")
    with working("keep: loading torch and transformers"):
        from pipeline.release.keep import keep

    with working("keep: loading the base with its adapter and comparing"):
        keep(config, run, resolve(config.model), store, name, replace)


def measure_adapter(config: Config, run: Run, name: str) -> dict[str, Any]:
    """Measures a stored adapter (`base`: none) on the held-out rows of the config's run, prints and records it.

    Returns:
        The results of `pipeline.store.measure.measure_stored`.
    """
    from pipeline.model.base import resolve
    from pipeline.stages import bring_up_to_date
    from pipeline.store import commands
    from pipeline.store.folder import Store

    store = Store.here()
    record = {} if name == BASE else store.record(name)
    bring_up_to_date(config, run, "tokens")
    run.check("dataset", "tokens")
    from pipeline.evaluation.results import numbers_of
    from pipeline.store.measure import measure_stored

    results = measure_stored(config, run, resolve(config.model), store, name)
    commands.print_measured(results)  # before the store, which may be in use by now
    if record:
        store.add_results(name, config.name, numbers_of(results), record["files"])
    return results


def keep(given: Given) -> None:
    from pipeline.store.folder import Store

    (name,), replace = given.words, "replace" in given.options
    Store.here().check_free(name, replace)  # before the config and its base
    keep_adapter(*given.load(), name, replace)


def measure(given: Given) -> None:
    from pipeline.store.folder import Store

    (name,) = given.words
    if name != BASE:
        Store.here().record(name)  # before the config and its base
    measure_adapter(*given.load(), name)


def manage(given: Given) -> None:
    """Lists the store, or shows or removes an adapter."""
    from pipeline.store import commands

    verb = given.command.name.partition(" ")[2]
    commands.manage(verb or "list", given.words[0] if given.words else "")


def combine(given: Given) -> None:
    from pipeline.store import commands

    options = given.options
    commands.combine_adapters(
        commands.CombineArguments(
            given.words[0], given.more, options.get("how", "cat"), options.get("rank", "0"),
            options.get("density", "0.2"), "replace" in options,
        )
    )  # fmt: skip
