"""The sections of the data report as HTML. Where a run has no data for a section, one line says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.data_report import charts, exhibits, findings, length_charts, verb_charts
from pipeline.data_report.charts import word
from pipeline.data_report.numbers import ReportData, share, totals
from pipeline.dataset.datasheet import LANGUAGES as NAMES
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.summary import label_of
from pipeline.pages.drawing import Drawing
from pipeline.pages.figure import Figure, Rows, number, table
from pipeline.pages.phrases import Phrase, html_of, joined, labelled, phrase
from pipeline.pages.rows import pager


class Sections:
    """Makes the sections. drawings: those on them, for the PNG files."""

    def __init__(self, data: ReportData, verbs: Mapping[str, Mapping[str, Any]]) -> None:
        self.data, self.numbers, self.parsed = data, data.numbers, verbs
        self.drawings: list[Drawing] = []

    def all(self) -> dict[str, str]:
        """HTML by title, in order."""
        made = {
            "overview": self.overview(), "sources": self.sources(), "lengths": self.lengths(), "rules": self.rules(),
            "duplicates": self.duplicates(), "benchmarks": self.benchmarks(), "contents": self.contents(),
            "verbs": self.verbs(), "samples": self.samples(),
        }  # fmt: skip
        return {phrase(f"section-{name}"): html for name, html in made.items()}

    def _figure(
        self, draw: Callable[[float], Drawing], note: str = "", head: Sequence[str] = (), rows: Rows = ()
    ) -> str:
        figure = Figure(draw, note, head, rows)
        self.drawings.append(figure.drawing)
        return figure.html()

    def overview(self) -> str:
        n = self.numbers
        values = {"read": n["read"], "kept": n["kept"], "rejected": n["rejected"] - n["left_out"]}
        values |= {"left-out": n["left_out"]} if n["left_out"] else {}
        values |= {"fixed": totals(n["rules"])["fixed"], "train": n["train"], "val": n["val"]}
        values |= {"holdout": n["holdout"]} if n["holdout"] else {}
        values |= {"with-loss": n["lengths"]["answer"]["sum"]} if n["lengths"]["unit"] == "tokens" else {}
        tiles = "".join(
            f'<div class="tile-{key}"><b>{value:,}</b>{html_of(phrase(f"tile-{key}"))}</div>'
            for key, value in values.items()
        )
        counts = {key.replace("-", "_"): f"{value:,}" for key, value in values.items()}
        sum_text = phrase("sum-left" if n["left_out"] else "sum", **counts)
        if n["read"] != n["kept"] + n["rejected"]:
            sum_text = joined([phrase("sum-wrong"), sum_text])
        repeats = phrase("repeats", lines=f"{n['train'] + n['repeats']:,}") if n["repeats"] > 0 else ""
        if not n["read"]:
            return f'<div class="tiles">{tiles}</div><p>{html_of(phrase("no-row-read"))}</p>'
        kinds = {"total": phrase("kind-total"), "minus": phrase("kind-minus"), "part": phrase("kind-part")}
        rows = [(flow_name(s), kinds[s["kind"]], f"{s['rows']:,}", share(s["rows"], n["read"])) for s in n["flow"]]
        head = (phrase("head-step"), phrase("head-kind"), number(word("rows")), number(phrase("head-of-read")))
        chart = self._figure(partial(charts.flow, n), joined([sum_text, repeats]), head, rows)
        return f'<div class="tiles">{tiles}</div>{chart}'

    def sources(self) -> str:
        n = self.numbers
        if not n["sources"]:
            return f"<p>{html_of(phrase('no-sources'))}</p>"
        columns = ("read", "rejected", "left-out", "train", "val", "holdout")
        head = (word("source"), word("form"), *(number(word(key)) for key in columns), word("languages"))
        rows: list[tuple[str, ...]] = []
        for s in n["sources"]:
            forms = ", ".join(s.get("forms") or ())
            spoken = joined((joined([language_name(k), f"{v:,}"]) for k, v in (s.get("languages") or {}).items()), ", ")
            left = s.get("left_out", 0)
            numbers = (s["read"], s["rejected"] - left, left, *(s.get(k, 0) for k in ("train", "val", "holdout")))
            rows.append((label_of(s), forms, *(f"{x:,}" for x in numbers), spoken))
        html = self._figure(partial(charts.sources, n), "", head, rows)
        if len(n["mix"]) > 1:
            rows = [
                (m["source"], f"{m['available']:,}", f"{m['taken']:,}", str(m["repeat"]), f"{m['share']:.1%}")
                for m in n["mix"]
            ]
            shares = ("available", "taken", "times", "share")
            head = (word("source"), *(number(phrase(f"head-{key}")) for key in shares))
            html += self._figure(partial(charts.mix, n), phrase("note-mix"), head, rows)
        return html

    def lengths(self) -> str:
        n = self.numbers["lengths"]
        unit, cutoff = word(n["unit"]), n["cutoff"]
        if not n["row"]["rows"]:
            return f"<p>{html_of(phrase('nothing-to-measure'))}</p>"
        if n["unit"] == "tokens":
            notes = [phrase("note-cutoff", n=f"{cutoff:,}")]
            notes += [phrase(f"note-{key}", n=f"{n[key]:,}") for key in ("cut", "too_long") if n[key]]
            notes += [phrase("note-none-longer")] if not n["cut"] + n["too_long"] else []
            answer = [phrase("note-answer")]
            answer += [phrase("note-no-loss", n=f"{n['no_loss']:,}")] if n["no_loss"] else []
        else:
            notes, answer = [phrase("note-characters")], [phrase("in-characters")]
        html = ""
        for key, lines in (("row", notes), ("answer", answer)):
            title = findings.lengths(key, n[key], unit)
            draw = partial(length_charts.histogram, n[key], n["unit"], f"lengths-{key}", title,
                           cutoff if key == "row" else None)  # fmt: skip
            html += self._figure(draw, joined(lines), ("", number(unit)), _quantiles(n[key]))
        percent = (number(f"{q} %") for q in (5, 25, 50, 75, 95))
        head = (word("split"), word("source"), number(word("rows")), *percent, number(phrase("head-answer-median")))
        rows = [
            (word(g["part"]), g["source"], f"{g['rows']:,}", *(f"{v:g}" for v in g["row"].values()),
             f"{g['answer']['p50']:g}")
            for g in n["groups"]
        ]  # fmt: skip
        draw_groups = partial(length_charts.length_groups, self.numbers)
        return html + self._figure(draw_groups, phrase("note-length-groups"), head, rows)

    def rules(self) -> str:
        rules = [r for r in self.numbers["rules"] if any(r.get(a) for a in exhibits.ACTIONS)]
        if not rules:
            return f"<p>{html_of(phrase('no-rule-acted'))}</p>"
        head = (word("rule"), *(number(word(a)) for a in ("rejected", "left-out", "fixed", "flagged")))
        rows = []
        for rule in rules:
            gone = f"{int(rule.get('rejected') or 0):,}"
            first = ("0", gone) if rule["rule"] in LEFT_OUT else (gone, "0")
            rows.append((rule["rule"], *first, *(f"{int(rule.get(a) or 0):,}" for a in ("fixed", "flagged"))))
        chart = self._figure(partial(charts.rules, self.numbers), phrase("note-rules"), head, rows)
        return chart + exhibits.rules(rules)

    def duplicates(self) -> str:
        duplicates = self.numbers["duplicates"]
        if not duplicates.get("sizes"):
            return f"<p>{html_of(phrase('no-duplicates'))}</p>"
        wanted = duplicates.get("thresholds") or {}
        notes = [phrase("note-exact", n=f"{duplicates.get('exact', 0):,}")]
        if wanted.get("near"):
            notes.append(phrase("note-near", limit=f"{wanted['near']:.0%}", n=f"{duplicates.get('near', 0):,}"))
        if wanted.get("novelty"):
            n = f"{duplicates.get('novelty', 0):,}"
            notes.append(phrase("note-novelty", limit=f"{wanted['novelty']:g}", n=n))
        rows = [(s["size"], f"{s['groups']:,}") for s in duplicates["sizes"]]
        draw, head = partial(charts.groups_of_duplicates, self.numbers), (word("rows"), number(word("groups")))
        chart = self._figure(draw, joined([*notes, phrase("note-first-stays")]), head, rows)
        shown = [exhibits.cluster(cluster) for cluster in self.data.clusters]
        kinds = sorted({str(row.get("kind")) for cluster in self.data.clusters for row in cluster.get("rows", ())})
        return chart + _lead("groups") + pager("groups", shown, {"kind": [labelled(kind) for kind in kinds]})

    def benchmarks(self) -> str:
        contamination = self.numbers["contamination"]
        table = contamination.get("table") or {}
        if not table:
            return f"<p>{html_of(phrase('no-benchmarks'))}</p>"
        known = ("questions", "checkable")
        sizes = {str(b.get("name")): b for b in contamination.get("benchmarks") or ()}
        columns = (number(source) for source in next(iter(table.values())))
        head = (word("benchmark"), *(number(phrase(f"head-{key}")) for key in known), *columns)
        rows = [
            (
                name,
                *(f"{int(sizes.get(name, {}).get(k) or 0):,}" for k in known),
                *(f"{int(n):,}" for n in row.values()),
            )
            for name, row in table.items()
        ]
        chart = self._figure(partial(charts.contamination, self.numbers), phrase("note-contamination"), head, rows)
        examples = contamination.get("examples") or ()
        if not examples:
            return chart
        names = {key: sorted({str(e.get(key)) for e in examples}) for key in ("benchmark", "source")}
        return chart + _lead("hits") + pager("hits", (exhibits.hit(e) for e in examples), names)

    def contents(self) -> str:
        n = self.numbers
        if not n["kept"]:
            return f"<p>{html_of(phrase('no-row-kept'))}</p>"
        languages = {language_name(key): value for key, value in n["languages"].items()}
        tasks = {key or word("no-task"): value for key, value in n["tasks"].items()}
        html = self._counts(languages, "languages", phrase("note-languages"))
        kinds = len([key for key in n["tasks"] if key])
        if kinds:
            html += self._counts(tasks, "tasks", phrase("note-tasks", n=f"{kinds:,}"))
        else:
            html += f"<p>{html_of(phrase('no-tasks'))}</p>"
        if n["groups"]:
            html += self._counts(n["groups"], "task-groups", phrase("note-task-groups"))
        with_input = phrase("with-input", n=f"{n['with_input']:,}", share=share(n["with_input"], n["kept"]))
        return f"<p>{html_of(with_input)}</p>{self._conversations()}{html}"

    def _conversations(self) -> str:
        """How many turns rows have, if conversations stay whole."""
        c = self.numbers.get("conversations")
        if not c:
            return ""
        values = {name: f"{c[name]:,}" for name in ("rows", "several", "turns", "answers", "learnt")}
        values |= {name: f"{c[name]:,}" for name in ("with_system", "with_tools")}
        text = phrase("conversations", **values, share=share(c["learnt"], c["turns"]))
        head = (phrase("head-turns"), number(word("rows")), number(phrase("head-share")))
        rows = [(name, f"{n:,}", share(n, c["rows"])) for name, n in c["by_turns"].items()]
        return f"<p>{html_of(text)}</p>{table(head, rows)}"

    def _counts(self, counts: Mapping[str, int], name: str, note: str) -> str:
        if not any(counts.values()):
            return ""
        rows = [(label, f"{n:,}", share(n, sum(counts.values()))) for label, n in list(counts.items())[:500]]
        title = findings.most_common(name, counts)
        head = (word(name), number(word("rows")), number(phrase("head-share")))
        return self._figure(lambda width: charts.counts(counts, width, name, title), note, head, rows)

    def verbs(self) -> str:
        if not self.parsed:
            return f"<p>{html_of(phrase('no-row-to-parse'))}</p>"
        return "".join(verb_charts.html(self._figure, language, entry) for language, entry in self.parsed.items())

    def samples(self) -> str:
        samples, unit = self.data.samples, word(self.numbers["lengths"]["unit"])
        if not samples:
            return f"<p>{html_of(phrase('no-row-to-show'))}</p>"
        filters: dict[str, Sequence[str]] = {
            key: list(dict.fromkeys(sorted(value for sample in samples for value in _values(sample, key))))
            for key in ("split", "source", "language", "rule")
        }
        filters["split"] = [Phrase(key, word(key).korean) for key in filters["split"]]
        lead = f"<p>{html_of(phrase('note-samples', n=f'{len(samples):,}'))}</p>"
        return lead + pager("rows", (exhibits.sample(s, unit) for s in samples), filters)


def language_name(code: str) -> str:
    """The name of a language where the page knows it, else its code."""
    return labelled(NAMES[code]) if code in NAMES else code


def flow_name(step: Mapping[str, Any]) -> str:
    """The name of a step of the flow: a rule's own, or the page's word."""
    return step["name"] if step["kind"] == "minus" else word(step["name"])


def _lead(name: str) -> str:
    return f"<h3>{html_of(phrase(f'lead-{name}'))}</h3><p class=soft>{html_of(phrase(f'lead-{name}-note'))}</p>"


def _values(sample: Any, key: str) -> list[str]:
    return list(sample.rules) if key == "rule" else [getattr(sample, key)]


def _quantiles(lengths: Mapping[str, Any]) -> list[tuple[str, str]]:
    q = lengths["quantiles"]
    lines: list[tuple[str, str]] = [(phrase("quantile", q=key[1:]), f"{value:g}") for key, value in q.items()]
    return [*lines, (phrase("longest"), f"{lengths['longest']:,}"), (phrase("altogether"), f"{lengths['sum']:,}")]
