"""Encoded rows as a person reads them: what carries loss, what does not, special tokens spelt out."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.prompt.encode import IGNORE, Encoder, Row

LOSS, PLAIN, END = "\033[32m", "\033[2m", "\033[0m"


def as_text(encoder: Encoder, rows: Sequence[Row], colour: bool) -> str:
    """Rows decoded; with colour, green carries loss. Without, loss stands between the marks « and »."""
    return "\n\n".join(f"--- row {i}: {_head(row)}\n{_body(encoder, row, colour)}" for i, row in enumerate(rows, 1))


def _head(row: Row) -> str:
    end = "cut at the cutoff: no end token" if row.cut else "ends with its end token"
    return f"{len(row.ids)} tokens, {row.learnt} carry loss, {end}"


def _body(encoder: Encoder, row: Row, colour: bool) -> str:
    opening, closing = (LOSS, END) if colour else ("«", "»")
    text, run, learning = "", list[int](), False

    def flush() -> str:
        if not run:
            return ""
        piece = encoder.tokenizer.decode(run, keep_special=True)
        if learning:
            return f"{opening}{piece}{closing}"
        return f"{PLAIN}{piece}{END}" if colour else piece

    for id, label in zip(row.ids, row.labels, strict=True):
        if (label != IGNORE) != learning:
            text += flush()
            run, learning = [], label != IGNORE
        run.append(id)
    return text + flush()
