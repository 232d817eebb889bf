"""What a datasheet says of generated rows: teacher, terms, method, prompts, dates, tokens and cost.

`generate` writes it into report.json of its folder; the data stage reads it there for sources that are such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.read.source import kind_of, located
from pipeline.run.files import read_json
from pipeline.run.markdown import code, plain

REPORT = "report.json"


def reports(sources: Sequence[Source]) -> dict[str, Mapping[str, Any]]:
    """The reports of the sources that `generate` wrote, by path; a folder without a readable one is left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for source in sources:
        if kind_of(source) == "generated":
            report = read_json(located(source.path) / REPORT)
            if isinstance(report, dict) and isinstance(report.get("provenance"), dict):
                found[source.path] = report
    return found


def lines(report: Mapping[str, Any]) -> list[str]:
    """The facts as Markdown list items."""
    provenance: Mapping[str, Any] = report["provenance"]
    items = [f"**Method.** {plain(provenance.get('method', ''))}, language {code(provenance.get('language', ''))}."]
    for model in provenance.get("models", ()):
        name = code(model.get("model", ""))
        if model.get("asked_for") != model.get("model"):
            name += f" (asked for as {code(model.get('asked_for', ''))})"
        role = plain(str(model.get("role", "")).capitalize())
        items.append(f"**{role}.** {name} at {plain(model.get('place', ''))}, by {plain(model.get('kind', ''))}.")
        if model.get("terms"):
            items.append(f"**Terms**, as the config states them: {plain(model['terms'])}")
    items.append(f"**When.** {_span(provenance)}")
    items.append(f"**Spent.** {spent(report.get('spend') or {})}")
    if prompts := provenance.get("prompts"):
        items.append(f"**Prompts**, as hashes: {', '.join(code(p) for p in prompts)}.")
    if files := provenance.get("files"):
        items.append(f"**Made from** {', '.join(f'{code(path)} ({code(digest)})' for path, digest in files.items())}.")
    return [f"- {item}" for item in items]


def spent(spend: Mapping[str, Any]) -> str:
    """Replies, tokens and cost in one sentence; an unknown cost is called so."""
    replies, prompt, completion = (int(spend.get(k) or 0) for k in ("replies", "prompt_tokens", "completion_tokens"))
    text = f"{replies:,} replies, {prompt:,} tokens of prompts and {completion:,} of replies"
    cost, unpriced = spend.get("cost"), int(spend.get("unpriced") or 0)
    if cost is None:
        return f"{text}; the cost is not known, since no price was set."
    more = f" and {unpriced:,} replies without a price" if unpriced else ""
    return f"{text}; {money(float(cost), str(spend.get('currency', '')))}{more}."


def money(amount: float, currency: str) -> str:
    """Such as `1.25 USD` or `0.00031 USD`: two decimals, or two digits of a small amount."""
    if amount and amount < 0.1:
        return f"{amount:.2g} {currency}" if amount >= 1e-4 else f"{amount:.1e} {currency}"
    return f"{amount:,.2f} {currency}"


def _span(provenance: Mapping[str, Any]) -> str:
    first, last = (str(provenance.get(key, ""))[:10] for key in ("first", "last"))
    if not first:
        return "not noted."
    return f"{first}." if first == last else f"{first} to {last}."
