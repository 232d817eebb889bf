"""The later sections of a run's page: what came out, probes, benchmarks, comparisons, answers to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.comparison.winrate import table as win_rates
from pipeline.evaluation.measure import NAMES as PLACES
from pipeline.evaluation.measure import rows_of_table
from pipeline.evaluation.probes import NAMES
from pipeline.pages.charts import DotRow
from pipeline.pages.drawing import Drawing
from pipeline.pages.figure import Figure, Rows, table
from pipeline.pages.rows import article, fields, pager, row_box
from pipeline.pages.text import escape
from pipeline.release.card import column_names
from pipeline.run_report import curves
from pipeline.run_report.parts import Parts

MOST = 40  # lines of one picture
PROBES = {
    "stops": "Ended with the end token below the limit. Asked where the reference is short enough.",
    "repeats": "End in a loop: a phrase of two words or more, three times in a row.",
    "language": "Are in neither the question's language nor the reference's.",
    "echoes": "Begin with the question or its input, or go on with the template's own words.",
    "empty": "Say nothing.",
    "as_base": "Are what the model says without what was trained.",
}


def results(parts: Parts) -> str:
    """Base against tuned, as `make export` measured them."""
    base, tuned = parts.results.get("base"), parts.results.get("tuned")
    if not base or not tuned:
        return f"<p>{parts.missing('export', 'Base and tuned model were not measured')}</p>"
    names = column_names(parts.config)
    found = table(("", f"#{names[0]}", f"#{names[1]}"), rows_of_table(base, tuned))
    for part in PLACES:
        by_task = tuned.get(part, {}).get("by_task", {})
        of_base = base.get(part, {}).get("by_task", {})
        both = [(task or "(none named)", of_base[task], share) for task, share in by_task.items() if task in of_base]
        if len(both) > 1:
            both.sort(key=lambda row: (-row[2], row[0]))
            title = f"Exact match by task: {PLACES[part]}"
            rows = [(task, f"{before:.1%}", f"{after:.1%}") for task, before, after in both]
            drawn = [DotRow(task, [(before, 0.0), (after, 0.0)]) for task, before, after in both]
            found += _dots(drawn, f"tasks-{part}", title, names, ("task", "#base", "#tuned"), rows)
    return found + _kinds(base, tuned) + _checks(parts.checks)


def _dots(
    found: Sequence[DotRow],
    name: str,
    title: str,
    columns: tuple[str, str] = ("base", "tuned"),
    head: Sequence[str] = (),
    rows: Rows = (),
) -> str:
    def draw(width: float) -> Drawing:
        return curves.base_and_tuned(found[:MOST], width, name, title, columns)

    note = f"The first {MOST} of {len(found)}." if len(found) > MOST else ""
    return Figure(draw, note, head, rows).html()


def _kinds(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    before, after = (found.get("general", {}).get("by_kind", {}) for found in (base, tuned))
    rows = [(k, f"{before[k]:.3f}", f"{v:.3f}", f"{v - before[k]:+.3f}") for k, v in after.items() if k in before]
    if not rows:
        return ""
    note = "<h3>Forgetting by kind of text</h3><p class=soft>Loss in nats a token on text that no task is about.</p>"
    return note + table(("kind", "#base", "#tuned", "#change"), rows)


def _checks(checks: Mapping[str, Any]) -> str:
    rows = [(name, str(said)) for name, said in checks.items()]
    return f"<h3>Checked at export</h3>{table(('check', 'what came out'), rows)}" if rows else ""


def probes(parts: Parts) -> str:
    """What is wrong with the answers, whatever they are about."""
    after = parts.probes.get("probes") or {}
    base, tuned = (parts.results.get(who, {}).get("probes") or {} for who in ("base", "tuned"))
    if not after and not tuned:
        return f"<p>{_not_probed(parts)}</p>"
    rows = []
    for name, what in PROBES.items():
        seen = [counted(found.get(name)) for found in (after, base, tuned)]
        rows.append((NAMES[name], *seen, what))
    head = ("answers that", "#after training", "#export: base", "#export: tuned", "meaning")
    asked = ""
    if after:
        where = "held-out" if parts.probes["part"] == "val" else "training"
        asked = (
            f"After training: {parts.probes['rows']} {where} rows and {parts.probes['prompts']} prompts, greedy, "
            f"at most {parts.probes['max_new_tokens']} tokens. "
        )
    note = f"<p class=soft>{asked}At export: all answers of the measurement. Few answers: read the counts.</p>"
    return note + table(head, rows) + _seen(parts)


def _not_probed(parts: Parts) -> str:
    if parts.probes.get("missing"):
        return f"Nothing was asked: {escape(parts.probes['missing'])}."
    if parts.config.adapter.method == "none":
        return parts.missing("export", "Nothing is trained; the export was not measured")
    if parts.has("adapter"):
        return "The training left no probes: it was made by an earlier version."
    return parts.missing("adapter", "Not probed")


def counted(found: Mapping[str, int] | None) -> str:
    """`3 of 19`."""
    return f"{found['count']:,} of {found['of']:,}" if found and found.get("of") else "not asked"


def _seen(parts: Parts) -> str:
    answers = parts.probes.get("answers") or []
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


def benchmarks(parts: Parts) -> str:
    """eval/eval.json: rows of base and tuned with their errors."""
    rows = [row for row in parts.eval.get("rows") or () if isinstance(row, dict)]
    if not rows:
        return f"<p>{parts.missing('eval', 'No benchmark was run')}</p>"
    shares = [
        DotRow(f"{row.get('name')}: {row.get('metric')}",
               [(row[who], _number(row.get(f"{who}_error"))) for who in ("base", "tuned")])
        for row in rows if _is_share(row.get("base")) and _is_share(row.get("tuned")) and row.get("better") == "up"
    ]  # fmt: skip
    with_shots = any(isinstance(row.get("shots"), (int, float)) for row in rows)
    shots = f"#{(parts.eval.get('settings') or {}).get('shots', 'k')}-shot"
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
    command = parts.eval.get("command")
    made = f"<p class=soft>Made by <code>{escape(command)}</code>.</p>" if command else ""
    return drawn + table(head, body) + made


def reading(row: Mapping[str, Any]) -> str:
    """In words what a change is, with two standard errors as the line between something and nothing."""
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


def side_by_side(parts: Parts) -> str:
    """What people and judges said of pairs of answers."""
    found = _judged(parts) if parts.judged else f"<p>{parts.missing('judge', 'No pairs were judged')}</p>"
    links = "".join(
        f'<li><a href="{quote(folder)}/{quote(path.name)}">{escape(folder)}/{escape(path.name)}</a></li>'
        for folder in ("compare", "judge")
        for path in sorted(parts.run.folder(folder).glob("*.html"))
    )
    if not parts.has("compare"):
        found += f"<p>{parts.missing('compare', 'There is no page with both side by side')}</p>"
    return found + (f"<p>In the run's folder, beside this file:</p><ul>{links}</ul>" if links else "")


def _judged(parts: Parts) -> str:
    """judge/judge.json: win rates, and how steady the judge was."""
    judge = parts.judge
    groups = [(str(name), one) for field in ("by_set", "by_category") for name, one in (judge.get(field) or {}).items()]
    head, *rows = win_rates([("all", parts.judged), *groups])
    who = (judge.get("judge") or {}).get("model", "not named")
    said = [f"Judge: {who}."]
    if isinstance(judge.get("consistency"), (int, float)):
        said.append(f"Asked in both orders it agreed with itself on {judge['consistency']:.1%} of the pairs.")
    if isinstance(judge.get("first"), (int, float)):
        said.append(f"{judge['first']:.1%} of its verdicts went to the answer that stood first.")
    shown = table((head[0], *(f"#{cell}" for cell in head[1:])), rows)
    return f"{shown}<p class=soft>{escape(' '.join([*said, str(judge.get('method', ''))]))}</p>"


def samples(parts: Parts) -> str:
    """The prompts of `eval.prompts`, and every measured held-out answer, base beside tuned."""
    base, tuned = parts.results.get("base") or {}, parts.results.get("tuned") or {}
    if not tuned:
        return f"<p>{parts.missing('export', 'There are no answers to read')}</p>"
    names = column_names(parts.config)
    prompts = "".join(
        f'<div class="row">{fields({"prompt": before["prompt"]})}{_both(names, before, after)}</div>'
        for before, after in zip(base.get("prompts", ()), tuned.get("prompts", ()), strict=False)
    )
    shown, marks = [], set()
    for part in PLACES:
        pairs = zip(base.get(part, {}).get("said", ()), tuned.get(part, {}).get("said", ()), strict=False)
        for before, after in pairs:
            mark = "right" if after["exact"] else "holds the right one" if after["contained"] else "wrong"
            marks.add(mark)
            texts = {"instruction": after["instruction"], "input": after["input"], "expected": after["expected"]}
            meta, data = [PLACES[part], after["task"], mark], {"answer": mark, "task": after["task"]}
            shown.append(_article(texts, meta, data, _both(names, before, after)))
    if shown:
        tasks = sorted({a["task"] for part in PLACES for a in tuned.get(part, {}).get("said", ())})
        prompts += "<h3>Held-out rows</h3>" + pager("answers", shown, {"answer": sorted(marks), "task": tasks})
    return prompts or "<p>No row has one right answer, and eval.prompts is empty.</p>"


def _both(names: tuple[str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Two answers, one beside the other."""
    sides = (f"<div>{fields({name: _ended(said)})}</div>" for name, said in zip(names, (before, after), strict=True))
    return f'<div class="two">{"".join(sides)}</div>'


def _ended(said: Mapping[str, Any]) -> str:
    return f"{said['said']}{'' if said['stopped'] else ' […did not end]'}" or "(nothing)"
