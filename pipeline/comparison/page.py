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
from pipeline.comparison.blind import shown_before_the_vote
from pipeline.comparison.questions import TooLong
from pipeline.dataset.language import language_of
from pipeline.pages.page import shell
from pipeline.pages.phrases import attribute, html_of, joined, labelled, phrase
from pipeline.pages.rows import field, select, text_block
from pipeline.pages.text import escape

HERE = Path(__file__).parent


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
    noscript = f"<noscript><p>{html_of(phrase('compare-noscript'))}</p></noscript>"
    nothing = f'<p id="none" class="soft" hidden>{html_of(phrase("compare-none-left"))}</p>'
    body = (
        f'<div class="lead"><p>{html_of(about)}</p>{noscript}{_left_out(skipped)}</div>'
        f'<main id="compare" data-run="{escape(name)}" data-hash="{digest}">{_bar(pairs)}{articles}'
        f"{nothing}{_tally()}</main>"
    )
    made = html_of(joined([phrase("made-by", version=__version__), phrase("compare-end")]))
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return shell(name, phrase("compare"), body, made, style, script)


def swapped(digest: str, id: str) -> bool:
    """Whether the tuned model's answer stands on the left."""
    return bool(hashlib.sha256(f"{digest}:{id}".encode("utf-8", "surrogatepass")).digest()[0] & 1)


def _left_out(skipped: Sequence[TooLong]) -> str:
    if not skipped:
        return ""
    listed = "".join(
        f"<li>{escape(q.set)}: {escape(q.id)} ({html_of(phrase('compare-tokens', n=f'{length:,}'))})</li>"
        for q, length in skipped
    )
    one = len(skipped) == 1
    summary = phrase("compare-skipped-one") if one else phrase("compare-skipped", n=len(skipped))
    return f"<details><summary>{html_of(summary)}</summary><ul>{listed}</ul></details>"


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
        f'<label class="check"><input type="checkbox" id="open-only"> {html_of(phrase("compare-open"))}</label>'
        '<p id="progress" class="soft" role="status"></p>'
        f'<div class="turn"><button type="button" class="back"{attribute("aria-label", phrase("compare-previous"))}>←'
        '</button><output id="at"></output>'
        f'<button type="button" class="next"{attribute("aria-label", phrase("compare-next"))}>→</button></div></div>'
    )


def _article(pair: AnswerPair, swap: bool, most: int) -> str:
    q = pair.question
    sides = [("base", pair.base), ("tuned", pair.tuned)]
    left, right = reversed(sides) if swap else sides
    input_html = field(phrase("compare-input"), _text(q.input)) if q.input.strip() else ""
    reference = (
        f'<details class="reference"><summary>{html_of(phrase("compare-reference"))}</summary>{_text(q.reference)}'
        "</details>"
        if q.reference.strip()
        else ""
    )
    answers = "".join(
        _side(letter, *side, other.text, most) for letter, side, (_, other) in (("A", left, right), ("B", right, left))
    )
    return (
        f'<article class="row" data-id="{escape(q.id)}" data-set="{escape(q.set)}" data-category="{escape(q.category)}"'
        f' data-left="{left[0]}"><p class="meta">{escape(q.category)} · {escape(q.set)} · {escape(q.id)}</p>'
        f'<div class="question">{_text(q.instruction)}{input_html}</div>'
        f'<div class="two answers">{answers}</div>'
        f'<p class="soft hint">{html_of(phrase("compare-hidden"))}</p>{reference}'
        f'<div class="votes" role="group"{attribute("aria-label", phrase("compare-vote"))} hidden>'
        f'<button type="button" data-vote="left"><kbd>A</kbd> {html_of(phrase("compare-better"))}</button>'
        f'<button type="button" data-vote="tie"><kbd>T</kbd> {html_of(phrase("compare-tie"))}</button>'
        f'<button type="button" data-vote="right"><kbd>B</kbd> {html_of(phrase("compare-better"))}</button>'
        f'<button type="button" class="reveal" aria-pressed="false"><kbd>R</kbd> {html_of(phrase("compare-which"))}'
        "</button></div></article>"
    )


def _side(letter: str, who: str, answer: ModelAnswer, other: str, most: int) -> str:
    """An answer. What tells that it did not stop, the rest of its text and a badge, is hidden until the vote."""
    text = answer.text.strip()
    shown, cut = f'<p class="t soft">{html_of(phrase("compare-empty"))}</p>', ""
    if text:
        end = len(text) if answer.stopped else shown_before_the_vote(text, other.strip())
        rest = f'<span class="rest">{escape(text[end:])}</span>' if end < len(text) else ""
        shown = text_block(f"{escape(text[:end])}{rest}", _language(text))
    if not answer.stopped:
        cut = f'<p class="cut">{html_of(phrase("compare-cut", most=most))}</p>'
    label = attribute("aria-label", phrase("compare-answer", letter=letter))
    return (
        f'<section class="side"{label}><h3>{letter}<span class="who" hidden>{html_of(labelled(who))}</span></h3>'
        f"{shown}{cut}</section>"
    )


def _text(text: str) -> str:
    return text_block(escape(text), _language(text))


def _language(text: str) -> str:
    return "ko" if language_of(text) == "ko" else ""


def _tally() -> str:
    columns = "".join(
        f'<th scope="col" class="n">{html_of(phrase(f"tally-{name}"))}</th>'
        for name in ("votes", "tuned", "tie", "base", "wins", "interval")
    )
    return (
        f'<details id="tally" hidden><summary>{html_of(phrase("tally"))} <span class="soft">'
        f'{html_of(phrase("tally-tells"))}</span></summary><div class="scroll" tabindex="0"><table><thead><tr>'
        f"<td></td>{columns}</tr></thead><tbody></tbody></table></div>"
        f'<p class="soft">{html_of(phrase("tally-note"))}</p></details>'
        f'<div class="keep" hidden><button type="button" id="export">{html_of(phrase("votes-download"))}</button>'
        f'<button type="button" id="clear">{html_of(phrase("votes-forget"))}</button>'
        f'<p class="soft" id="where">{html_of(phrase("votes-where"))}</p></div>'
    )
