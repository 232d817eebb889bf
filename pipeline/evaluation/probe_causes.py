"""Likely causes of faults that the probes found, and what to do, from the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import Prompt, Train
from pipeline.evaluation.probes import NAMES, Counts
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command

# Shares from which a warning is given, chosen by hand: of 16 answers, three that do not stop, two with another fault.
LEAST_STOPPED = 0.85
MOST = 0.1
FEWEST = 2  # answers; a single one gives no warning
ALL = 0.9  # share of answers that equal the base's: nothing was learnt
CUT = 0.05  # share of rows without an end token from which it is named as a cause
FELL = 0.1  # relative fall of the loss that counts as learning
FEW_STEPS = 30
LOOP_FIX = "train longer; where the loss jumped on the way, lower train.lr; look at the data for answers that loop"


@dataclass(frozen=True)
class Facts:
    """Facts of a run.

    Attributes:
        rows, cut: training rows, and those of them that lost their end token at the cutoff. languages: kept rows by
        language. steps: behind the weights that are used. losses: of the first and the last step, None without
        training. is_ended_early: by `train.early_stop`.
    """

    prompt: Prompt
    train: Train
    rows: int = 0
    cut: int = 0
    languages: Mapping[str, int] | None = None
    steps: int = 0
    losses: tuple[float, float] | None = None
    is_ended_early: bool = False

    @classmethod
    def of(cls, prompt: Prompt, train: Train, run: Run, counts: Mapping[str, Any]) -> Facts:
        """From the run folder; `counts`: of the training, as its manifest has them."""
        encoded = ((run.manifest("tokens") or {}).get("counts") or {}).get("train") or {}
        rows, cut = encoded.get("rows", 0), encoded.get("cut", 0)
        languages = (read_json(run.folder("dataset") / "report.json") or {}).get("languages")
        losses = (counts["first_loss"], counts["last_loss"]) if "first_loss" in counts else None
        steps = counts.get("best_step", counts.get("steps", 0))
        return cls(prompt, train, rows, cut, languages, steps, losses, "planned_steps" in counts)


def warnings(counts: Counts, facts: Facts, wanted: Mapping[str, int] | None = None) -> list[dict[str, str]]:
    """Warnings with the probe, what it counted (`said`), the likely cause and what to do.

    Args:
        wanted: questions by language, for the probe of languages.
    """
    raised = []
    for name, counted in counts.items():
        if _is_bad(name, counted["count"], counted["of"]):
            cause, fix = _CAUSES[name](counts, facts, wanted or {})
            raised.append({"probe": name, "said": _said(name, counted), "cause": cause, "fix": fix})
    return raised


def advice(warning: Mapping[str, str], indent: str = "") -> str:
    """A warning as printed text."""
    lines = f"warning: {warning['said']}", f"  likely: {warning['cause']}", f"  do: {warning['fix']}"
    return "\n".join(indent + line for line in lines)


def _is_bad(name: str, count: int, of: int) -> bool:
    if not of:
        return False
    if name == "stops":
        return count / of < LEAST_STOPPED and of - count >= min(FEWEST, of)
    if name == "as_base":
        return of >= FEWEST and count / of >= ALL
    return count >= min(FEWEST, of) and count / of > MOST


def _said(name: str, counted: Mapping[str, int]) -> str:
    count, of = counted["count"], counted["of"]
    if name == "stops":
        return f"{of - count} of {of} answers do not end by themselves, though their references are short enough"
    return f"{count} of {of} answers {'are ' if name in ('language', 'empty', 'as_base') else ''}{NAMES[name]}"


def _stops(counts: Counts, facts: Facts, _: Mapping[str, int]) -> tuple[str, str]:
    cutoff = facts.prompt.cutoff
    if facts.rows and facts.cut / facts.rows >= CUT:
        share = f"{facts.cut / facts.rows:.0%}"
        cause = f"{share} of the training rows were cut at {cutoff} tokens, and so lost their end token"
        return cause, "raise prompt.cutoff, or set prompt.too_long=reject"
    if 2 * counts["repeats"]["count"] >= counts["stops"]["of"] - counts["stops"]["count"] > 0:
        return "the answers run into loops, and a loop never ends", LOOP_FIX
    return _too_little(facts)


def _repeats(_: Counts, facts: Facts, __: Mapping[str, int]) -> tuple[str, str]:
    if facts.train.epochs > 3 and facts.losses and facts.losses[1] < 0.1:
        cause = f"the rows are learnt by heart: {facts.train.epochs:g} epochs, loss {facts.losses[1]:.3f}"
        return cause, "train for fewer epochs, or lower train.lr"
    cause, _fix = _too_little(facts)
    return cause, LOOP_FIX


def _language(_: Counts, facts: Facts, wanted: Mapping[str, int]) -> tuple[str, str]:
    known = dict(facts.languages or {})
    total = sum(known.values())
    rare = [name for name in wanted if known.get(name, 0) < 0.2 * total]
    if rare and total:
        few = ", ".join(f"{known.get(name, 0):,} of {total:,} rows are {name}" for name in rare)
        return f"few rows teach the language asked: {few}", "add rows in that language, or weigh their source higher"
    return (
        "the base prefers another language, or rows answer in another one than they are asked in",
        "set data.sources[].language, so that the rule wrong-language catches such rows; train longer",
    )


def _echoes(_: Counts, facts: Facts, __: Mapping[str, int]) -> tuple[str, str]:
    if not facts.prompt.mask_prompt:
        return "prompt.mask_prompt is false, so the model learns to write prompts", "set prompt.mask_prompt=true"
    cause, fix = _too_little(facts)
    look = f"look for rows whose answers hold the question or the template's words (`{next_command('data')}`)"
    return cause, f"{fix}; {look}"


def _empty(_: Counts, facts: Facts, __: Mapping[str, int]) -> tuple[str, str]:
    cause = "rows with empty answers teach to say nothing, or the template's last sign and the answer's first are glued"
    look = f"look at `{next_command('preview')}`"
    return cause, f"{look}; keep the rule output-empty on; ask with the template that was trained"


def _as_base(_: Counts, facts: Facts, __: Mapping[str, int]) -> tuple[str, str]:
    if facts.losses and facts.losses[1] < (1 - FELL) * facts.losses[0]:
        cause = f"the loss fell from {facts.losses[0]:.3f} to {facts.losses[1]:.3f}, and yet the answers are the base's"
        return cause, "the base may know these answers already: ask others; otherwise report this with your config"
    return _too_little(facts)


def _too_little(facts: Facts) -> tuple[str, str]:
    """The remaining cause: too few steps, or too small a learning rate."""
    train = facts.train
    fell = f", loss {facts.losses[0]:.3f} -> {facts.losses[1]:.3f}" if facts.losses else ""
    cause = f"too little was learnt: {facts.steps:,} steps at train.lr={train.lr:g}{fell}"
    if not train.lr:
        return cause, "raise train.lr"
    if facts.is_ended_early:
        return cause, "raise train.early_stop, or train.lr"
    return cause, "train for more steps" if facts.steps < FEW_STEPS else "raise train.lr, or train for more epochs"


_CAUSES = {
    "stops": _stops,
    "repeats": _repeats,
    "language": _language,
    "echoes": _echoes,
    "empty": _empty,
    "as_base": _as_base,
}
