"""The data stage: sources in, `dataset/{train,val,holdout,rejected}.jsonl` and `report.json` out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config, Source
from pipeline.dataset.row import Rejected, check
from pipeline.dataset.source import kind_of, read
from pipeline.dataset.split import rank, split
from pipeline.errors import UserError
from pipeline.files import json_text, write_json, write_text
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
        good, bad = _checked(source, config)
        if not good:
            said, fix = _nothing_left(bad)
            raise UserError(said, source.path, fix)
        taken = _limit(good, source.limit, config.data.seed)
        kept += taken
        rejected += bad
        per_source.append(_entry(source, good, bad, taken))
    parts = split(kept, config.data.val, config.data.holdout, config.data.seed, config.data.val_exact_only)
    if not parts.train:
        raise UserError("no row is left to train on", "data", "lower data.val or data.holdout")
    by_rule = Counter(r.rule for r in rejected)
    for rule, count in by_rule.most_common():
        example = next(r for r in rejected if r.rule == rule)
        say(f"      rejected {count:,}: {example.reason} (first: {example.place})")
    with run.writing("dataset", stage_key) as output:
        for name, examples in (("train", parts.train), ("val", parts.val), ("holdout", parts.holdout)):
            _write(output.folder / f"{name}.jsonl", (e.as_dict() for e in examples))
            output.counts[name] = len(examples)
        _write(output.folder / "rejected.jsonl", (r.as_dict() for r in rejected))
        output.counts["rejected"] = len(rejected)
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
        f"data: {len(parts.train):,} train, {len(parts.val):,} val, {len(parts.holdout):,} held-out tasks, "
        f"{len(rejected):,} rejected -> {run.folder('dataset')}"
    )


def _checked(source: Source, config: Config) -> tuple[list[Example], list[Rejected]]:
    """Every row of a source, good or rejected."""
    good: list[Example] = []
    bad: list[Rejected] = []
    for raw in bar(read(source, config.data.seed), what=f"reading {Path(source.path).name}"):
        found = check(raw, source, config.data.keep_empty_output)
        if isinstance(found, Example):
            good.append(found)
        else:
            bad.append(found)
    return good, bad


def _entry(
    source: Source, good: Sequence[Example], bad: Sequence[Rejected], taken: Sequence[Example]
) -> dict[str, Any]:
    """A source's line in the report, said aloud too."""
    read, over = len(good) + len(bad), len(good) - len(taken)
    left_out = f", {over:,} left out by limit: {source.limit}" if over else ""
    say(f"data: {source.path}: {read:,} rows read, {len(taken):,} kept, {len(bad):,} rejected{left_out}")
    return {"path": source.path, "read": read, "kept": len(taken), "rejected": len(bad), "over_limit": over}


def load(run: Run, part: str) -> list[Example]:
    """The examples of `train`, `val` or `holdout`, as the data stage wrote them."""
    with open(run.folder("dataset") / f"{part}.jsonl", encoding="utf-8", errors="surrogatepass") as file:
        return [Example(**json.loads(line)) for line in file]


def _limit(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    if limit is None or len(examples) <= limit:
        return list(examples)
    chosen = set(sorted(range(len(examples)), key=lambda i: (rank(examples[i].id, seed), i))[:limit])
    return [e for i, e in enumerate(examples) if i in chosen]


def _nothing_left(bad: Sequence[Rejected]) -> tuple[str, str]:
    """Why a source gave no row at all, and the cure for the commonest reason."""
    if not bad:
        return "the source has no rows", "it needs rows of instruction, input (optional) and output"
    reasons = Counter(r.reason for r in bad).most_common(3)
    said = "; ".join(f"{count:,} x {reason}" for reason, count in reasons)
    cures = {
        "not-json": "write one JSON object a line, or one array of objects",
        "invalid-utf-8": "save the file as UTF-8; Korean files are often CP949: iconv -f CP949 -t UTF-8 old > new",
        "output-empty": "write answers, or keep empty ones with data.keep_empty_output=true",
        "instruction-empty": "write instructions",
    }
    rule = Counter(r.rule for r in bad).most_common(1)[0][0]
    fix = cures.get(rule, "each row is an object with the texts instruction, input (optional) and output")
    return f"every one of the {len(bad):,} rows was rejected ({said}; first: {bad[0].place})", fix


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    try:
        return json_text(row, default=str) + "\n"
    except RecursionError:  # a rejected row that could just be parsed can be too deep to be written
        return json_text({**row, "row": "(nested too deeply to be written)"}) + "\n"
