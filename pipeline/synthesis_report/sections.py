"""The sections of the page as HTML. Where there is nothing for a section, one line says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.data_report.sunburst import sunburst
from pipeline.data_report.verb_charts import COVERED, covered, numbers_of
from pipeline.dataset.generated import money
from pipeline.pages.drawing import NARROW, Drawing, svg
from pipeline.pages.figure import Figure, Rows, number, table
from pipeline.pages.phrases import Phrase, html_of, joined, labelled, phrase
from pipeline.pages.rows import article, field, fields, pager, row_box, text_block
from pipeline.pages.text import difference
from pipeline.synthesis_report import charts
from pipeline.synthesis_report.samples import Sample
from pipeline.synthesis_report.verdict import verdict


class Sections:
    """Makes the sections from report.json and the sampled rows."""

    def __init__(self, report: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        self.report, self.shown = report, samples
        self.language = str(report["provenance"]["language"])

    def all(self) -> dict[str, str]:
        """HTML by title, in order."""
        made = {
            "overview": self.overview(), "yield": self.kept(), "novelty": self.novelty(), "verbs": self.verbs(),
            "alike": self.alike(), "samples": self.samples(), "spending": self.spending(),
            "provenance": self.provenance(),
        }  # fmt: skip
        return {phrase(f"section-{name}"): html for name, html in made.items()}

    def overview(self) -> str:
        """The verdict and the numbers at the top."""
        report, spend = self.report, self.report["spend"]
        state, sentence = verdict(report)
        tokens = spend["prompt_tokens"] + spend["completion_tokens"]
        values = [
            (f"{report['rows']:,}", phrase("gen-tile-rows", wanted=f"{report['wanted']:,}")),
            (f"{report['yield'] or 0:.0%}", phrase("gen-tile-yield", drafts=f"{report['drafts']:,}")),
            (f"{spend['replies']:,}", phrase("gen-tile-replies")),
            (f"{tokens:,}", phrase("gen-tile-tokens")),
        ]
        if spend["cost"] is not None:
            values.append((money(spend["cost"], spend["currency"]), phrase("gen-tile-cost")))
        tiles = "".join(f"<div><b>{html_of(value)}</b>{html_of(label)}</div>" for value, label in values)
        warnings = [phrase("gen-no-price")] if spend["cost"] is None and spend["replies"] else []
        warnings += [phrase("gen-lost", n=f"{report['lost']:,}")] if report["lost"] else []
        alarm = "".join(f"<li>{html_of(text)}</li>" for text in warnings)
        alarm = f'<ul class="warnings">{alarm}</ul>' if alarm else ""
        return (
            f'<p class="verdict {state}">{html_of(sentence)}</p><p>{html_of(phrase("gen-unchecked"))}</p>'
            f'<div class="tiles">{tiles}</div>{alarm}'
        )

    def kept(self) -> str:
        """Drafts kept, and rejected by rule; lengths."""
        report = self.report
        if not report["drafts"]:
            return f"<p>{html_of(phrase('gen-no-drafts'))}</p>"
        rows = [(phrase("word-kept"), f"{report['rows']:,}", f"{report['rows'] / report['drafts']:.1%}")]
        rows += [(rule, f"{n:,}", f"{n / report['drafts']:.1%}") for rule, n in report["rejected"].items()]
        head = (phrase("gen-head-rule"), number(phrase("gen-axis-drafts")), number(phrase("head-share")))
        html = _figure(partial(charts.kept_and_rejected, report), phrase("gen-yield-note"), head, rows)
        return html + self._lengths()

    def _lengths(self) -> str:
        measured = self.report["lengths"]
        if not measured:
            return ""
        rows = [
            (labelled(name), f"{of['rows']:,}", *(f"{of[key]:,}" for key in ("p5", "p50", "p95", "longest")))
            for name, of in measured.items()
        ]
        columns = [number(phrase("word-rows")), number("5 %"), number("50 %"), number("95 %")]
        head = ("", *columns, number(phrase("longest")))
        return f"<h3>{html_of(phrase('gen-lengths'))}</h3>{table(head, rows)}"

    def novelty(self) -> str:
        """Whether new work still gives new rows, and how alike the rows are."""
        novelty = self.report["novelty"]
        if not novelty["similarity"]:
            return f"<p>{html_of(phrase('gen-no-novelty'))}</p>"
        html = _figure(partial(charts.growth, self.report), phrase("gen-growth-note"))
        return html + _figure(partial(charts.similarity, self.report), phrase("gen-similar-note"))

    def verbs(self) -> str:
        """What the instructions ask for, of seeds and rows."""
        counted = self.report["verbs"]
        if counted.get("missing"):
            return f"<p>{html_of(phrase('gen-verbs-missing', why=counted['missing']))}</p>"
        rows = counted.get("rows")
        if not rows or not rows["verbs"]:
            return f"<p>{html_of(phrase('gen-verbs-none'))}</p>"
        html = _figure(partial(charts.verbs, counted), self._counted(counted), *numbers_of(rows))
        return html + f'<div class="two">{self._ring("seeds")}{self._ring("rows")}</div>'

    def _counted(self, counted: Mapping[str, Any]) -> Phrase:
        """How many instructions were parsed, and how many have a verb with a noun."""
        parts = []
        for name in ("rows", "seeds"):
            if entry := counted.get(name):
                values = {"n": f"{entry['with_object']:,}", "parsed": f"{entry['parsed']:,}"}
                parts.append(phrase(f"gen-verbs-{name}", **values))
        return joined(parts)

    def _ring(self, name: str) -> str:
        """A sunburst at the width of half the page, or why there is none."""
        entry = self.report["verbs"].get(name)
        title = phrase(f"gen-ring-{name}")
        if not entry or not entry["verbs"] or covered(entry) < COVERED:
            why = phrase("gen-ring-none") if not entry else phrase("gen-ring-few")
            return f"<div><h3>{html_of(title)}</h3><p class=soft>{html_of(why)}</p></div>"
        drawn = sunburst(entry, NARROW, f"sunburst-{name}", title, "", self.language)
        caption = f"<figcaption><h3>{html_of(title)}</h3></figcaption>"
        return f'<figure class="chart ring" id="chart-{drawn.name}">{caption}{svg(drawn, "pair")}</figure>'

    def alike(self) -> str:
        """The most similar pairs of a kept row and an earlier one or a seed."""
        pairs = self.report["novelty"]["pairs"]
        if not pairs:
            return f"<p>{html_of(phrase('gen-no-novelty'))}</p>"
        articles = (article({}, _pair(pair)) for pair in pairs)
        return f"<p>{html_of(phrase('gen-alike-note'))}</p>{pager('alike', articles, {})}"

    def samples(self) -> str:
        """Kept rows and rejected drafts to read."""
        if not self.shown:
            return f"<p>{html_of(phrase('gen-no-drafts'))}</p>"
        rules = list(dict.fromkeys(_state(sample) for sample in self.shown))
        articles = (article({"rule": _state(sample)}, self._sample(sample)) for sample in self.shown)
        return f"<p>{html_of(phrase('gen-samples-note'))}</p>{pager('rows', articles, {'rule': rules})}"

    def _sample(self, sample: Sample) -> str:
        place = f"{'rejected' if sample.rule else 'rows'}.jsonl:{sample.number}"
        meta = [_state(sample), place, sample.task, sample.model, sample.time.replace("T", " ")]
        language = self.language if self.language in ("en", "ko") else ""
        texts: dict[str, str] = {
            labelled(name) if name != "raw" else phrase("gen-raw"): text for name, text in sample.texts.items()
        }
        return row_box(meta, sample.reason, fields(texts, language=language))

    def spending(self) -> str:
        """Replies, tokens and cost by purpose of the request."""
        spend = self.report["spend"]
        currency = str(spend["currency"])
        groups = [*spend["by_purpose"].items(), (phrase("gen-total"), spend)]
        rows = [
            (name, *(f"{of[key]:,}" for key in ("replies", "prompt_tokens", "completion_tokens")),
             phrase("gen-unknown") if of["cost"] is None else money(of["cost"], currency))
            for name, of in groups
        ]  # fmt: skip
        columns = ("replies", "prompt", "completion", "cost")
        head = (phrase("gen-head-purpose"), *(number(phrase(f"gen-head-{key}")) for key in columns))
        return f"<p>{html_of(phrase('gen-spending-note'))}</p>{table(head, rows)}"

    def provenance(self) -> str:
        """Who made the rows, of what, when and under which terms."""
        found = self.report["provenance"]
        rows: list[tuple[str, str]] = [(phrase("gen-method"), found["method"]), (phrase("gen-language"), self.language)]
        for model in found["models"]:
            role = phrase(f"gen-{model['role']}")
            rows.append((role, f"{model['model']} ({model['kind']}: {model['place']})"))
            if model["terms"]:
                rows.append((phrase("gen-terms"), model["terms"]))
        if found["first"]:
            first, last = (found[key][:16].replace("T", " ") for key in ("first", "last"))
            rows.append((phrase("gen-when"), f"{first} – {last} UTC"))
        rows += [(phrase("gen-prompts"), ", ".join(found["prompts"]))] if found["prompts"] else []
        rows += [(path, digest) for path, digest in found["files"].items()]
        return table(("", ""), rows) + f"<p class=soft>{html_of(phrase('gen-provenance-note'))}</p>"


def _figure(draw: Callable[[float], Drawing], note: str, head: Sequence[str] = (), rows: Rows = ()) -> str:
    return Figure(draw, note, head, rows).html()


def _state(sample: Sample) -> str:
    return sample.rule or phrase("word-kept")


def _pair(pair: Mapping[str, Any]) -> str:
    """Two instructions side by side, with what differs marked."""
    before, after = difference(pair["other_text"], pair["text"])
    other = phrase("gen-pair-seed" if pair["is_seed"] else "gen-pair-row", n=f"{pair['other']:,}")
    left = field(other, text_block(before))
    right = field(phrase("gen-pair-row", n=f"{pair['row']:,}"), text_block(after))
    return row_box([phrase("gen-f", value=f"{pair['f']:.2f}")], "", f'<div class="two">{left}{right}</div>')
