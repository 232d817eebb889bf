"""Sections of the run report on the tuned model: measurements, probes, benchmarks, comparisons, answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.comparison.winrate import table as win_rates
from pipeline.evaluation.probes import NAMES
from pipeline.evaluation.results import rows_of_table
from pipeline.pages.dots import DotRow
from pipeline.pages.drawing import Drawing
from pipeline.pages.figure import Figure, Rows, number, table
from pipeline.pages.phrases import Phrase, html_of, joined, labelled, phrase
from pipeline.pages.rows import article, fields, pager, row_box
from pipeline.pages.text import escape
from pipeline.release.card import column_names
from pipeline.run.folder import HELD_OUT
from pipeline.run_report import curves
from pipeline.run_report.contents import Contents

MOST = 40  # rows of one chart
PROBES = ("stops", "repeats", "language", "echoes", "empty", "as_base")


def results(contents: Contents) -> str:
    """Base against tuned, as `make export` measured them."""
    base, tuned = contents.results.get("base"), contents.results.get("tuned")
    if not base or not tuned:
        return f"<p>{html_of(contents.missing('export', 'not-measured-both'))}</p>"
    names = [labelled(name) for name in column_names(contents.config.adapter)]
    rows = [(labelled(what), *values) for what, *values in rows_of_table(base, tuned)]
    html = table(("", *map(number, names)), rows)
    for split in HELD_OUT:
        both = by_task(base, tuned, split)
        if len(both) > 1:
            drawn = [DotRow(phrase("of-n", name=task, n=n), [(before, 0.0), (after, 0.0)])
                     for task, n, before, after in both]  # fmt: skip
            where = labelled(HELD_OUT[split])
            title = joined([Phrase(where.capitalize(), where.korean), curves.shares_finding(drawn, "of-tasks")], ": ")
            cells = [(task, str(n), f"{before:.1%}", f"{after:.1%}") for task, n, before, after in both]
            head = (phrase("head-task"), number(phrase("head-answers")), *map(number, names))
            html += _dots(drawn, f"tasks-{split}", title, column_names(contents.config.adapter), head, cells)
    return html + _kinds(base, tuned) + _checks(contents.checks)


def by_task(base: Mapping[str, Any], tuned: Mapping[str, Any], split: str) -> list[tuple[str, int, float, float]]:
    """(task, answers, exact match of base, of tuned) for the tasks of a split that both have, best first."""
    after, before = (measured.get(split, {}).get("by_task", {}) for measured in (tuned, base))
    answers = Counter(str(answer.get("task", "")) for answer in tuned.get(split, {}).get("said") or ())
    both = [(task or phrase("word-no-task"), answers[task], before[task], share)
            for task, share in after.items() if task in before]  # fmt: skip
    return sorted(both, key=lambda row: (-row[3], row[0]))


def _dots(
    dot_rows: Sequence[DotRow],
    name: str,
    title: str,
    columns: tuple[str, str] = ("base", "tuned"),
    head: Sequence[str] = (),
    rows: Rows = (),
) -> str:
    def draw(width: float) -> Drawing:
        return curves.base_and_tuned(dot_rows[:MOST], width, name, title, columns)

    note = phrase("first-of", most=MOST, n=len(dot_rows)) if len(dot_rows) > MOST else ""
    return Figure(draw, note, head, rows).html()


def _kinds(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    before, after = (measured.get("general", {}).get("by_kind", {}) for measured in (base, tuned))
    rows = [(k, f"{before[k]:.3f}", f"{v:.3f}", f"{v - before[k]:+.3f}") for k, v in after.items() if k in before]
    if not rows:
        return ""
    head = (phrase("head-kind"), *(number(phrase(f"head-{key}")) for key in ("base", "tuned", "change")))
    title, note = phrase("forgetting-by-kind"), phrase("forgetting-by-kind-note")
    return f"<h3>{html_of(title)}</h3><p class=soft>{html_of(note)}</p>" + table(head, rows)


def _checks(checks: Mapping[str, Any]) -> str:
    rows = [(name, str(result)) for name, result in checks.items()]
    head = (phrase("head-check"), phrase("head-outcome"))
    return f"<h3>{html_of(phrase('checked-at-export'))}</h3>{table(head, rows)}" if rows else ""


def probes(contents: Contents) -> str:
    """Counts of the probes after training and at export, and the answers after training."""
    after = contents.probes.get("probes") or {}
    base, tuned = (contents.results.get(who, {}).get("probes") or {} for who in ("base", "tuned"))
    if not after and not tuned:
        return f"<p>{html_of(_not_probed(contents))}</p>"
    rows = []
    for name in PROBES:
        cells = [counted(counts.get(name)) for counts in (after, base, tuned)]
        rows.append((labelled(NAMES[name]), *cells, phrase(f"probe-{name}")))
    columns = (number(phrase(f"head-{key}")) for key in ("after-training", "export-base", "export-tuned"))
    head = (phrase("head-answers-that"), *columns, phrase("head-meaning"))
    asked = ""
    if after:
        where = phrase("rows-held-out" if contents.probes["part"] == "val" else "rows-training")
        values = {key: contents.probes[key] for key in ("rows", "prompts", "max_new_tokens")}
        asked = phrase("probes-asked", where=where, **values)
    note = joined([asked, phrase("probes-at-export")])
    return f"<p class=soft>{html_of(note)}</p>{table(head, rows)}{_seen(contents)}"


def _not_probed(contents: Contents) -> Phrase:
    if contents.probes.get("missing"):
        return phrase("nothing-asked", why=contents.probes["missing"])
    if contents.config.adapter.method == "none":
        return contents.missing("export", "nothing-trained-not-measured")
    if contents.has("adapter"):
        return phrase("no-probes")
    return contents.missing("adapter", "not-probed")


def counted(count: Mapping[str, int] | None) -> Phrase:
    """`3 of 19`."""
    if not count or not count.get("of"):
        return phrase("not-asked")
    return phrase("count-of", count=f"{count['count']:,}", of=f"{count['of']:,}")


def _seen(contents: Contents) -> str:
    answers = contents.probes.get("answers") or []
    shown, nothing = [], phrase("nothing")
    for a in sorted(answers, key=lambda a: -len(a.get("signs", ()))):
        state = phrase("ended" if a["stopped"] else "did-not-end")
        signs = [labelled(NAMES[name]) for name in a.get("signs", ()) if name in NAMES]
        texts = {"instruction": a["instruction"], "input": a["input"], "expected": a["expected"], "answer": a["said"]}
        shown.append(_article(texts, [state, *signs, a.get("task", "")], {"signs": "\n".join(signs) or nothing}))
    if not shown:
        return ""
    names = sorted({sign for a in answers for sign in (NAMES[s] for s in a.get("signs", ()) if s in NAMES)})
    filters = {"signs": [*map(labelled, names), nothing]}
    return f"<h3>{html_of(phrase('answers-after-training'))}</h3>{pager('probed', shown, filters)}"


def _article(texts: Mapping[str, str], meta: list[str], data: Mapping[str, str], more: str = "") -> str:
    named: dict[str, str] = {labelled(name): str(text) for name, text in texts.items()}
    return article(data, row_box(meta, "", fields(named) + more))


def benchmarks(contents: Contents) -> str:
    """eval/eval.json: rows of base and tuned with their errors."""
    rows = [row for row in contents.eval.get("rows") or () if isinstance(row, dict)]
    if not rows:
        return f"<p>{html_of(contents.missing('eval', 'no-benchmark-run'))}</p>"
    shares = [
        DotRow(f"{row.get('name')}: {row.get('metric')} (n = {row.get('n', '?')})",
               [(row[who], _number(row.get(f"{who}_error"))) for who in ("base", "tuned")])
        for row in rows if _is_share(row.get("base")) and _is_share(row.get("tuned")) and row.get("better") == "up"
    ]  # fmt: skip
    with_shots = any(isinstance(row.get("shots"), (int, float)) for row in rows)
    shots = number(phrase("head-shots", k=(contents.eval.get("settings") or {}).get("shots", "k")))
    base, tuned, change = (number(phrase(f"head-{key}")) for key in ("base", "tuned", "change"))
    named = {key: phrase(f"head-{key}") for key in ("benchmark", "metric", "reading", "note")}
    head = (named["benchmark"], named["metric"], base, *([shots] * with_shots), tuned, change, named["reading"], "#n",
            named["note"])  # fmt: skip
    body = [
        (row.get("name"), row.get("metric"), _with_error(row, "base"),
         *([_with_error(row, "shots")] * with_shots), _with_error(row, "tuned"),
         _with_error(row, "change", "+"), labelled(reading(row)), row.get("n", ""), row.get("note", ""))
        for row in rows
    ]  # fmt: skip
    drawn = ""
    if shares:
        drawn = _dots(shares, "benchmarks", curves.shares_finding(shares, "of-benchmarks"))
    command = contents.eval.get("command")
    source = f"<p class=soft>{html_of(phrase('made-by-command', command=command))}</p>" if command else ""
    return drawn + table(head, body) + source


def reading(row: Mapping[str, Any]) -> str:
    """A change in words: `better` or `worse` where it is above two standard errors."""
    change, error, better = row.get("change"), row.get("change_error"), row.get("better")
    if not isinstance(change, (int, float)) or better not in ("up", "down"):
        return ""
    if isinstance(error, (int, float)) and abs(change) <= 2 * error:
        return "within two standard errors"
    if not change:
        return "the same"
    word = "better" if (change > 0) == (better == "up") else "worse"
    return word if isinstance(error, (int, float)) else f"{word}, error unknown"


def _with_error(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    value, error = row.get(name), row.get(f"{name}_error")
    if not isinstance(value, (int, float)):
        return phrase("not-measured")
    return f"{value:{sign}.4g}" + (
        f" ± {error:.2g}" if isinstance(error, (int, float)) and not math.isnan(error) else ""
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def side_by_side(contents: Contents) -> str:
    """Win rates of the judge, and links to the pages of `make compare`."""
    nothing = f"<p>{html_of(contents.missing('judge', 'no-pairs-judged'))}</p>"
    html = _judged(contents) if contents.judged else nothing
    links = "".join(
        f'<li><a href="{quote(folder)}/{quote(path.name)}">{escape(folder)}/{escape(path.name)}</a></li>'
        for folder in ("compare", "judge")
        for path in sorted(contents.run.folder(folder).glob("*.html"))
    )
    if not contents.has("compare"):
        html += f"<p>{html_of(contents.missing('compare', 'no-compare-page'))}</p>"
    return html + (f"<p>{html_of(phrase('beside-this-file'))}</p><ul>{links}</ul>" if links else "")


def _judged(contents: Contents) -> str:
    """judge/judge.json: win rates, and how often the judge agreed with itself."""
    judge = contents.judge
    groups = [(str(name), one) for field in ("by_set", "by_category") for name, one in (judge.get(field) or {}).items()]
    head, *rows = win_rates([("all", contents.judged), *groups])
    notes: list[str] = [phrase("judge-name", name=(judge.get("judge") or {}).get("model", "?"))]
    if isinstance(judge.get("consistency"), (int, float)):
        notes.append(phrase("judge-agreed", share=f"{judge['consistency']:.1%}"))
    if isinstance(judge.get("first"), (int, float)):
        notes.append(phrase("judge-first", share=f"{judge['first']:.1%}"))
    win_rates_table = table((head[0], *(number(labelled(cell)) for cell in head[1:])), rows)
    return f"{win_rates_table}<p class=soft>{html_of(joined([*notes, str(judge.get('method', ''))]))}</p>"


def samples(contents: Contents) -> str:
    """Answers of base and tuned model: to `eval.prompts`, and to every measured held-out row."""
    base, tuned = contents.results.get("base") or {}, contents.results.get("tuned") or {}
    if not tuned:
        return f"<p>{html_of(contents.missing('export', 'no-answers'))}</p>"
    first, second = map(labelled, column_names(contents.config.adapter))
    names = first, second
    prompts = "".join(
        f'<div class="row">{fields({labelled("prompt"): before["prompt"]})}{_both(names, before, after)}</div>'
        for before, after in zip(base.get("prompts", ()), tuned.get("prompts", ()), strict=False)
    )
    articles, marks = [], set()
    for split in HELD_OUT:
        pairs = zip(base.get(split, {}).get("said", ()), tuned.get(split, {}).get("said", ()), strict=False)
        for before, after in pairs:
            mark = labelled("right" if after["exact"] else "holds the right one" if after["contained"] else "wrong")
            marks.add(mark)
            texts = {"instruction": after["instruction"], "input": after["input"], "expected": after["expected"]}
            meta, data = [labelled(HELD_OUT[split]), after["task"], mark], {"answer": mark, "task": after["task"]}
            articles.append(_article(texts, meta, data, _both(names, before, after)))
    if articles:
        tasks = sorted({a["task"] for split in HELD_OUT for a in tuned.get(split, {}).get("said", ())})
        prompts += f"<h3>{html_of(phrase('held-out-rows'))}</h3>" + pager(
            "answers", articles, {"answer": sorted(marks), "task": tasks}
        )
    return prompts or f"<p>{html_of(phrase('no-exact-no-prompts'))}</p>"


def _both(names: tuple[str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Two answers side by side."""
    sides = (
        f"<div>{fields({name: _ended(answer)})}</div>" for name, answer in zip(names, (before, after), strict=True)
    )
    return f'<div class="two">{"".join(sides)}</div>'


def _ended(answer: Mapping[str, Any]) -> str:
    return joined([answer["said"], "" if answer["stopped"] else phrase("cut-here")]) or phrase("empty")
