"""`make adapters`: the store of adapters, many tasks on one base.

python -m scripts.adapters                 all adapters
python -m scripts.adapters show NAME       one adapter's record
python -m scripts.adapters remove NAME
python -m scripts.adapters keep NAME --config FILE [--replace] [key=value ...]      a run's adapter into the store
python -m scripts.adapters measure NAME --config FILE [key=value ...]               on the run's held-out rows
python -m scripts.adapters combine NAME A=0.7 B=0.3 [--how cat|svd|ties|dare] [--rank N] [--density D] [--replace]
"""

import argparse

from pipeline.command import guarded, main
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.stages import keep_adapter, measure_adapter
from pipeline.store import commands

WITH_CONFIG = ("keep", "measure")


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

    def measure(config: Config, run: Run) -> None:
        measure_adapter(config, run, name)

    if args.verb in WITH_CONFIG:
        words = ["--config", args.config, *more]
        if args.verb == "keep":
            return main(lambda config, run: keep_adapter(config, run, name, args.replace), "", words)
        return main(measure, "", words)
    if args.verb == "combine":
        given = commands.CombineArguments(name, more, args.how, args.rank, args.density, args.replace)
        return guarded(lambda: commands.combine_adapters(given))
    return guarded(lambda: commands.manage(args.verb, name))


if __name__ == "__main__":
    raise SystemExit(start())
