"""Rows of data as HTML, and a pager through many of them. Texts are escaped by the functions that take texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.pages.phrases import attribute, data_of, html_of, labelled, phrase
from pipeline.pages.text import LIMIT, escape, shorten

BUDGET = 1_200_000  # characters of HTML in one pager; articles beyond are left out


def text_block(html: str, language: str = "") -> str:
    """A text with its line breaks. html: the escaped text. language: of the text, where line breaking depends on it."""
    lang = f' lang="{language}"' if language else ""
    return f'<div class="t"{lang} dir="auto">{html}</div>'


def field(name: str, block: str) -> str:
    """A block of HTML under its name."""
    return f'<div class="field"><span>{html_of(name)}</span>{block}</div>'


def fields(texts: Mapping[str, str], limit: int = LIMIT, language: str = "") -> str:
    """Texts under their names, each at most `limit` characters; empty ones are left out. language: of the texts."""
    return "".join(
        field(name, text_block(html_of(shorten(text, limit)), language)) for name, text in texts.items() if text
    )


def row_box(meta: Sequence[Any], reason: str, body: str) -> str:
    """A framed row. meta: facts in one line above it, empty ones left out. reason: text. body: HTML."""
    facts = [fact if isinstance(fact, str) else str(fact) for fact in meta if fact]
    # A place mostly begins with its source, which need not be written twice.
    shown = [f for f in facts if not any(other != f and other.startswith(f) for other in facts)]
    line = " · ".join(html_of(shorten(fact, 200)) for fact in shown)
    why = f'<p class="why">{html_of(shorten(reason, 400))}</p>' if reason else ""
    return f'<div class="row"><div class="meta">{line}</div>{why}{body}</div>'


def article(data: Mapping[str, str], html: str) -> str:
    """One page of a pager. data: values that it is filtered by; several values of one name stand on lines."""
    attributes = " ".join(f'data-{key}="{escape(value)}"' for key, value in data.items())
    return f"<article {attributes}>{html}</article>"


def pager(name: str, articles: Iterable[str], filters: Mapping[str, Sequence[str]]) -> str:
    """Articles of which one is shown at a time. filters: names of `data` of the articles, and their values."""
    shown, size = [], 0
    for one in articles:
        size += len(one)
        if size > BUDGET:
            break
        shown.append(one)
    choices = {key: {str(value): value for value in values if value} for key, values in filters.items()}
    selects = "".join(select(key, choices[key]) for key, values in filters.items() if len(values) > 1)
    turn = (
        f'<span class="turn"><button type="button" class="back"{attribute("aria-label", phrase("previous"))}>'
        f'{html_of(phrase("back"))}</button><output aria-live="polite"></output>'
        f'<button type="button" class="next"{attribute("aria-label", phrase("next"))}>'
        f"{html_of(phrase('forward'))}</button></span>"
    )
    controls = f'<div class="controls" hidden>{selects}{turn}</div>'
    return f'<div class="pager" id="{name}">{controls}{"".join(shown)}</div>'


def select(name: str, options: Mapping[str, str]) -> str:
    """A choice among values with their labels, "all" first."""
    every = phrase("all")
    listed = "".join(
        f'<option value="{escape(value)}"{data_of(label)}>{escape(label)}</option>' for value, label in options.items()
    )
    return (
        f'<label>{html_of(labelled(name))}<select name="{name}"><option value=""{data_of(every)}>{every}</option>'
        f"{listed}</select></label>"
    )
