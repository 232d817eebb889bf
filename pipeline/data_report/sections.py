"""The sections of the data report as HTML. Where a run has no data for a section, one line says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.data_report import charts, exhibits, length_charts
from pipeline.data_report.numbers import ReportData, share, totals
from pipeline.data_report.sunburst import sunburst
from pipeline.data_report.verbs import LANGUAGES
from pipeline.dataset.datasheet import LANGUAGES as NAMES
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.summary import label_of
from pipeline.pages.drawing import Drawing
from pipeline.pages.figure import Figure, Rows
from pipeline.pages.rows import pager
from pipeline.pages.text import escape

NO_TASK = "(none named)"


class Sections:
    """Makes the sections. drawings: those on them, for the PNG files."""

    def __init__(self, data: ReportData, verbs: Mapping[str, Mapping[str, Any]]) -> None:
        self.data, self.numbers, self.parsed = data, data.numbers, verbs
        self.drawings: list[Drawing] = []

    def all(self) -> dict[str, str]:
        """HTML by title, in order."""
        return {
            "Overview": self.overview(), "Sources": self.sources(), "Lengths": self.lengths(), "Rules": self.rules(),
            "Duplicates": self.duplicates(), "Benchmarks": self.benchmarks(), "Contents": self.contents(),
            "Verbs": self.verbs(), "Samples": self.samples(),
        }  # fmt: skip

    def _figure(
        self, draw: Callable[[float], Drawing], note: str = "", head: Sequence[str] = (), rows: Rows = ()
    ) -> str:
        figure = Figure(draw, note, head, rows)
        self.drawings.append(figure.drawing)
        return figure.html()

    def overview(self) -> str:
        n = self.numbers
        totals_ = totals(n["rules"])
        tiles = [(n["read"], "rows read"), (n["kept"], "kept"), (n["rejected"] - n["left_out"], "rejected")]
        tiles += [(n["left_out"], "left out")] if n["left_out"] else []
        tiles += [(totals_["fixed"], "fixes")]
        tiles += [(n["train"], "to train on"), (n["val"], "held out")]
        if n["holdout"]:
            tiles.append((n["holdout"], "of held-out tasks"))
        if n["lengths"]["unit"] == "tokens":
            tiles.append((n["lengths"]["answer"]["sum"], "tokens carry loss"))
        shown = "".join(f"<div><b>{value:,}</b><span>{label}</span></div>" for value, label in tiles)
        left = f" + {n['left_out']:,} left out by limits, without a fault" if n["left_out"] else ""
        repeats = f" With repeats, train.jsonl has {n['train'] + n['repeats']:,} lines." if n["repeats"] > 0 else ""
        adds = n["read"] == n["kept"] + n["rejected"]
        sum_text = f"{n['read']:,} read = {n['kept']:,} kept + {n['rejected'] - n['left_out']:,} rejected{left}."
        note = (sum_text if adds else f"The counts do not add up: {sum_text}") + repeats
        if not n["read"]:
            return f'<div class="tiles">{shown}</div><p>No row was read.</p>'
        rows = [(s["name"], s["kind"], f"{s['rows']:,}", share(s["rows"], n["read"])) for s in n["flow"]]
        table = ("step", "kind", "#rows", "#of those read")
        return f'<div class="tiles">{shown}</div>{self._figure(partial(charts.flow, n), note, table, rows)}'

    def sources(self) -> str:
        n = self.numbers
        if not n["sources"]:
            return "<p>The report of the data stage names no source.</p>"
        head: Sequence[str] = (
            "source",
            "form",
            "#read",
            "#rejected",
            "#left out",
            "#train",
            "#val",
            "#held-out tasks",
            "languages",
        )
        rows: list[tuple[str, ...]] = []
        for s in n["sources"]:
            forms = ", ".join(s.get("forms") or ())
            spoken = ", ".join(f"{NAMES.get(k, k)} {v:,}" for k, v in (s.get("languages") or {}).items())
            left = s.get("left_out", 0)
            numbers = (s["read"], s["rejected"] - left, left, *(s.get(k, 0) for k in ("train", "val", "holdout")))
            rows.append((label_of(s), forms, *(f"{x:,}" for x in numbers), spoken))
        html = self._figure(partial(charts.sources, n), "", head, rows)
        if len(n["mix"]) > 1:
            rows = [
                (m["source"], f"{m['available']:,}", f"{m['taken']:,}", str(m["repeat"]), f"{m['share']:.1%}")
                for m in n["mix"]
            ]
            head = ("source", "#available", "#taken", "#times each", "#share")
            html += self._figure(partial(charts.mix, n), "Repeats counted.", head, rows)
        return html

    def lengths(self) -> str:
        n = self.numbers["lengths"]
        unit, cutoff = n["unit"], n["cutoff"]
        if not n["row"]["rows"]:
            return "<p>No row was kept, so there is nothing to measure.</p>"
        if unit == "tokens":
            notes = [f"Prompt, answer and end token together, at most {cutoff:,} (prompt.cutoff)."]
            notes += [f"{n['cut']:,} longer rows were cut there."] if n["cut"] else []
            notes += [f"{n['too_long']:,} longer rows were left out and are not shown."] if n["too_long"] else []
            notes += ["No row was longer."] if not n["cut"] + n["too_long"] else []
            answer = "Only tokens that carry loss."
            answer += f" In {n['no_loss']:,} rows there are none." if n["no_loss"] else ""
        else:
            notes = ["In characters, since nothing was tokenised: name a base model or a tokenizer to see tokens."]
            answer = "In characters."
        titles = {"row": "Length of whole rows", "answer": "Length of answers"}
        html = ""
        for key, note in (("row", " ".join(notes)), ("answer", answer)):
            draw = partial(
                length_charts.histogram, n[key], unit, f"lengths-{key}", titles[key], cutoff if key == "row" else None
            )
            html += self._figure(draw, note, ("", f"#{unit}"), _quantiles(n[key]))
        head = ("split", "source", "#rows", *(f"#{q} %" for q in (5, 25, 50, 75, 95)), "#answer, median")
        rows = [
            (
                g["part"],
                g["source"],
                f"{g['rows']:,}",
                *(f"{v:g}" for v in g["row"].values()),
                f"{g['answer']['p50']:g}",
            )
            for g in n["groups"]
        ]
        note = "Bar: the middle half of the rows, with the median. Line: the middle 90 %."
        return html + self._figure(partial(length_charts.length_groups, self.numbers), note, head, rows)

    def rules(self) -> str:
        rules = [r for r in self.numbers["rules"] if any(r.get(a) for a in exhibits.ACTIONS)]
        if not rules:
            return "<p>No rule found anything, or none was on.</p>"
        head = ("rule", "#rejected", "#fixed", "#flagged")
        left = {r["rule"]: " (left out)" for r in rules if r["rule"] in LEFT_OUT}
        counts = ((f"{int(r.get(a) or 0):,}" for a in exhibits.ACTIONS) for r in rules)
        rows = [(r["rule"] + left.get(r["rule"], ""), *numbers) for r, numbers in zip(rules, counts, strict=True)]
        note = "Click a rule to see what it did. A flagged row stays as it is."
        return self._figure(partial(charts.rules, self.numbers), note, head, rows) + exhibits.rules(rules)

    def duplicates(self) -> str:
        duplicates = self.numbers["duplicates"]
        if not duplicates.get("sizes"):
            return "<p>No duplicates were found, or none were looked for.</p>"
        wanted = duplicates.get("thresholds") or {}
        notes = [f"Equal to an earlier row but for letter case and white space: {duplicates.get('exact', 0):,} rows."]
        if wanted.get("near"):
            notes.append(
                f"Sharing {wanted['near']:.0%} or more of their shingles with one: {duplicates.get('near', 0):,}."
            )
        if wanted.get("novelty"):
            limit = f"{wanted['novelty']:g}"
            notes.append(f"Instruction too close to one, ROUGE-L above {limit}: {duplicates.get('novelty', 0):,}.")
        notes.append("The first row of each group stays.")
        rows = [(s["size"], f"{s['groups']:,}") for s in duplicates["sizes"]]
        chart = self._figure(
            partial(charts.groups_of_duplicates, self.numbers), " ".join(notes), ("rows", "#groups"), rows
        )
        shown = [exhibits.cluster(cluster) for cluster in self.data.clusters]
        kinds = sorted({str(row.get("kind")) for cluster in self.data.clusters for row in cluster.get("rows", ())})
        lead = (
            "<h3>Groups</h3><p class=soft>The largest first, then some drawn by content hash. What differs from the "
            "kept row is marked.</p>"
        )
        return chart + lead + pager("groups", shown, {"kind": kinds})

    def benchmarks(self) -> str:
        contamination = self.numbers["contamination"]
        table = contamination.get("table") or {}
        if not table:
            return "<p>No benchmark was named (data.benchmarks), so no row was compared with test questions.</p>"
        known = ("questions", "checkable")
        sizes = {str(b.get("name")): b for b in contamination.get("benchmarks") or ()}
        head = (
            "benchmark",
            "#questions",
            "#long enough to look for",
            *(f"#{source}" for source in next(iter(table.values()))),
        )
        rows = [
            (
                name,
                *(f"{int(sizes.get(name, {}).get(k) or 0):,}" for k in known),
                *(f"{int(n):,}" for n in row.values()),
            )
            for name, row in table.items()
        ]
        note = "Rows rejected because they hold a question of a benchmark."
        chart = self._figure(partial(charts.contamination, self.numbers), note, head, rows)
        examples = contamination.get("examples") or ()
        if not examples:
            return f"{chart}<p>None was found.</p>"
        names = {key: sorted({str(e.get(key)) for e in examples}) for key in ("benchmark", "source")}
        lead = "<h3>The questions and the rows</h3><p class=soft>What both share is marked.</p>"
        return chart + lead + pager("hits", (exhibits.hit(e) for e in examples), names)

    def contents(self) -> str:
        n = self.numbers
        if not n["kept"]:
            return "<p>No row was kept.</p>"
        languages = {NAMES.get(key, key): value for key, value in n["languages"].items()}
        tasks = {key or NO_TASK: value for key, value in n["tasks"].items()}
        html = self._counts(languages, "languages", "Languages", "Told by script and by common words.")
        kinds = len(tasks) - (NO_TASK in tasks)
        if kinds:
            html += self._counts(tasks, "tasks", "Tasks", f"{kinds:,} kinds of task are named.")
        else:
            html += "<p>No row names its task.</p>"
        if n["groups"]:
            html += self._counts(
                n["groups"], "task-groups", "Groups of tasks", "As in data.groups; a task may be in several."
            )
        with_input = f"{n['with_input']:,} rows ({share(n['with_input'], n['kept'])}) carry an input."
        return f"<p>{with_input}</p>{html}"

    def _counts(self, counts: Mapping[str, int], name: str, title: str, note: str) -> str:
        if not any(counts.values()):
            return ""
        rows = [(label, f"{n:,}", share(n, sum(counts.values()))) for label, n in list(counts.items())[:500]]
        return self._figure(
            lambda width: charts.counts(counts, width, name, title), note, (title.lower(), "#rows", "#share"), rows
        )

    def verbs(self) -> str:
        if not self.parsed:
            return "<p>No row to parse.</p>"
        return "".join(self._sunburst(language, entry) for language, entry in self.parsed.items())

    def _sunburst(self, language: str, entry: Mapping[str, Any]) -> str:
        name, parsed, rows = LANGUAGES[language], entry["parsed"], entry["rows"]
        title = f"What {name} instructions ask for"
        if entry.get("missing"):
            return f"<h3>{title}</h3><p>{escape(entry['missing'])}</p>"
        if not entry["verbs"]:
            return f"<h3>{title}</h3><p>None of the {parsed:,} instructions has a root verb with an object.</p>"
        sample = f"Of {parsed:,} rows drawn by content hash from {rows:,}" if parsed < rows else f"Of {rows:,} rows"
        note = (
            f"{sample}, {share(entry['with_object'], parsed)} begin with a sentence that has a root verb and a direct "
            f"object; questions mostly have none. Inner ring: the {len(entry['verbs'])} most common verbs. Outer ring: "
            "their up to 4 most common objects."
        )
        table = [
            (v["verb"], f"{v['rows']:,}", ", ".join(f"{o['object']} {o['rows']:,}" for o in v["objects"]))
            for v in entry["verbs"]
        ]
        draw = partial(sunburst, entry, name=f"sunburst-{language}", title=title, note=note)
        return self._figure(lambda width: draw(width=width), "", ("verb", "#rows", "objects"), table)

    def samples(self) -> str:
        samples, unit = self.data.samples, self.numbers["lengths"]["unit"]
        if not samples:
            return "<p>There is no row to show.</p>"
        filters = {
            key: list(dict.fromkeys(sorted(value for sample in samples for value in _values(sample, key))))
            for key in ("split", "source", "language", "rule")
        }
        lead = (
            f"<p>{len(samples):,} rows drawn by content hash, so the same ones on every machine: from each split, "
            "source and language, and some for every rule. Arrow keys turn.</p>"
        )
        return lead + pager("rows", (exhibits.sample(s, unit) for s in samples), filters)


def _values(sample: Any, key: str) -> list[str]:
    return list(sample.rules) if key == "rule" else [getattr(sample, key)]


def _quantiles(lengths: Mapping[str, Any]) -> list[tuple[str, str]]:
    q = lengths["quantiles"]
    lines = [(f"{key[1:]} % of rows have at most", f"{value:g}") for key, value in q.items()]
    return [*lines, ("longest", f"{lengths['longest']:,}"), ("all together", f"{lengths['sum']:,}")]
