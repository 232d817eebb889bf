"""The tokens stage: `dataset/*.jsonl` in, `tokens/*.arrow` out, through the doctor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.prompt import template as templates
from pipeline.prompt.doctor import examine, examine_rows
from pipeline.prompt.encode import Encoder, Row
from pipeline.prompt.preview import as_text
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import TokenWriter
from pipeline.run.errors import UserError
from pipeline.run.files import json_text, write_text
from pipeline.run.folder import Run
from pipeline.run.progress import bar, say

PARTS = ("train", "val", "holdout")
CHUNK = 2000  # rows encoded at once


@dataclass(frozen=True)
class Vocabulary:
    """What the prompt room needs to know of the base: tokenizer folder, embedding rows, end ids in its own files."""

    folder: Path
    rows: int | None = None
    eos: tuple[int, ...] = ()


def key(config: Config, run: Run, tokenizer: Any) -> dict[str, Any]:
    """All that the result depends on: the template by what it renders, and `tokenizer`, the identity of its files."""
    return {
        "version": 2,
        "prompt": {**rules(config), "template": templates.load(config.prompt.template).hash},
        "add_tokens": config.value("model.add_tokens"),
        "tokenizer": tokenizer,
        "dataset": run.result("dataset"),
    }


def rules(config: Config) -> dict[str, Any]:
    """The section `prompt` as keys hold it; those of the first runs lack what came later."""
    found: dict[str, Any] = config.value("prompt")
    if not found["strip_end"]:
        del found["strip_end"]
    return found


def encoder_of(config: Config, folder: Path) -> Encoder:
    """The one encoder of a run."""
    return Encoder(templates.load(config.prompt.template), Tokenizer(folder, config.model.add_tokens), config.prompt)


def build(config: Config, run: Run, vocabulary: Vocabulary, stage_key: dict[str, Any]) -> None:
    """Encodes every row of the data stage.

    Raises:
        UserError: the doctor found what training would suffer from, or no row carries loss.
    """
    encoder = encoder_of(config, vocabulary.folder)
    for note in examine(encoder, vocabulary.rows, vocabulary.eos):
        say("tokens:", note)
    with run.writing("tokens", stage_key) as output:
        with open(output.folder / "rejected.jsonl", "w", encoding="utf-8") as rejected:
            for part in PARTS:
                examples = read_examples(run.folder("dataset"), part)
                total = (run.manifest("dataset") or {}).get("counts", {}).get(part)
                output.counts[part] = _encode_part(config, encoder, examples, total, output.folder, part, rejected)
        if not output.counts["train"]["learnt"]:
            raise UserError(
                "no token of any training row carries loss: every prompt fills the cutoff", "prompt.cutoff", "raise it"
            )
        if output.counts["val"]["rejected"] and not output.counts["val"]["rows"]:
            raise UserError("no held-out row fits into the cutoff", "prompt.cutoff", "raise it, or set data.val=0")
        sample = list(read_examples(run.folder("dataset"), "train", 5))
        rows = encoder.rows(sample)
        write_text(output.folder / "preview.txt", as_text(encoder, rows, colour=False) + "\n")
        output.counts["template"] = {"id": encoder.template.id, "hash": encoder.template.hash}
        output.counts["tokenizer"] = encoder.tokenizer.hash
        output.counts["end_id"], output.counts["bos_id"] = encoder.end_id, encoder.bos_id
    _report(output.counts, config)


def _encode_part(
    config: Config, encoder: Encoder, examples: Iterator[Example], total: int | None, folder: Path, part: str,
    rejected: TextIO,
) -> dict[str, int]:  # fmt: skip
    counts = dict.fromkeys(
        ("rows", "tokens", "learnt", "longest", "cut", "forgot", "rejected", "no_loss", "seam", "unknown"), 0
    )
    writer = TokenWriter(folder / f"{part}.arrow")
    start = 0
    with bar(total=total, what=f"tokens {part}") as progress:
        while chunk := list(itertools.islice(examples, CHUNK)):
            rows = encoder.rows(chunk)
            examine_rows(encoder, rows, start)
            start += len(chunk)
            pairs = list(zip(rows, chunk, strict=True))
            too_long = [e for row, e in pairs if row.cut] if config.prompt.too_long == "reject" else []
            kept = [(row, e) for row, e in pairs if not (row.cut and too_long)]
            writer.write((row for row, _ in kept), (e.id for _, e in kept))
            for example in too_long:
                reason = f"longer than {config.prompt.cutoff} tokens"
                rejected.write(
                    json_text({"rule": "too-long", "reason": reason, "part": part, **example.as_dict()}) + "\n"
                )
            _count(counts, [row for row, _ in kept], len(too_long))
            if (unknown := encoder.tokenizer.unk_id) not in (None, encoder.bos_id, encoder.end_id):
                counts["unknown"] += sum(unknown in row.ids for row, _ in kept)
            progress.update(len(chunk))
    writer.close()
    return counts


def _count(counts: dict[str, int], rows: Sequence[Row], rejected: int) -> None:
    learnt = [row.learnt for row in rows]
    counts["rows"] += len(rows)
    counts["tokens"] += sum(len(row.ids) for row in rows)
    counts["learnt"] += sum(learnt)
    counts["longest"] = max([counts["longest"], *(len(row.ids) for row in rows)])
    counts["forgot"] += sum(row.forgot for row in rows)
    counts["cut"] += sum(row.cut for row in rows)
    counts["rejected"] += rejected
    counts["no_loss"] += sum(n == 0 for n in learnt)
    counts["seam"] += sum(row.seam for row in rows)


def _report(counts: dict[str, Any], config: Config) -> None:
    train, cutoff = counts["train"], config.prompt.cutoff
    say(
        f"tokens: {train['rows']:,} training rows, {train['tokens']:,} tokens, "
        f"{train['learnt']:,} of them carry loss, longest row {train['longest']}"
    )
    meanings = {
        "cut": f"rows were longer than {cutoff} and cut: they do not learn to stop (prompt.too_long=reject drops them)",
        "forgot": f"rows of conversations lost their oldest turns to fit into {cutoff} tokens",
        "rejected": f"rows longer than {cutoff} tokens rejected (tokens/rejected.jsonl)",
        "no_loss": "rows carry no loss, their prompt fills the cutoff",
        "unknown": "rows have letters that the tokenizer has no token for",
        "seam": "rows change prompt tokens where the answer is joined (prompt.join=apart avoids it)",
    }
    for part in PARTS:
        for name, meaning in meanings.items():
            if counts[part][name]:
                say(f"        {part}: {counts[part][name]:,} {meaning}")
