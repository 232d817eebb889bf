"""The data stage: sources in, `dataset/` out.

    train, val, holdout .jsonl   examples; with `repeat` a training row stands there more than once
    rejected.jsonl               every row that is not among them, with rule, reason and place
    changes.jsonl                what rules changed or flagged in rows that stay
    duplicates.jsonl             each row that was kept for others like it, with those
    contaminated.jsonl           each hit of a benchmark with the question
    report.json, README.md       counts; the datasheet

Rows read = rows kept + rows rejected, on every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config, Data
from pipeline.dataset.chunk import Work
from pipeline.dataset.clean.rule import Cleaner
from pipeline.dataset.datasheet import datasheet
from pipeline.dataset.engine import engine
from pipeline.dataset.read.benchmark import files_of as benchmark_files
from pipeline.dataset.read.benchmark import read_all
from pipeline.dataset.read.source import files_of, labels
from pipeline.dataset.select.contamination import Index
from pipeline.dataset.select.decide import LEFT_OUT, decide
from pipeline.dataset.select.split import PARTS
from pipeline.dataset.summary import label_of
from pipeline.dataset.writer import Writer
from pipeline.run.errors import UserError
from pipeline.run.files import write_json, write_text
from pipeline.run.folder import Run, input_hashes
from pipeline.run.progress import say

HOW = ("engine",)  # keys of `data` that change how the work is done, not what comes out


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the result depends on: the `data` section and the bytes of the files it names."""
    if not config.data.sources:
        raise UserError("data.sources is empty", "data.sources", "name at least one file, folder or hub id")
    files = [path for source in config.data.sources for path in files_of(source)]
    files += [path for benchmark in config.data.benchmarks for path in benchmark_files(benchmark.path)]
    data = {name: value for name, value in config.value("data").items() if name not in HOW}
    return {"version": 3, "data": data, "inputs": input_hashes(files)}


def build(config: Config, run: Run, stage_key: dict[str, Any] | None = None) -> None:
    """Reads, cleans, compares and splits every row; each is kept or rejected with a reason.

    Raises:
        UserError: a source cannot be read, or no row is left.
    """
    stage_key = stage_key or key(config, run)
    data = config.data
    Cleaner(data.clean, data.rules)  # a misspelt rule is told before the work
    questions = read_all(data.benchmarks)
    index = Index.of(questions) if questions else None
    work = Work(data, index)
    with run.writing("dataset", stage_key) as output, Writer(output.folder, data) as writer:
        workers = engine(data.engine)
        for number in range(len(data.sources)):
            writer.read(number, work, workers)
        writer.ledger.seal()
        say("data: comparing rows")
        parts, shares = decide(writer.ledger, data, questions, workers)
        if "train" not in parts.values():
            raise UserError("no row is left to train on", "data", "lower data.val or data.holdout")
        writer.write(parts)
        more = {
            "duplicates": writer.duplicates(),
            "contamination": writer.contamination(questions, index.coverage if index else []),
            "mix": shares,
        }
        report = writer.summary.as_dict(more)
        _account(report, writer.lines, writer.repeats)
        output.counts.update({name: report[name] for name in ("read", "kept", *PARTS, "rejected")})
        output.counts["languages"] = report.get("languages")
        output.counts["rehearsal"] = [name for name, source in zip(labels(data.sources), data.sources, strict=True)
                                      if source.rehearsal]  # fmt: skip
        write_json(output.folder / "report.json", report)
        write_text(output.folder / "README.md", shortener(run.root, config)(datasheet(report, config)))
    _said(report, run, data)


def _account(report: dict[str, Any], lines: Mapping[str, int], repeats: int) -> None:
    """Rows kept and rejected, counted from the lines that were written, are the rows that were read."""
    written = sum(lines[part] for part in PARTS) + lines["rejected"] - repeats
    if report["read"] != written or report["read"] != report["kept"] + report["rejected"]:
        raise AssertionError(f"{report['read']} rows read, {written} written: a row was lost ({lines})")


def _said(report: dict[str, Any], run: Run, data: Data) -> None:
    for rule in report["rules"]:
        done = ", ".join(f"{rule[name]:,} {name}" for name in ("rejected", "fixed", "flagged") if rule[name])
        if rule["rule"] in LEFT_OUT:
            done = f"{rule['rejected']:,} left out"
        if rule["examples"]:
            first = rule["examples"][0]
            say(f"      {rule['rule']}: {done}: {first['reason']} (first: {first['place']})")
    for source in report["sources"]:
        for note, count in source.get("notes", {}).items():
            say(f"      {label_of(source)}: {note} ({count:,} rows)")
    if data.val and not report["val"]:
        say(f"data: data.val is {data.val:g}, but no row is held out: there are too few (or none is marked exact)")
    left = f", {report['left_out']:,} left out" if report["left_out"] else ""
    say(
        f"data: {report['train']:,} train, {report['val']:,} val, {report['holdout']:,} held-out tasks, "
        f"{report['rejected'] - report['left_out']:,} rejected{left} -> {run.folder('dataset')}"
    )
