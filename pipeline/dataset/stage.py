"""The data stage: sources in, `dataset/{train,val,holdout,rejected}.jsonl` and `report.json` out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.dataset.row import Rejected, check
from pipeline.dataset.source import kind_of, read
from pipeline.dataset.split import rank, split
from pipeline.errors import UserError
from pipeline.files import write_json, write_text
from pipeline.progress import bar, say
from pipeline.record import Example
from pipeline.run import Run, input_hashes


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the result depends on: the `data` section and the bytes of the files it names."""
    if not config.data.sources:
        raise UserError("data.sources is empty", "data.sources", "name at least one file, folder or hub id")
    files = [Path(s.path) for s in config.data.sources if kind_of(s) == "file"]
    folders = [p for s in config.data.sources if kind_of(s) == "folder" for p in sorted(Path(s.path).rglob("*"))]
    paths = files + [p for p in folders if p.is_file() and not p.name.startswith(".")]
    return {"version": 1, "data": config.value("data"), "inputs": input_hashes(paths, run.manifest("dataset"))}


def build(config: Config, run: Run) -> None:
    """Reads, checks and splits every row; each is kept or rejected with a reason.

    Raises:
        UserError: a source cannot be read, or no row is left.
    """
    stage_key = key(config, run)
    kept: list[Example] = []
    rejected: list[Rejected] = []
    per_source = []
    for source in config.data.sources:
        good: list[Example] = []
        bad: list[Rejected] = []
        for raw in bar(read(source, config.data.seed), what=f"reading {Path(source.path).name}"):
            found = check(raw, source, config.data.keep_empty_output)
            (good if isinstance(found, Example) else bad).append(found)  # type: ignore[arg-type]
        if not good:
            raise UserError(
                _nothing_left(bad), source.path, "the fields must be named instruction, input (optional) and output"
            )
        taken = _limit(good, source.limit, config.data.seed)
        entry = {
            "path": source.path,
            "read": len(good) + len(bad),
            "kept": len(taken),
            "rejected": len(bad),
            "over_limit": len(good) - len(taken),
        }
        per_source.append(entry)
        say(f"data: {source.path}: {entry['read']:,} rows read, {entry['kept']:,} kept, {entry['rejected']:,} rejected"
            + (f", {entry['over_limit']:,} left out by limit: {source.limit}" if entry["over_limit"] else ""))  # fmt: skip
        kept += taken
        rejected += bad
    parts = split(kept, config.data.val, config.data.holdout, config.data.seed, config.data.val_exact_only)
    if not parts.train:
        raise UserError("no row is left to train on", "data", "lower data.val or data.holdout")
    by_rule = Counter(r.rule for r in rejected)
    for rule, count in by_rule.most_common():
        example = next(r for r in rejected if r.rule == rule)
        say(f"      rejected {count:,}: {example.reason} (first: {example.place})")
    with run.writing("dataset", stage_key) as output:
        _write(output.folder / "train.jsonl", (e.as_dict() for e in parts.train))
        _write(output.folder / "val.jsonl", (e.as_dict() for e in parts.val))
        _write(output.folder / "holdout.jsonl", (e.as_dict() for e in parts.holdout))
        _write(output.folder / "rejected.jsonl", (r.as_dict() for r in rejected))
        output.counts = {
            "train": len(parts.train),
            "val": len(parts.val),
            "holdout": len(parts.holdout),
            "rejected": len(rejected),
        }
        report = {
            **output.counts,
            "sources": per_source,
            "rejected_by_rule": dict(by_rule.most_common()),
            "languages": dict(Counter(e.language for e in kept).most_common()),
            "tasks": dict(Counter(e.task for e in kept).most_common()),
            "with_input": sum(bool(e.input) for e in kept),
        }
        write_json(output.folder / "report.json", report)
    say(
        f"data: {len(parts.train):,} train, {len(parts.val):,} val, {len(parts.holdout):,} held-out tasks, {len(rejected):,} rejected -> {run.folder('dataset')}"
    )


def load(run: Run, part: str) -> list[Example]:
    """The examples of `train`, `val` or `holdout`, as the data stage wrote them."""
    with open(run.folder("dataset") / f"{part}.jsonl", encoding="utf-8", errors="surrogatepass") as file:
        return [Example(**json.loads(line)) for line in file]


def _limit(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    if limit is None or len(examples) <= limit:
        return list(examples)
    chosen = set(sorted(range(len(examples)), key=lambda i: (rank(examples[i].id, seed), i))[:limit])
    return [e for i, e in enumerate(examples) if i in chosen]


def _nothing_left(bad: Sequence[Rejected]) -> str:
    reasons = Counter(r.reason for r in bad).most_common(3)
    said = "; ".join(f"{count:,} x {reason}" for reason, count in reasons)
    return (
        f"every one of the {len(bad):,} rows was rejected ({said}; first: {bad[0].place})"
        if bad
        else "the source has no rows"
    )


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    # Surrogates stand for bytes that were not UTF-8; escaped, they survive in rejected.jsonl.
    write_text(path, "".join(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(row, default=str)
    return text + "\n"
