"""The verdict on top of the run report: one sentence on task, forgetting and stopping, from the measured numbers.

    Better on the task by 84 ± 5 points (64 answers), nothing forgotten, stops by itself.

Each part is decided by the difference and its standard error; what was not measured is called so.

    task         exact match of tuned - base on held-out rows, answer by answer; without it the loss of the held-out
                 rows. Better or worse beyond two standard errors.
    forgetting   change of the loss on general text, window by window. Forgotten where it is beyond two standard errors
                 and above `SLIGHT`; nothing forgotten where even change + 2 errors is below `CLEAR`; else unclear.
                 Where the base answers `FEWEST` questions of `eval.known` right: forgotten too where the tuned model
                 answers less than `KEPT` of them right.
    stopping     share of the tuned model's answers that end by themselves: `STOPS` and more, or `MOSTLY` and more
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.general import forgetting
from pipeline.evaluation.known import shares
from pipeline.evaluation.scores import mean
from pipeline.pages.phrases import Phrase, joined, phrase

SLIGHT = 0.02  # nats a token: a change that nobody notices
CLEAR = 0.1  # nats a token: the most that may be hidden in the error of "nothing forgotten"
FEWEST, KEPT = 10, 0.9  # questions that the base answers right; share of them to keep
STOPS, MOSTLY = 0.95, 0.85  # the second is where the probe gives its warning
UNKNOWN, GOOD, BAD = "unknown", "good", "bad"


@dataclass(frozen=True)
class Part:
    """state: `good`, `bad` or `unknown`."""

    state: str
    text: Phrase


@dataclass(frozen=True)
class Verdict:
    """state: `bad` where a part is, `good` where all are good, else `unknown`. text: the sentence."""

    state: str
    text: Phrase
    parts: tuple[Part, ...] = ()


def verdict(results: Mapping[str, Any]) -> Verdict:
    """The verdict on a run. results: `results.json` of the export; empty where nothing was measured."""
    base, tuned = results.get("base") or {}, results.get("tuned") or {}
    if not base or not tuned:
        return Verdict(UNKNOWN, phrase("verdict-none"))
    parts = task(base.get("val") or {}, tuned.get("val") or {}), forgotten(base, tuned), stopping(tuned)
    states = {part.state for part in parts}
    state = BAD if BAD in states else GOOD if states == {GOOD} else UNKNOWN
    whole = joined((part.text for part in parts), ", ")
    return Verdict(state, Phrase(f"{whole[:1].upper()}{whole[1:]}.", f"{whole.korean}."), parts)


def task(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Part:
    """Held-out rows. base, tuned: their numbers of the split `val`."""
    before, after = ([float(answer["exact"]) for answer in part.get("said") or ()] for part in (base, tuned))
    if before and len(before) == len(after):
        return _by_answers(before, after)
    losses = [loss for loss in (base.get("loss"), tuned.get("loss")) if isinstance(loss, (int, float))]
    if len(losses) == 2 and all(map(math.isfinite, losses)):
        key = "loss-fell" if losses[1] < losses[0] else "loss-rose" if losses[1] > losses[0] else "loss-same"
        state = BAD if key == "loss-rose" else UNKNOWN  # a loss without its error proves nothing good
        return Part(state, phrase(f"verdict-{key}", base=f"{losses[0]:.2f}", tuned=f"{losses[1]:.2f}"))
    return Part(UNKNOWN, phrase("verdict-task-unmeasured"))


def _by_answers(before: Sequence[float], after: Sequence[float]) -> Part:
    change, error = mean([t - b for b, t in zip(before, after, strict=True)])
    points = f"{100 * abs(change):.0f}" + ("" if math.isnan(error) else f" ± {100 * error:.0f}")
    values = {"points": points, "n": len(after)}
    if math.isnan(error) or abs(change) <= 2 * error or not change:
        return Part(UNKNOWN, phrase("verdict-task-same", change=f"{100 * change:+.0f}", **values))
    return (
        Part(GOOD, phrase("verdict-better", **values)) if change > 0 else Part(BAD, phrase("verdict-worse", **values))
    )


def forgotten(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Part:
    """Loss on general text, and questions that the base answers right (`eval.known`)."""
    if not base.get("general") or not tuned.get("general"):
        return Part(UNKNOWN, phrase("verdict-forgetting-unmeasured"))
    change, error = forgetting(base["general"], tuned["general"])
    error = 0.0 if math.isnan(error) else error
    values = {"change": f"{change:+z.2f}" if not error else f"{change:+z.2f} ± {error:.2f}"}
    if change > max(2 * error, SLIGHT):
        return Part(BAD, phrase("verdict-forgot", **values))
    kept, known = _kept(base, tuned)
    if known >= FEWEST and kept < KEPT * known:
        return Part(BAD, phrase("verdict-forgot-facts", kept=kept, known=known))
    if change + 2 * error < CLEAR:
        key = "verdict-keeps-facts" if FEWEST <= known != kept else "verdict-not-forgotten"
        return Part(GOOD, phrase(key, kept=kept, known=known))
    return Part(UNKNOWN, phrase("verdict-forgetting-unclear", **values))


def _kept(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> tuple[int, int]:
    """Questions that the base answers right: how many of them the tuned model answers right, and their number."""
    shared = shares(base.get("known") or (), tuned.get("known") or ())
    entries = [entry for entry in shared if entry["asked"] == "right" and entry["n"]]
    return sum(round(entry["tuned"] * entry["n"]) for entry in entries), sum(entry["n"] for entry in entries)


def stopping(tuned: Mapping[str, Any]) -> Part:
    """Answers that end by themselves: the probe's, which asks only where the reference fits, else all held-out ones."""
    probe = (tuned.get("probes") or {}).get("stops") or {}
    count, of = int(probe.get("count") or 0), int(probe.get("of") or 0)
    if not of:
        said = (tuned.get("val") or {}).get("said") or ()
        count, of = sum(bool(answer["stopped"]) for answer in said), len(said)
    if not of:
        return Part(UNKNOWN, phrase("verdict-stopping-unmeasured"))
    values = {"count": count, "of": of}
    if count >= STOPS * of:
        return Part(GOOD, phrase("verdict-stops"))
    return (
        Part(UNKNOWN, phrase("verdict-mostly-stops", **values))
        if count >= MOSTLY * of
        else Part(BAD, phrase("verdict-does-not-stop", **values))
    )
