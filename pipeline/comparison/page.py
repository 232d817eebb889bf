"""page.html: one question at a time, two answers in an order that hides the models, and votes.

Which answer stands on the left is a pure function of the answers' hash and the question's id. The models' names are on
the page, hidden until a button shows them. Style and security policy are those of all pages (`pipeline.pages.page`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.answer_pairs import AnswerPair, ModelAnswer
from pipeline.comparison.questions import TooLong
from pipeline.dataset.language import language_of
from pipeline.pages.page import shell
from pipeline.pages.rows import field, select, text_block
from pipeline.pages.text import escape

HERE = Path(__file__).parent
NOSCRIPT = "<noscript><p>Without JavaScript all questions are shown, and votes cannot be counted.</p></noscript>"


def page(
    name: str,
    about: str,
    pairs: Sequence[AnswerPair],
    skipped: Sequence[TooLong],
    digest: str,
    most: int,
) -> str:
    """The whole page. The same input gives the same bytes.

    Args:
        about: text on base and tuned model. skipped: questions that were too long.
        digest: hash of the answers, the key of the votes. most: tokens of an answer at most.
    """
    articles = "".join(_article(pair, swapped(digest, pair.question.id), most) for pair in pairs)
    body = (
        f'<div class="lead"><p>{escape(about)}</p>{NOSCRIPT}{_left_out(skipped)}</div>'
        f'<main id="compare" data-run="{escape(name)}" data-hash="{digest}">{_bar(pairs)}{articles}'
        f'<p id="none" class="soft" hidden>No question is left under this filter.</p>{TALLY}</main>'
    )
    made = (
        f"Made by Suri {__version__}. The answers are in answers.jsonl beside this page, and under alpaca_eval in "
        "the form that AlpacaEval reads."
    )
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return shell(name, "Side by side", body, made, style, script)


def swapped(digest: str, id: str) -> bool:
    """Whether the tuned model's answer stands on the left."""
    return bool(hashlib.sha256(f"{digest}:{id}".encode("utf-8", "surrogatepass")).digest()[0] & 1)


def _left_out(skipped: Sequence[TooLong]) -> str:
    if not skipped:
        return ""
    listed = "".join(f"<li>{escape(q.set)}: {escape(q.id)} ({length:,} tokens)</li>" for q, length in skipped)
    summary = "1 question was" if len(skipped) == 1 else f"{len(skipped)} questions were"
    return f"<details><summary>{summary} too long for the model and left out</summary><ul>{listed}</ul></details>"


def _bar(pairs: Sequence[AnswerPair]) -> str:
    """The bar at the top: filters, progress, previous and next question."""
    selects = ""
    for label, values in (
        ("set", Counter(p.question.set for p in pairs)),
        ("category", Counter(p.question.category for p in pairs)),
    ):
        if len(values) > 1:
            selects += select(label, {value: f"{value} ({n})" for value, n in values.items()})
    return (
        f'<div class="controls bar" hidden>{selects}'
        '<label class="check"><input type="checkbox" id="open-only"> not yet voted</label>'
        '<p id="progress" class="soft" role="status"></p>'
        '<div class="turn"><button type="button" class="back" aria-label="previous question">←</button>'
        '<output id="at"></output><button type="button" class="next" aria-label="next question">→</button></div></div>'
    )


def _article(pair: AnswerPair, swap: bool, most: int) -> str:
    q = pair.question
    sides = [("base", pair.base), ("tuned", pair.tuned)]
    left, right = reversed(sides) if swap else sides
    input_html = field("Input", _text(q.input)) if q.input.strip() else ""
    reference = (
        f'<details class="reference"><summary>Answer in the question set</summary>{_text(q.reference)}</details>'
        if q.reference.strip()
        else ""
    )
    return (
        f'<article class="row" data-id="{escape(q.id)}" data-set="{escape(q.set)}" data-category="{escape(q.category)}"'
        f' data-left="{left[0]}"><p class="meta">{escape(q.category)} · {escape(q.set)} · {escape(q.id)}</p>'
        f'<div class="question">{_text(q.instruction)}{input_html}</div>'
        f'<div class="two answers">{_side("A", *left, most)}{_side("B", *right, most)}</div>{reference}'
        '<div class="votes" role="group" aria-label="your vote" hidden>'
        '<button type="button" data-vote="left"><kbd>A</kbd> is better</button>'
        '<button type="button" data-vote="tie"><kbd>T</kbd> as good or as bad</button>'
        '<button type="button" data-vote="right"><kbd>B</kbd> is better</button>'
        '<button type="button" class="reveal" aria-pressed="false"><kbd>R</kbd> which is which?</button></div>'
        "</article>"
    )


def _side(letter: str, who: str, answer: ModelAnswer, most: int) -> str:
    text = answer.text.strip()
    shown = _text(text) if text else '<p class="t soft">(empty answer)</p>'
    cut = "" if answer.stopped else f'<p class="cut">did not stop: cut off after {most} tokens</p>'
    return (
        f'<section class="side" aria-label="answer {letter}"><h3>{letter}<span class="who" hidden>{who}</span></h3>'
        f"{shown}{cut}</section>"
    )


def _text(text: str) -> str:
    return text_block(escape(text), "ko" if language_of(text) == "ko" else "")


TALLY = (
    '<details id="tally" hidden><summary>Tally of your votes <span class="soft">(it tells which model wins)</span>'
    '</summary><div class="scroll"><table><thead><tr><th></th><th class="n">votes</th><th class="n">tuned better</th>'
    '<th class="n">tie</th><th class="n">base better</th><th class="n">tuned wins</th><th class="n">95 % interval</th>'
    "</tr></thead><tbody></tbody></table></div>"
    '<p class="soft">A tie counts half. The interval is Wilson’s, for the share of votes that the tuned model won; '
    "ties make it wider than need be. It is about these questions and your own taste.</p></details>"
    '<div class="keep" hidden><button type="button" id="export">Download the votes</button>'
    '<button type="button" id="clear">Forget them</button>'
    '<p class="soft" id="where">Votes stay in this browser until you download or forget them.</p></div>'
)
