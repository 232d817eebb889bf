"""The table of an evaluation: base, base with examples, tuned model, and the change, each with its standard error.

Both models answer the same questions, so the error of the change is that of the differences by question: what makes a
question hard for both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import Eval
from pipeline.evaluation.general import forgetting
from pipeline.evaluation.scores import mean, ratio, shown
from pipeline.pages.dots import DotRow, dots
from pipeline.pages.drawing import Drawing
from pipeline.run.folder import HELD_OUT
from pipeline.run.markdown import code, plain
from pipeline.run.width import WIDTH, clipped, columns, padded, wrapped

Row = dict[str, Any]
Estimate = tuple[float, float]  # a value and its standard error
SMALL = 8  # groups of at most so many tasks have a row for each: KoBEST's five, not MMLU's 57
SHARES = ("acc", "acc_norm", "exact match", "stopped by itself", "f1", "ROUGE-L")  # shown in per cent


def rows_of(measured: dict[tuple[str, str], dict[str, Any]], results: dict[str, Any]) -> list[Row]:
    """One row for each number.

    Args:
        found: what `Evaluation.measure` gave for (who, what). results: of the export, for general text.

    Returns:
        name, metric, base, base_error, shots, shots_error, tuned, tuned_error, change, change_error, over_shots,
        over_shots_error (floats, or None where there is none), better (`up`, `down`), n, note.
    """
    rows = []
    for split in HELD_OUT:
        by_model = {
            who: result[split] for (who, what), result in measured.items() if what == "held-out" and split in result
        }
        if by_model:
            rows += _held_out(split, by_model)
    rows += _general(results)
    for task in dict.fromkeys(what for _, what in measured if what != "held-out"):
        rows += _task(task, {who: result for (who, what), result in measured.items() if what == task})
    return rows


def row(
    name: str,
    metric: str,
    values: dict[str, Estimate],
    changes: dict[str, Estimate],
    better: str,
    n: int,
    note: str = "",
) -> Row:
    """A row, with None for missing numbers. values: of base, shots, tuned; changes: of tuned over base and shots."""
    filled: Row = {"name": name, "metric": metric}
    for who in ("base", "shots", "tuned"):
        filled[who], filled[f"{who}_error"] = map(_plain, values.get(who, (math.nan, math.nan)))
    for field, who in (("change", "base"), ("over_shots", "shots")):
        filled[field], filled[f"{field}_error"] = map(_plain, changes.get(who, (math.nan, math.nan)))
    return {**filled, "better": better, "n": n, "note": note}


def _held_out(split: str, by_model: dict[str, dict[str, Any]]) -> list[Row]:
    others: list[str] = [who for who in ("base", "shots") if who in by_model and "tuned" in by_model]
    counts = {who: h["counts"] for who, h in by_model.items()}
    losses = {who: ratio(h["sums"], h["counts"]) for who, h in by_model.items()}
    changes = {
        who: ratio([t - b for t, b in zip(by_model["tuned"]["sums"], by_model[who]["sums"], strict=True)], counts[who])
        for who in others
        if counts[who] == counts["tuned"]  # rows cut to the model's context can lose labels behind examples
    }
    rows = [row(HELD_OUT[split], "loss", losses, changes, "down", len(by_model["base"]["sums"]))]
    for metric, field in (("exact match", "exact"), ("ROUGE-L", "rouge_l"), ("stopped by itself", "stopped")):
        lists = {who: [v for v in h[field] if v is not None] for who, h in by_model.items()}
        if lists["base"]:
            change = {who: _paired(lists["tuned"], lists[who]) for who in others}
            values = {who: mean(v) for who, v in lists.items()}
            rows.append(row(HELD_OUT[split], metric, values, change, "up", len(lists["base"])))
    return rows


def _general(results: dict[str, Any]) -> list[Row]:
    base, tuned = (results.get(who, {}).get("general") for who in ("base", "tuned"))
    if not base or not tuned:
        return []
    values = {who: (m["loss"], m["standard_error"]) for who, m in (("base", base), ("tuned", tuned))}
    note = "the change is the forgetting"
    return [row("general text", "loss", values, {"base": forgetting(base, tuned)}, "down", base["windows"], note)]


def _task(task: str, measured: dict[str, dict[str, Any]]) -> list[Row]:
    """Rows of a task; for a small group also those of its tasks."""
    leaves = list(measured["base"]["n"])
    rows = _metrics(task, leaves, measured)
    if 1 < len(leaves) <= SMALL:
        rows += [entry for leaf in leaves for entry in _metrics(leaf, [leaf], measured)]
    return rows


def _metrics(name: str, leaves: Sequence[str], measured: dict[str, dict[str, Any]]) -> list[Row]:
    base = measured["base"]
    results = {who: m["results"].get(name, {}) for who, m in measured.items()}
    cut = base["cut"] if len(leaves) == len(base["n"]) else 0
    lost = "1 pass lost its beginning" if cut == 1 else f"{cut} passes lost their beginning"
    note = f"{lost}, being longer than the model's context" if cut else ""
    rows = []
    for metric in results["base"]:
        if "_stderr" in metric:
            continue
        plain = metric.split(",")[0]
        with_metric = [leaf for leaf in leaves if plain in base["samples"][leaf]] or list(leaves)
        values = {who: (o[metric], o.get(_error_of(metric), math.nan)) for who, o in results.items()}
        samples = {
            who: [v for leaf in with_metric for v in m["samples"][leaf].get(plain, [])] for who, m in measured.items()
        }
        changes = {"base": _change(plain, values, samples)} if "tuned" in values else {}
        better = "up" if base["higher"].get(plain, True) else "down"
        rows.append(row(name, metric, values, changes, better, sum(base["n"][leaf] for leaf in with_metric), note))
    return rows


def _error_of(metric: str) -> str:
    name, _, kept = metric.partition(",")
    return f"{name}_stderr,{kept}" if kept else f"{name}_stderr"


def _change(metric: str, values: dict[str, Estimate], samples: dict[str, list[float]]) -> Estimate:
    """Tuned - base and its error, question by question where the metric is a mean over questions.

    Perplexity, exp(-mean l), is one to first order: a question moves it by -perplexity * (l - mean l) / n.
    Of other metrics (f1) each model's own errors are added.
    """
    change = values["tuned"][0] - values["base"][0]
    if len(samples["base"]) == len(samples["tuned"]) > 1:
        if metric == "perplexity":
            moved = {who: [-values[who][0] * l for l in samples[who]] for who in samples}  # noqa: E741
            return change, _paired(moved["tuned"], moved["base"])[1]
        paired = _paired(samples["tuned"], samples["base"])
        if math.isclose(paired[0], change, rel_tol=1e-6, abs_tol=1e-9):
            return change, paired[1]
    return change, math.hypot(values["tuned"][1], values["base"][1])


def _paired(tuned: Sequence[float], base: Sequence[float]) -> Estimate:
    return mean([t - b for t, b in zip(tuned, base, strict=True)])


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def cells(entry: Row) -> list[str]:
    """name, metric, base, shots, tuned, change, over shots, n as a table shows them."""
    share = entry["metric"].split(",")[0] in SHARES
    shown = [_cell(entry[k], entry[f"{k}_error"], share, k in ("change", "over_shots"))
             for k in ("base", "shots", "tuned", "change", "over_shots")]  # fmt: skip
    arrow = {"up": " ↑", "down": " ↓"}.get(entry["better"], "")
    return [entry["name"], entry["metric"] + arrow, *shown, f"{entry['n']:,}"]


def _cell(value: float | None, error: float | None, share: bool, signed: bool) -> str:
    if value is None:
        return ""
    scale = 100.0 if share else 1.0
    form = ".1f" if share else ".3f" if abs(value) < 100 else ",.1f" if abs(value) < 1e6 else ".2e"
    text = shown(value * scale, None if error is None else error * scale, ("+" if signed else "") + form)
    return text + ("" if not share else " %" if not signed else " points")


def heads(shots: int) -> list[str]:
    """Titles of the columns of `cells`. shots: examples in front of a question (`eval.shots`)."""
    return ["", "", "base", f"base, {shots}-shot", "tuned", "tuned - base", f"tuned - {shots}-shot", "n"]


def _shown(shots: int, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells, without columns that are empty everywhere."""
    table = [cells(r) for r in rows]
    kept = [i for i in range(8) if any(line[i] for line in table)]
    return [heads(shots)[i] for i in kept], [[line[i] for i in kept] for line in table]


def printed(shots: int, rows: Sequence[Row]) -> str:
    """The table for a terminal: a heading for each task, values beside each other, changes in a line below."""
    titles = heads(shots)
    kept = [i for i in (2, 3, 4) if any(cells(entry)[i] for entry in rows)]  # base, shots, tuned
    lines = [_values(" ", [titles[i] for i in kept])]
    name = None
    for entry in rows:
        row = cells(entry)
        if row[0] != name:
            name = row[0]
            lines.append(clipped(name, WIDTH))
        lines.append(_values(f"  {row[1]} ({row[7]})", [row[i] for i in kept]))
        changes = [f"{titles[i]}: {row[i]}" for i in (5, 6) if row[i]]
        lines += [f"    {', '.join(changes)}"] if changes else []
    notes = [f"{r['name']}, {r['metric']}: {r['note']}" for r in rows if r["note"]]
    return "\n".join(["", *map(wrapped, [*lines, *dict.fromkeys(notes)])])


def _values(label: str, values: Sequence[str]) -> str:
    room = WIDTH - 16 * len(values)
    return padded(clipped(label, room) if columns(label) > room else label, room) + "".join(
        padded(value, 16, right=True) for value in values
    )


def markdown(name: str, settings: Eval, record: dict[str, Any], folder: Path | None) -> str:
    """eval.md. name: of the run. record: eval.json. folder: local task definitions, where there are."""
    head, body = _shown(settings.shots, record["rows"])
    base, tuned = record["models"]["base"], record["models"]["tuned"]
    quantised = "" if base["quantize"] == "none" else f", quantised to {base['quantize']}"
    lines = [f"# {name}: before and after", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    lines += ["| " + " | ".join(map(plain, line)) + " |" for line in body]
    lines += ["", "± is one standard error; that of a difference is taken question by question."]
    lines += ["↑ more is better, ↓ less is better.", ""]
    lines += [f"- {plain(r['name'])}, {plain(r['metric'])}: {plain(r['note'])}." for r in record["rows"] if r["note"]]
    lines += [f"- Base: {plain(base['name'])}{quantised}. Tuned: {plain(tuned['method'])}, as exported."]
    lines += [f"- Held-out rows stand in the template {code(record['models']['template']['id'])}, answers are greedy."]
    if settings.tasks:
        lines += [_asked(settings, record)]
    if settings.tasks and folder:
        lines += ["- The questions came from files. The same through the harness's own command line:", ""]
        lines += ["      " + line for line in command_line(settings, folder)]
    return "\n".join(lines) + "\n"


def _asked(settings: Eval, record: dict[str, Any]) -> str:
    """How benchmark questions were put."""
    template = "inside the training template" if settings.prompting == "template" else "without the training template"
    few = f"{settings.num_fewshot} examples in front" if settings.num_fewshot else "no examples but a task's own"
    part = f"the first {settings.limit:,} questions of each task" if settings.limit else "all questions"
    return f"- Benchmarks: lm-evaluation-harness {record['versions'].get('lm_eval', '')}, {template}, {few}, {part}."


def command_line(settings: Eval, folder: Path) -> list[str]:
    """What asks the exported model the same questions with the harness alone."""
    names = ",".join(f"{task}_local" for task in settings.tasks)
    more = " --apply_chat_template" if settings.prompting == "template" else ""
    more += f" --limit {settings.limit}" if settings.limit else ""
    export = folder.parent.parent / "export"
    asked = f"lm_eval run --model hf --model_args pretrained={export} --include_path {folder} \\"
    return [asked, f"  --tasks {names}{more}"]


def chart(name: str, shots: int, rows: Sequence[Row], width: float) -> Drawing:
    """Dots with bands of one standard error, for every row that is a share. name: of the run."""
    shares = [r for r in rows if r["metric"].split(",")[0] in SHARES and r["base"] is not None]
    columns = (("base", "base", "neutral"), (heads(shots)[3], "shots", "warn"), ("tuned", "tuned", "accent"))
    there = [column for column in columns if any(r[column[1]] is not None for r in shares)]
    dot_rows = [
        DotRow(f"{r['name']}: {r['metric']}", [_dot(r[who], r[f"{who}_error"]) for _, who, _ in there]) for r in shares
    ]
    return dots(dot_rows, width, "eval", f"{name}: before and after", there)


def _dot(value: float | None, error: float | None) -> tuple[float, float] | None:
    return None if value is None else (value, error or 0.0)
