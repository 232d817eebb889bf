"""One model on the held-out rows: the numbers and answers that stand in the final table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipeline.config import Config, Data
from pipeline.dataset.split import group_members
from pipeline.dataset.stage import load as load_examples
from pipeline.evaluation import probes
from pipeline.evaluation.answers import Answer, answer, marks
from pipeline.evaluation.general import forgetting, general_loss, general_windows
from pipeline.evaluation.heldout import held_out_loss
from pipeline.evaluation.probe_causes import Facts, warnings
from pipeline.evaluation.probes import fitting, probe
from pipeline.evaluation.shots import Shots, with_shots
from pipeline.evaluation.standard_error import shown
from pipeline.language import language_of
from pipeline.prompt.encode import Encoder
from pipeline.prompt.tokens import Tokens
from pipeline.record import Example
from pipeline.run import Run

PARTS = ("val", "holdout")


def measure(
    model: Any, config: Config, run: Run, encoder: Encoder, who: str, shots: Shots | None = None
) -> dict[str, Any]:
    """Held-out loss of each part, marks of the rows with one right answer, loss on general text, answers to the three
    prompts, and what the probes see in all answers.

    shots: puts training rows in front of every question.
    """
    found: dict[str, Any] = {}
    answers: list[Answer] = []
    for part in PARTS:
        tokens = Tokens(run.folder("tokens") / f"{part}.arrow")
        limit = config.eval.rows if part == "val" else (config.eval.rows + 1) // 2
        exact = [e for e in load_examples(run, part) if e.exact][:limit]
        rows = range(min(len(tokens), limit))
        if not rows:
            continue
        found[part] = {
            "rows": len(rows),
            "loss": held_out_loss(
                model,
                with_shots(shots, tokens, rows, load_examples(run, part)),
                rows,
                f"{who}: loss, {part}",
            ),
        }
        if exact:
            said = answer(model, encoder, exact, config.eval.max_new_tokens, f"{who}: answers, {part}", shots)
            answers += said
            found[part] |= {
                **marks(said),
                "by_task": _by_task(said),
                "by_group": _by_group(said, config.data),
                "said": [a.as_dict() for a in said],
            }
    found["general"] = general_loss(model, general_windows(model, config, encoder), f"{who}: general text")
    prompts = [Example.of(text, "", "", source="eval.prompts") for text in config.eval.prompts]
    said = answer(model, encoder, prompts, config.eval.max_new_tokens, f"{who}: prompts", shots) if prompts else []
    answers += said
    fits = fitting(encoder, [a.expected for a in answers], config.eval.max_new_tokens)
    found["probes"] = probe(answers, encoder.template, fits)
    found["prompts"] = [{"prompt": a.instruction, "said": a.said.strip(), "stopped": a.stopped} for a in said]
    return found


def _by_task(answers: list[Answer]) -> dict[str, float]:
    tasks = sorted({a.task for a in answers})
    return {task: marks([a for a in answers if a.task == task])["exact"] for task in tasks}


def _by_group(answers: list[Answer], data: Data) -> dict[str, dict[str, float]]:
    """Marks of each group of tasks (`data.groups`) that some answer belongs to."""
    tasks = {a.task for a in answers}
    found = {}
    for group in data.groups:
        members = group_members(group, tasks, data.groups)
        if members:
            found[group] = marks([a for a in answers if a.task in members])
    return found


def look_at_both(base: dict[str, Any], tuned: dict[str, Any], facts: Facts) -> list[dict[str, str]]:
    """Counts in `tuned["probes"]` how many answers are the base's, letter by letter; returns what to warn of."""
    before, after = _said(base), _said(tuned)
    same = sum(b["said"] == a["said"] for b, a in zip(before, after, strict=True))
    tuned["probes"]["as_base"] = {"count": same, "of": len(after)}
    asked = Counter(language_of(a.get("instruction") or a.get("prompt", "")) for a in after)
    return warnings(tuned["probes"], facts, asked)


def _said(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for part in PARTS for a in found.get(part, {}).get("said", [])] + found["prompts"]


def rows_of_table(base: dict[str, Any], tuned: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, base, tuned) for every number that both have."""
    names = {"val": "held-out rows", "holdout": "tasks never trained on"}
    rows = []
    for part in PARTS:
        if part not in base or part not in tuned:
            continue
        b, t, name = base[part], tuned[part], names[part]
        rows.append((f"{name}: loss ({t['rows']} rows)", f"{b['loss']:.3f}", f"{t['loss']:.3f}"))
        if "exact" in t:
            rows.append((f"{name}: exact match ({t['answers']} answers)", _exact(b), _exact(t)))
            for group, marked in t.get("by_group", {}).items():
                what = f"{name}, group {group}: exact match ({marked['answers']} answers)"
                rows.append((what, _exact(b["by_group"][group]), _exact(marked)))
            rows.append((f"{name}: right answer contained", f"{b['contained']:.1%}", f"{t['contained']:.1%}"))
            rows.append((f"{name}: stopped by itself", f"{b['stopped']:.1%}", f"{t['stopped']:.1%}"))
    rows += probes.rows(base.get("probes", {}), tuned.get("probes", {}))
    return rows + _general_rows(base.get("general"), tuned.get("general"))


def _exact(marked: dict[str, Any]) -> str:
    return shown(marked["exact"], marked["exact_standard_error"], ".1%")


def _general_rows(base: dict[str, Any] | None, tuned: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if not base or not tuned:
        return []
    change, error = forgetting(base, tuned)
    return [
        (f"general text: loss ({tuned['tokens']:,} tokens)", f"{base['loss']:.3f}", f"{tuned['loss']:.3f}"),
        ("general text: perplexity", f"{base['perplexity']:.1f}", f"{tuned['perplexity']:.1f}"),
        ("forgetting: change of that loss", "", shown(change, error, "+.3f")),
    ]
