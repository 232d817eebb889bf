"""`make adapters`: the store of adapters, many tasks on one base.

python -m scripts.adapters                 all adapters
python -m scripts.adapters show NAME       one adapter's record
python -m scripts.adapters remove NAME
python -m scripts.adapters keep NAME --config FILE [--replace] [key=value ...]      a run's adapter into the store
python -m scripts.adapters measure NAME --config FILE [key=value ...]               on the run's held-out rows
python -m scripts.adapters combine NAME A=0.7 B=0.3 [--how cat|svd|ties|dare] [--rank N] [--density D] [--replace]
"""

import argparse
from typing import Any

from pipeline.command import guarded, main
from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.run.folder import Run
from pipeline.run.next_command import started
from pipeline.run.progress import working
from pipeline.stages import bring_up_to_date
from pipeline.store import commands
from pipeline.store.folder import Store

WITH_CONFIG = ("keep", "measure")


def keep_adapter(config: Config, run: Run, name: str, replace: bool) -> None:
    """Trains, where that is not done, and puts the run's adapter into the store."""
    store = Store.here()
    store.check_free(name, replace)
    bring_up_to_date(config, run, "train")
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


def start() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", default="list", choices=["list", "show", "remove", *WITH_CONFIG, "combine"])
    parser.add_argument("words", nargs="*", help="the name, then what the verb takes")
    parser.add_argument("--config", default="configs/demo.yaml", help="keep, measure: a YAML file")
    parser.add_argument("--replace", action="store_true", help="keep, combine: in place of an adapter of that name")
    parser.add_argument("--how", default="cat", help="combine: cat is exact; svd, ties, dare are cut to a rank")
    parser.add_argument("--rank", default="0", help="combine: of the result; 0 = the largest among the adapters")
    parser.add_argument("--density", default="0.2", help="combine: share of entries that ties and dare leave")
    args = parser.parse_intermixed_args()
    name, more = (args.words or [""])[0], args.words[1:]

    def keep(config: Config, run: Run) -> None:
        started("keep", args.config, more, ADAPTER=name, **({"REPLACE": "yes"} if args.replace else {}))
        keep_adapter(config, run, name, args.replace)

    def measure(config: Config, run: Run) -> None:
        started("adapters", args.config, more, MEASURE=name)
        measure_adapter(config, run, name)

    if args.verb in WITH_CONFIG:
        words = ["--config", args.config, *more]
        if args.verb == "keep":
            return main(keep, "", words)
        return main(measure, "", words)
    if args.verb == "combine":
        given = commands.CombineArguments(name, more, args.how, args.rank, args.density, args.replace)
        return guarded(lambda: commands.combine_adapters(given))
    return guarded(lambda: commands.manage(args.verb, name))


if __name__ == "__main__":
    raise SystemExit(start())
