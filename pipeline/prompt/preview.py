"""Encoded rows as text: which tokens are labelled, special tokens spelt out."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence

from pipeline.dataset.example import Example
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import IGNORE, Row
from pipeline.run.progress import bar, say
from pipeline.run.terminal import Styled, safe

ROWS = 5  # that are shown
LOSS, PLAIN, END = "\033[32m", "\033[2m", "\033[0m"


def as_text(encoder: AnyEncoder, rows: Sequence[Row], colour: bool) -> str:
    """Rows decoded, with control and invisible characters as escapes. Labelled tokens are green, or between « and »
    without colour."""
    text = "\n\n".join(f"--- row {i}: {_head(row)}\n{_body(encoder, row, colour)}" for i, row in enumerate(rows, 1))
    return Styled(text)


def _head(row: Row) -> str:
    if row.problem:
        return f"rejected: {row.problem}"
    end = "cut at the cutoff, without an end token" if row.cut else "ends with the end token"
    return f"{len(row.ids)} tokens, {row.labelled} trained, {end}"


def _body(encoder: AnyEncoder, row: Row, colour: bool) -> str:
    opening, closing = (LOSS, END) if colour else ("«", "»")
    text = ""
    for is_labelled, group in itertools.groupby(zip(row.ids, row.labels, strict=True), lambda pair: pair[1] != IGNORE):
        piece = safe(encoder.tokenizer.decode([id for id, _ in group], keep_special=True))
        if is_labelled:
            text += f"{opening}{piece}{closing}"
        else:
            text += f"{PLAIN}{piece}{END}" if colour else piece
    return text


def preview(encoder: AnyEncoder, examples: Sequence[Example]) -> None:
    """Prints the first rows, and how many rows change prompt tokens when the answer is joined as text."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    say(f"template {encoder.template.id} ({encoder.template.hash}), tokenizer {encoder.tokenizer.hash}")
    say(Styled(f"Trained tokens are {LOSS}green{END}.\n") if colour else "Trained tokens are between « and ».\n")
    say(as_text(encoder, encoder.rows(examples[:ROWS]), colour))
    if isinstance(encoder, ChatEncoder):
        return  # no setting changes its seams, and `make data` counts them
    seams = 0
    with bar(total=len(examples), what="checking seams") as progress:
        for start in range(0, len(examples), 2000):
            chunk = examples[start : start + 2000]
            seams += encoder.seams(chunk)
            progress.update(len(chunk))
    joint = encoder.prompt_config.join == "joint"
    effect = "their mask is off by one token, as in the reference recipes" if joint else "prompt.join=apart avoids it"
    summary = f"{seams:,} of {len(examples):,} rows have other prompt tokens once the answer follows"
    say(f"\n{summary}: {effect}" if seams else "\nNo prompt changes its tokens when the answer follows")
