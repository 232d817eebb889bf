"""Sections of the run report on the tuned model: measurements, probes, benchmarks, comparisons, answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.comparison.winrate import table as win_rates
from pipeline.evaluation.probes import NAMES
from pipeline.evaluation.results import rows_of_table
from pipeline.pages.charts import DotRow
from pipeline.pages.drawing import Drawing
from pipeline.pages.figure import Figure, Rows, table
from pipeline.pages.rows import article, fields, pager, row_box
from pipeline.pages.text import escape
from pipeline.release.card import column_names
from pipeline.run.folder import HELD_OUT
from pipeline.run_report import curves
from pipeline.run_report.contents import Contents

MOST = 40  # rows of one chart
PROBES = {
    "stops": "Ended with the end token below the limit. Asked where the reference is short enough.",
    "repeats": "End in a loop: a phrase of two words or more, three times in a row.",
    "language": "Are in neither the question's language nor the reference's.",
    "echoes": "Begin with the question or its input, or go on with the template's own words.",
    "empty": "Say nothing.",
    "as_base": "Are the answers of the model without what was trained.",
}


def results(contents: Contents) -> str:
    """Base against tuned, as `make export` measured them."""
    base, tuned = contents.results.get("base"), contents.results.get("tuned")
    if not base or not tuned:
        return f"<p>{contents.missing('export', 'Base and tuned model were not measured')}</p>"
    names = column_names(contents.config.adapter)
    html = table(("", f"#{names[0]}", f"#{names[1]}"), rows_of_table(base, tuned))
    for split in HELD_OUT:
        by_task = tuned.get(split, {}).get("by_task", {})
        of_base = base.get(split, {}).get("by_task", {})
        both = [(task or "(none named)", of_base[task], share) for task, share in by_task.items() if task in of_base]
        if len(both) > 1:
            both.sort(key=lambda row: (-row[2], row[0]))
            title = f"Exact match by task: {HELD_OUT[split]}"
            rows = [(task, f"{before:.1%}", f"{after:.1%}") for task, before, after in both]
            drawn = [DotRow(task, [(before, 0.0), (after, 0.0)]) for task, before, after in both]
            html += _dots(drawn, f"tasks-{split}", title, names, ("task", "#base", "#tuned"), rows)
    return html + _kinds(base, tuned) + _checks(contents.checks)


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

    note = f"The first {MOST} of {len(dot_rows)}." if len(dot_rows) > MOST else ""
    return Figure(draw, note, head, rows).html()


def _kinds(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    before, after = (measured.get("general", {}).get("by_kind", {}) for measured in (base, tuned))
    rows = [(k, f"{before[k]:.3f}", f"{v:.3f}", f"{v - before[k]:+.3f}") for k, v in after.items() if k in before]
    if not rows:
        return ""
    note = "<h3>Forgetting by kind of text</h3><p class=soft>Loss in nats a token on text that no task is about.</p>"
    return note + table(("kind", "#base", "#tuned", "#change"), rows)


def _checks(checks: Mapping[str, Any]) -> str:
    rows = [(name, str(result)) for name, result in checks.items()]
    return f"<h3>Checked at export</h3>{table(('check', 'what came out'), rows)}" if rows else ""


def probes(contents: Contents) -> str:
    """Counts of the probes after training and at export, and the answers after training."""
    after = contents.probes.get("probes") or {}
    base, tuned = (contents.results.get(who, {}).get("probes") or {} for who in ("base", "tuned"))
    if not after and not tuned:
        return f"<p>{_not_probed(contents)}</p>"
    rows = []
    for name, meaning in PROBES.items():
        cells = [counted(counts.get(name)) for counts in (after, base, tuned)]
        rows.append((NAMES[name], *cells, meaning))
    head = ("answers that", "#after training", "#export: base", "#export: tuned", "meaning")
    asked = ""
    if after:
        where = "held-out" if contents.probes["part"] == "val" else "training"
        asked = (
            f"After training: {contents.probes['rows']} {where} rows and {contents.probes['prompts']} prompts, greedy, "
            f"at most {contents.probes['max_new_tokens']} tokens. "
        )
    note = f"<p class=soft>{asked}At export: all answers of the measurement. Few answers: read the counts.</p>"
    return note + table(head, rows) + _seen(contents)


def _not_probed(contents: Contents) -> str:
    if contents.probes.get("missing"):
        return f"Nothing was asked: {escape(contents.probes['missing'])}."
    if contents.config.adapter.method == "none":
        return contents.missing("export", "Nothing is trained; the export was not measured")
    if contents.has("adapter"):
        return "The training left no probes: it was made by an earlier version."
    return contents.missing("adapter", "Not probed")


def counted(count: Mapping[str, int] | None) -> str:
    """`3 of 19`."""
    return f"{count['count']:,} of {count['of']:,}" if count and count.get("of") else "not asked"


def _seen(contents: Contents) -> str:
    answers = contents.probes.get("answers") or []
    shown = []
    for a in sorted(answers, key=lambda a: -len(a.get("signs", ()))):
        state = "ended by itself" if a["stopped"] else "did not end"
        signs = [NAMES[name] for name in a.get("signs", ()) if name in NAMES]
        texts = {"instruction": a["instruction"], "input": a["input"], "expected": a["expected"], "answer": a["said"]}
        shown.append(_article(texts, [state, *signs, a.get("task", "")], {"signs": "\n".join(signs) or "nothing"}))
    if not shown:
        return ""
    names = sorted({sign for a in answers for sign in (NAMES[s] for s in a.get("signs", ()) if s in NAMES)})
    return f"<h3>The answers after training</h3>{pager('probed', shown, {'signs': [*names, 'nothing']})}"


def _article(texts: Mapping[str, str], meta: list[str], data: Mapping[str, str], more: str = "") -> str:
    return article(data, row_box(meta, "", fields({name: str(text) for name, text in texts.items()}) + more))


def benchmarks(contents: Contents) -> str:
    """eval/eval.json: rows of base and tuned with their errors."""
    rows = [row for row in contents.eval.get("rows") or () if isinstance(row, dict)]
    if not rows:
        return f"<p>{contents.missing('eval', 'No benchmark was run')}</p>"
    shares = [
        DotRow(f"{row.get('name')}: {row.get('metric')}",
               [(row[who], _number(row.get(f"{who}_error"))) for who in ("base", "tuned")])
        for row in rows if _is_share(row.get("base")) and _is_share(row.get("tuned")) and row.get("better") == "up"
    ]  # fmt: skip
    with_shots = any(isinstance(row.get("shots"), (int, float)) for row in rows)
    shots = f"#{(contents.eval.get('settings') or {}).get('shots', 'k')}-shot"
    head = ("benchmark", "metric", "#base", *([shots] * with_shots), "#tuned", "#change", "reading", "#n", "note")
    body = [
        (row.get("name"), row.get("metric"), _with_error(row, "base"),
         *([_with_error(row, "shots")] * with_shots), _with_error(row, "tuned"),
         _with_error(row, "change", "+"), reading(row), row.get("n", ""), row.get("note", ""))
        for row in rows
    ]  # fmt: skip
    drawn = ""
    if shares:
        drawn = _dots(shares, "benchmarks", "Base and tuned model on benchmarks")
    command = contents.eval.get("command")
    source = f"<p class=soft>Made by <code>{escape(command)}</code>.</p>" if command else ""
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
        return "not measured"
    return f"{value:{sign}.4g}" + (
        f" ± {error:.2g}" if isinstance(error, (int, float)) and not math.isnan(error) else ""
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def side_by_side(contents: Contents) -> str:
    """Win rates of the judge, and links to the pages of `make compare`."""
    html = _judged(contents) if contents.judged else f"<p>{contents.missing('judge', 'No pairs were judged')}</p>"
    links = "".join(
        f'<li><a href="{quote(folder)}/{quote(path.name)}">{escape(folder)}/{escape(path.name)}</a></li>'
        for folder in ("compare", "judge")
        for path in sorted(contents.run.folder(folder).glob("*.html"))
    )
    if not contents.has("compare"):
        html += f"<p>{contents.missing('compare', 'There is no page with both side by side')}</p>"
    return html + (f"<p>In the run's folder, beside this file:</p><ul>{links}</ul>" if links else "")


def _judged(contents: Contents) -> str:
    """judge/judge.json: win rates, and how often the judge agreed with itself."""
    judge = contents.judge
    groups = [(str(name), one) for field in ("by_set", "by_category") for name, one in (judge.get(field) or {}).items()]
    head, *rows = win_rates([("all", contents.judged), *groups])
    who = (judge.get("judge") or {}).get("model", "not named")
    notes = [f"Judge: {who}."]
    if isinstance(judge.get("consistency"), (int, float)):
        notes.append(f"Asked in both orders it agreed with itself on {judge['consistency']:.1%} of the pairs.")
    if isinstance(judge.get("first"), (int, float)):
        notes.append(f"{judge['first']:.1%} of its verdicts went to the answer that stood first.")
    win_rates_table = table((head[0], *(f"#{cell}" for cell in head[1:])), rows)
    return f"{win_rates_table}<p class=soft>{escape(' '.join([*notes, str(judge.get('method', ''))]))}</p>"


def samples(contents: Contents) -> str:
    """Answers of base and tuned model: to `eval.prompts`, and to every measured held-out row."""
    base, tuned = contents.results.get("base") or {}, contents.results.get("tuned") or {}
    if not tuned:
        return f"<p>{contents.missing('export', 'There are no answers to read')}</p>"
    names = column_names(contents.config.adapter)
    prompts = "".join(
        f'<div class="row">{fields({"prompt": before["prompt"]})}{_both(names, before, after)}</div>'
        for before, after in zip(base.get("prompts", ()), tuned.get("prompts", ()), strict=False)
    )
    articles, marks = [], set()
    for split in HELD_OUT:
        pairs = zip(base.get(split, {}).get("said", ()), tuned.get(split, {}).get("said", ()), strict=False)
        for before, after in pairs:
            mark = "right" if after["exact"] else "holds the right one" if after["contained"] else "wrong"
            marks.add(mark)
            texts = {"instruction": after["instruction"], "input": after["input"], "expected": after["expected"]}
            meta, data = [HELD_OUT[split], after["task"], mark], {"answer": mark, "task": after["task"]}
            articles.append(_article(texts, meta, data, _both(names, before, after)))
    if articles:
        tasks = sorted({a["task"] for split in HELD_OUT for a in tuned.get(split, {}).get("said", ())})
        prompts += "<h3>Held-out rows</h3>" + pager("answers", articles, {"answer": sorted(marks), "task": tasks})
    return prompts or "<p>No row has one right answer, and eval.prompts is empty.</p>"


def _both(names: tuple[str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Two answers side by side."""
    sides = (
        f"<div>{fields({name: _ended(answer)})}</div>" for name, answer in zip(names, (before, after), strict=True)
    )
    return f'<div class="two">{"".join(sides)}</div>'


def _ended(answer: Mapping[str, Any]) -> str:
    return f"{answer['said']}{'' if answer['stopped'] else ' […did not end]'}" or "(nothing)"
