"""The data stage: sources in, `dataset/` out.

    sources -> read/ -> clean/ -> ledger -> select/ -> writer
               rows     rules     disk      decide     train, val, holdout, rejected

    train, val, holdout .jsonl   examples; with `repeat` a training row is there more than once
    rejected.jsonl               every other row, with rule, reason and place
    changes.jsonl                what rules changed or flagged in accepted rows
    duplicates.jsonl             each kept row that others are similar to, with those
    contaminated.jsonl           each row that holds a benchmark question, with the question
    report.json, README.md       counts; the datasheet

Rows read = rows kept + rows rejected, on every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config, Data
from pipeline.dataset import generated
from pipeline.dataset.chunk import ChunkPipeline
from pipeline.dataset.clean.rule import Cleaner
from pipeline.dataset.datasheet import datasheet
from pipeline.dataset.engine import engine
from pipeline.dataset.ledger import Ledger
from pipeline.dataset.read.benchmark import files_of as benchmark_files
from pipeline.dataset.read.benchmark import read_all
from pipeline.dataset.read.source import files_of, labels
from pipeline.dataset.reading import read_source
from pipeline.dataset.select.contamination import QuestionIndex
from pipeline.dataset.select.decide import LEFT_OUT, decide
from pipeline.dataset.summary import Summary, label_of
from pipeline.dataset.writer import Writer
from pipeline.run.errors import UserError
from pipeline.run.files import write_json, write_text
from pipeline.run.folder import SPLITS, Run, input_hashes
from pipeline.run.object_store import DataFile
from pipeline.run.progress import say, working

NOT_IN_KEY = ("engine",)  # settings of `data` that do not change the result


def key(config: Config, run: Run) -> dict[str, Any]:
    """The cache key: all that the result depends on, the `data` section and the bytes of the files it names.

    A chat template keeps conversations whole, and that alone is in the key of it: all chat templates share the data.
    """
    if not config.data.sources:
        raise UserError("data.sources is empty", "data.sources", "name at least one file, folder or hub id")
    files: list[DataFile] = [path for source in config.data.sources for path in files_of(source)]
    files += [path for benchmark in config.data.benchmarks for path in benchmark_files(benchmark.path)]
    data = {name: value for name, value in config.value("data").items() if name not in NOT_IN_KEY}
    for source in data["sources"]:
        del source["licence"]  # shown in the model card only
    whole = {"conversations": "whole"} if config.prompt.is_chat else {}
    return {"version": 3, "data": data, "inputs": input_hashes(files), **whole}


def build(config: Config, run: Run, stage_key: dict[str, Any] | None = None) -> None:
    """Reads, cleans, compares and splits all rows; each is kept or rejected with a reason.

    Conversations stay whole if the config's template is a chat template; else each answer is a row.

    Raises:
        UserError: a source cannot be read, or no row is left.
    """
    stage_key = stage_key or key(config, run)
    data = config.data
    Cleaner(data.clean, data.rules)  # an unknown rule is reported before the work
    questions = read_all(data.benchmarks)
    index = QuestionIndex.of(questions) if questions else None
    summary, workers = Summary(data), engine(data.engine)
    with (
        run.writing("dataset", stage_key) as output,
        Ledger(output.folder / ".rows") as ledger,
        Writer(output.folder, data, ledger, summary) as writer,
    ):
        pipeline = ChunkPipeline(data, index, config.prompt.is_chat)
        for number in range(len(data.sources)):
            for change in read_source(number, data, pipeline, workers, ledger, summary):
                writer.write_change(change)
        ledger.finish_reading()
        with working("data: comparing rows"):
            splits, shares = decide(ledger, data, questions, workers)
        if "train" not in splits.values():
            raise UserError("no row is left to train on", "data", "lower data.val or data.holdout")
        writer.write_rows(splits)
        more = {
            "duplicates": writer.write_duplicates(),
            "contamination": writer.write_contamination(questions, index.coverage if index else []),
            "mix": shares,
        }
        report = summary.as_dict(more)
        _check_counts(report, writer.lines, writer.repeats)
        output.counts.update({name: report[name] for name in ("read", "kept", *SPLITS, "rejected")})
        output.counts["languages"] = report.get("languages")
        output.counts["rehearsal"] = [name for name, source in zip(labels(data.sources), data.sources, strict=True)
                                      if source.rehearsal]  # fmt: skip
        write_json(output.folder / "report.json", report)
        sheet = datasheet(report, config.name, data, generated.reports(data.sources))
        write_text(output.folder / "README.md", shortener(run.root, config)(sheet))
    _print_report(report, data, run.folder("dataset"))


def _check_counts(report: dict[str, Any], lines: Mapping[str, int], repeats: int) -> None:
    """Checks that rows read = rows kept + rows rejected, by the lines that were written."""
    written = sum(lines[split] for split in SPLITS) + lines["rejected"] - repeats
    if report["read"] != written or report["read"] != report["kept"] + report["rejected"]:
        raise AssertionError(f"{report['read']} rows read, {written} written: a row was lost ({lines})")


def _print_report(report: dict[str, Any], data: Data, folder: Path) -> None:
    for rule in report["rules"]:
        counts = ", ".join(f"{rule[name]:,} {name}" for name in ("rejected", "fixed", "flagged") if rule[name])
        if rule["rule"] in LEFT_OUT:
            counts = f"{rule['rejected']:,} rows left out"
        if rule["examples"]:
            first = rule["examples"][0]
            say(f"      {rule['rule']}: {counts}, the first at {first['place']}: {first['reason']}")
    for source in report["sources"]:
        for note, count in source.get("notes", {}).items():
            say(f"      {label_of(source)}: {note} ({count:,} rows)")
    if data.val and not report["val"]:
        say(f"data: no row is held out, although data.val is {data.val:g}: there are too few rows, or none is exact")
    left = f", {report['left_out']:,} left out" if report["left_out"] else ""
    say(
        f"data: {report['train']:,} rows to train on, {report['val']:,} held out, {report['holdout']:,} of held-out "
        f"tasks, {report['rejected'] - report['left_out']:,} rejected{left}"
    )
    if report["rejected"]:
        say(f"data: every removed row has a recorded reason: {folder / 'rejected.jsonl'}")
