"""Measurements of an export: the numbers and answers of `results.json`, and the table at the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config.schema import Eval
from pipeline.dataset.example import Example
from pipeline.dataset.language import language_of
from pipeline.dataset.select.split import group_members
from pipeline.evaluation import known, probes
from pipeline.evaluation.answers import Answer, marks
from pipeline.evaluation.general import forgetting, general_loss, general_windows
from pipeline.evaluation.held_out_rows import HeldOutRows
from pipeline.evaluation.known_questions import read_questions
from pipeline.evaluation.measure import MeasuredModel
from pipeline.evaluation.probe_causes import Facts, warnings
from pipeline.evaluation.probes import fitting, probe
from pipeline.evaluation.scores import shown
from pipeline.evaluation.shots import Shots
from pipeline.run.files import sha256_json
from pipeline.run.folder import HELD_OUT


def measure(
    measured: MeasuredModel, splits: Mapping[str, HeldOutRows], settings: Eval, groups: Mapping[str, Sequence[str]],
    longest: int, shots: Shots | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Loss and exact match by split, loss on general text, answers to `eval.prompts` and `eval.known`, and probes.

    Args:
        groups: of tasks (`data.groups`). longest: tokens that the model sees. shots: before every question.
    """
    results: dict[str, Any] = {}
    encoder, limit = measured.encoder, settings.max_new_tokens
    answers: list[Answer] = []
    for split, rows in splits.items():
        tokens, chosen = rows.encoded(shots)
        sums, counts = measured.losses(tokens, chosen, f"loss, {split}")
        loss = sum(sums) / sum(counts) if any(counts) else math.nan
        results[split] = {"rows": len(chosen), "loss": loss}
        if rows.exact:
            given = measured.answers(rows.exact, limit, f"answers, {split}", shots)
            answers += given
            results[split] |= {
                **marks(given),
                "by_task": _by_task(given),
                "by_group": _by_group(given, groups),
                "said": [a.as_dict() for a in given],
            }
    results["general"] = _general(measured, settings, longest)
    prompts = [Example.of(text, "", "", source="eval.prompts") for text in settings.prompts]
    given = measured.answers(prompts, limit, "prompts", shots)
    answers += given
    fits = fitting(encoder, [a.expected for a in answers], limit)
    results["probes"] = probe(answers, encoder.template, fits)
    results["prompts"] = [{"prompt": a.instruction, "said": a.text.strip(), "stopped": a.stopped} for a in given]
    results["known"] = known.ask(measured, read_questions(settings.known))
    return results


def _general(measured: MeasuredModel, settings: Eval, longest: int) -> dict[str, Any]:
    windows = general_windows(settings, measured.encoder, longest)
    text = {"windows": sha256_json([[w.ids.tolist(), w.scored] for w in windows])}
    return measured.result(
        "general text", text, lambda model: general_loss(model, windows, f"{measured.label}: general text")
    )


def _by_task(answers: Iterable[Answer]) -> dict[str, float]:
    by_task: dict[str, list[Answer]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, []).append(answer)
    return {task: marks(by_task[task])["exact"] for task in sorted(by_task)}


def _by_group(answers: Sequence[Answer], groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """`marks` of each group of tasks (`data.groups`) that has answers."""
    tasks = {a.task for a in answers}
    members = {group: group_members(group, tasks, groups) for group in groups}
    return {group: marks([a for a in answers if a.task in members[group]]) for group in groups if members[group]}


def compare_answers(base: dict[str, Any], tuned: dict[str, Any], facts: Facts) -> list[dict[str, str]]:
    """Adds the count of answers that equal the base's to `tuned["probes"]`; returns the warnings."""
    before, after = _answers(base), _answers(tuned)
    same = sum(b["said"] == a["said"] for b, a in zip(before, after, strict=True))
    tuned["probes"]["as_base"] = {"count": same, "of": len(after)}
    languages = Counter(language_of(a.get("instruction") or a.get("prompt", "")) for a in after)
    return warnings(tuned["probes"], facts, languages)


def _answers(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for split in HELD_OUT for a in results.get(split, {}).get("said", [])] + results["prompts"]


def numbers_of(results: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `measure` without the answers, for a record in the adapter store."""
    return {split: {k: v for k, v in results[split].items() if k != "said"} for split in HELD_OUT if split in results}


def rows_of_table(base: dict[str, Any], tuned: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, base, tuned) for every number that both have."""
    rows = []
    for split, name in HELD_OUT.items():
        if split not in base or split not in tuned:
            continue
        b, t = base[split], tuned[split]
        rows.append((f"{name}: loss ({t['rows']} rows)", f"{b['loss']:.3f}", f"{t['loss']:.3f}"))
        if "exact" in t:
            rows.append((f"{name}: exact match ({t['answers']} answers)", exact_share(b), exact_share(t)))
            for group, marked in t.get("by_group", {}).items():
                what = f"{name}, group {group}: exact match ({marked['answers']} answers)"
                rows.append((what, exact_share(b["by_group"][group]), exact_share(marked)))
            rows.append((f"{name}: right answer contained", f"{b['contained']:.1%}", f"{t['contained']:.1%}"))
            rows.append((f"{name}: stopped by itself", f"{b['stopped']:.1%}", f"{t['stopped']:.1%}"))
    rows += known.rows(base.get("known", []), tuned.get("known", []))
    rows += probes.rows(base.get("probes", {}), tuned.get("probes", {}))
    return rows + _general_rows(base.get("general"), tuned.get("general"))


def exact_share(marked: dict[str, Any], form: str = ".1%") -> str:
    """`84.4% ± 4.6%`; without the error where there is a single answer."""
    return shown(marked["exact"], marked["exact_standard_error"], form)


def _general_rows(base: dict[str, Any] | None, tuned: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if not base or not tuned:
        return []
    change, error = forgetting(base, tuned)
    return [
        (f"general text: loss ({tuned['tokens']:,} tokens)", f"{base['loss']:.3f}", f"{tuned['loss']:.3f}"),
        ("general text: perplexity", f"{base['perplexity']:.1f}", f"{tuned['perplexity']:.1f}"),
        ("forgetting: change of that loss", "", shown(change, error, "+.3f")),
    ]
