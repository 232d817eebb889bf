"""The tokens stage: encodes `dataset/*.jsonl` into `tokens/*.arrow` and checks every row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pipeline.config.chat_forms import BASE
from pipeline.config.schema import Config, Prompt
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.prompt import chat_template
from pipeline.prompt import template as templates
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import Encoder, Row
from pipeline.prompt.preview import as_text
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokenizer_checks import check_rows, check_tokenizer
from pipeline.prompt.tokens import PART, TokenWriter
from pipeline.run.errors import UserError
from pipeline.run.files import json_lines, json_text, sha256_file, write_text
from pipeline.run.folder import SPLITS, Run
from pipeline.run.progress import bar, say
from pipeline.run.terminal import quoted

CHUNK = 2000  # rows encoded at once
LONGEST_REASON = 200  # characters of a template's words in a message


@dataclass(frozen=True)
class Vocabulary:
    """Of the base: the folder of its tokenizer, rows of its embedding, and end ids in its own files."""

    folder: Path
    rows: int | None = None
    eos: tuple[int, ...] = ()


def key(config: Config, run: Run, tokenizer: Any) -> dict[str, Any]:
    """The stage's cache key. tokenizer: identity of its files. A template counts by what it renders."""
    return {
        "version": 2,
        "prompt": {**prompt_settings(config.prompt), "template": _template_key(config.prompt)},
        "add_tokens": config.value("model.add_tokens"),
        "tokenizer": tokenizer,
        "dataset": run.result("dataset"),
    }


def prompt_settings(prompt: Prompt) -> dict[str, Any]:
    """The section `prompt` for cache keys, without settings that are newer than the first runs and have no effect."""
    settings = prompt.model_dump(mode="json")
    if not settings["strip_end"]:
        del settings["strip_end"]
    if not prompt.is_chat:
        del settings["loss"], settings["date"]
    return settings


def _template_key(prompt: Prompt) -> str:
    """The template in cache keys: by what it renders. That of a base is one of the tokenizer's files."""
    if not prompt.is_chat:
        return templates.load(prompt.template).hash
    if prompt.template == BASE:
        return BASE
    return sha256_file(chat_template.path_of(prompt.template, Path()))


def encoder_of(prompt: Prompt, folder: Path, add_tokens: tuple[str, ...]) -> AnyEncoder:
    """The encoder of a run. folder: of the tokenizer. add_tokens: `model.add_tokens`.

    Raises:
        UserError: template or tokenizer cannot be read or do not fit each other.
    """
    if not prompt.is_chat:
        return Encoder(templates.load(prompt.template), Tokenizer(folder, add_tokens), prompt)
    template = chat_template.load(prompt, folder)
    where = str(chat_template.path_of(prompt.template, folder))
    return ChatEncoder(template, Tokenizer(folder, add_tokens, json_first=True), prompt, where)


def build(config: Config, run: Run, vocabulary: Vocabulary, stage_key: dict[str, Any]) -> None:
    """Encodes every row of the data stage.

    Raises:
        UserError: a check of the tokenizer or of a row failed, or no row has a labelled token.
    """
    encoder = encoder_of(config.prompt, vocabulary.folder, config.model.add_tokens)
    for note in check_tokenizer(encoder, vocabulary.rows, vocabulary.eos):
        say("tokens:", note)
    with run.writing("tokens", stage_key) as output:
        with open(output.folder / "rejected.jsonl", "w", encoding="utf-8") as rejected:
            rows_of = (run.manifest("dataset") or {}).get("counts", {})
            for split in SPLITS:
                examples = read_examples(run.folder("dataset"), split)
                with bar(total=rows_of.get(split), what=f"tokens {split}") as progress:
                    output.counts[split] = _encode_split(encoder, examples, output.folder, split, rejected, progress)
        refusal = _first_refusal(output.folder / "rejected.jsonl")
        if refusal and not output.counts["train"]["rows"] and not output.counts["train"]["rejected"]:
            what = f"the chat template refuses every conversation; the first: {refusal}"
            raise UserError(what, "prompt.template", "take another template, or other data")
        if not output.counts["train"]["learnt"]:
            raise UserError("no row has a trained token: every prompt fills the cutoff", "prompt.cutoff", "raise it")
        if output.counts["val"]["rejected"] and not output.counts["val"]["rows"]:
            raise UserError("no held-out row fits into the cutoff", "prompt.cutoff", "raise it, or set data.val=0")
        sample = encoder.rows(list(read_examples(run.folder("dataset"), "train", 5)))
        write_text(output.folder / "preview.txt", as_text(encoder, sample, colour=False) + "\n")
        output.counts["template"] = {"id": encoder.template.id, "hash": encoder.template.hash}
        output.counts["tokenizer"] = encoder.tokenizer.hash
        output.counts["end_id"], output.counts["bos_id"] = encoder.end_id, encoder.bos_id
    _print_counts(output.counts, config.prompt, refusal)


def _first_refusal(rejected: Path) -> str:
    """Why the chat template refuses the first of the conversations that it refuses; empty if there is none."""
    reasons = (row["reason"] for row in json_lines(rejected) if row["rule"] == "chat-template")
    return quoted(next(reasons, ""), LONGEST_REASON)[1:-1]


def _encode_split(
    encoder: AnyEncoder, examples: Iterator[Example], folder: Path, split: str, rejected: TextIO, progress: Any
) -> dict[str, int]:
    """Writes `SPLIT.arrow`; returns the split's counts, as the manifest has them."""
    counts = dict.fromkeys(
        ("rows", "tokens", "learnt", "longest", "cut", "forgot", "rejected", "no_loss", "seam", "unknown"), 0
    )
    settings = encoder.prompt_config
    writer = TokenWriter(folder / f"{split}.arrow")
    start = 0
    while chunk := list(itertools.islice(examples, CHUNK)):
        named = encoder.named_rows(chunk)
        check_rows(encoder, [row for _, _, row in named], start)
        start += len(chunk)
        kept, refused = [], 0
        for example, name, row in named:
            if row.problem:
                reason = {"rule": "chat-template", "reason": row.problem, "part": split}
                refused += 1
            elif row.cut and settings.too_long == "reject":
                reason = {"rule": "too-long", "reason": f"longer than {settings.cutoff} tokens", "part": split}
            else:
                kept.append((row, name))
                continue
            rejected.write(json_text({**reason, **example.as_dict()}) + "\n")
        writer.write((row for row, _ in kept), (name for _, name in kept))
        _count(counts, [row for row, _ in kept], len(named) - len(kept) - refused)
        if settings.too_long == "split" and (parts := {e.id for e, name, _ in named if PART in name}):
            counts["split"] = counts.get("split", 0) + len(parts)
        if left_out := sum(row.left_out for row, _ in kept):
            counts["left_out"] = counts.get("left_out", 0) + left_out
        if refused:
            counts["refused"] = counts.get("refused", 0) + refused
        if (unknown := encoder.tokenizer.unk_id) not in (None, encoder.bos_id, encoder.end_id):
            counts["unknown"] += sum(unknown in row.ids for row, _ in kept)
        progress.update(len(chunk))
    writer.close()
    return counts


def _count(counts: dict[str, int], rows: Sequence[Row], rejected: int) -> None:
    labelled = [row.labelled for row in rows]
    counts["rows"] += len(rows)
    counts["tokens"] += sum(len(row.ids) for row in rows)
    counts["learnt"] += sum(labelled)
    counts["longest"] = max([counts["longest"], *(len(row.ids) for row in rows)])
    counts["forgot"] += sum(row.lost_turns for row in rows)
    counts["cut"] += sum(row.cut for row in rows)
    counts["rejected"] += rejected
    counts["no_loss"] += sum(n == 0 for n in labelled)
    counts["seam"] += sum(row.seam for row in rows)


def _print_counts(counts: dict[str, Any], prompt: Prompt, refusal: str) -> None:
    """refusal: the first one, as of `_first_refusal`."""
    train, cutoff = counts["train"], prompt.cutoff
    say(
        f"tokens: {train['rows']:,} rows to train on, {train['tokens']:,} tokens, {train['learnt']:,} of them are "
        f"trained (the answers); the longest row has {train['longest']}"
    )
    meanings = {
        "cut": f"rows were cut at {cutoff} tokens and lost their end token (prompt.too_long=reject leaves them out)",
        "forgot": f"conversations lost their oldest turns to fit into {cutoff} tokens",
        "rejected": f"rows longer than {cutoff} tokens are rejected (tokens/rejected.jsonl)",
        "no_loss": "rows have no trained token: their prompt fills the cutoff",
        "unknown": "rows have characters that the tokenizer has no token for",
        "seam": "rows have other prompt tokens once the answer follows (prompt.join=apart avoids it)",
        "refused": f"conversations are rejected: the chat template refuses them (tokens/rejected.jsonl); {refusal}",
    }
    if prompt.is_chat:
        meanings |= {
            "split": "conversations became several rows",
            "left_out": f"answers are not learnt: with its question each is longer than {cutoff} tokens",
            "forgot": f"conversations lost their last turns to fit into {cutoff} tokens",
            "no_loss": "rows have no trained token: no answer in them is learnt, or none fits into the cutoff",
            "seam": "rows have an answer whose beginning changes the tokens of the header before it",
        }
    for split in SPLITS:
        for name, meaning in meanings.items():
            if counts[split].get(name):
                say(f"        {split}: {counts[split][name]:,} {meaning}")
