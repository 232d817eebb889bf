"""What a refused row or table is told to do: which fields would be lost, and the `columns:` line to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.dataset.read.content import MEDIA


def would_be_lost(names: Sequence[str]) -> str:
    return f"field{'s' if len(names) > 1 else ''} {', '.join(repr(name[:40]) for name in names)} would be lost"


def line(columns: Mapping[str, str]) -> str:
    """As it is written in a config."""
    return f"columns: {{{', '.join(f'{ours}: {theirs}' for ours, theirs in columns.items())}}}"


def for_list(names: Sequence[str], where: str) -> str:
    """For a form whose rows come out of a list, which `columns` cannot name. where: what can hold the content."""
    return media(names) or f"{would_be_lost(names)}; put it into {where}, or take it out"


def media(names: Sequence[str]) -> str:
    """For fields that hold pictures, sound or films; empty where none of `names` does."""
    found = [name for name in names if name.strip().lower() in MEDIA]
    if not found:
        return ""
    return f"{', '.join(repr(name[:40]) for name in found)} holds no text: only text can be learnt, leave such rows out"


def for_columns(row: Mapping[str, Any], names: Sequence[str], columns: Mapping[str, str]) -> str:
    """Why a row with content that nobody reads is refused. One text, where there is no input yet, is probably that.

    columns: our texts with the fields that hold them.
    """
    if said := media(names):
        return said
    what, asked, name = would_be_lost(names), columns["instruction"], names[0]
    if len(names) > 1 or not isinstance(row[name], str) or ("input" in columns and row[columns["input"]]):
        return f"{what}; put it into one of these, or leave it out: {line(columns)}"
    swap = name.strip().lower() in ("instruction", "definition")
    columns = {"instruction": name if swap else asked, "input": asked if swap else name, "output": columns["output"]}
    return f"{what}; say which is which: {line(columns)}"
