"""Asks a freshly trained model a few questions and looks at its answers (`probes`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch

from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.answers import Answer, read
from pipeline.evaluation.probe_causes import Facts, advice, warnings
from pipeline.evaluation.probes import NAMES, fitting, languages_asked, probe, signs
from pipeline.model.adapter import adapter_disabled
from pipeline.model.generate import answering, greedy
from pipeline.model.load import context_length
from pipeline.model.loss import label_logits
from pipeline.model.memory import OutOfMemory, each_group
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE, Encoder
from pipeline.run.folder import Run
from pipeline.run.progress import say

ROWS = 16
LIMIT = 64  # new tokens at most, whatever `eval.max_new_tokens` allows
COMPARED = 8  # answers that the base is asked about: it costs a pass over them
POOL = 256  # rows that the questions are chosen from
TIE = {torch.float32: 1e-4, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}  # of a logit's size: rounding


def probe_model(model: Any, config: Config, run: Run, encoder: Encoder, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Answers of the model to held-out rows (training rows where there are none) and to `eval.prompts`.

    Args:
        counts: of the training, as its manifest will have them.

    Returns:
        What `adapter/probes.json` holds: how it was asked, `probes` (see `probes.probe`), `warnings`, `answers`; or
        `missing`, why nothing was asked.

    Raises:
        UserError: the model gives NaN (`NotFinite`).
    """
    limit = min(config.eval.max_new_tokens, LIMIT)
    dataset = run.folder("dataset")
    part = "val" if next(read_examples(dataset, "val"), None) else "train"
    longest = context_length(model.config, config.adapter) or 1 << 30
    room = min(config.prompt.cutoff, longest - limit)
    chosen = choose(read_examples(dataset, part), encoder, limit, room)
    asked = chosen + [Example.of(text, "", "", source="eval.prompts") for text in config.eval.prompts]
    if not asked:
        return {"missing": "no question: no row fits, and eval.prompts is empty", "warnings": []}
    prompts = [encoder.prompt(e.instruction, e.input) for e in asked]
    try:
        ids = greedy(model, prompts, end_id=encoder.end_id, max_new_tokens=limit, what="probes")
        same = as_base(model, prompts[:COMPARED], ids[:COMPARED])
    except (torch.cuda.OutOfMemoryError, OutOfMemory):
        torch.cuda.empty_cache()
        return {"missing": "the card's memory did not suffice", "warnings": []}
    answers = [read(encoder, example, made) for example, made in zip(asked, ids, strict=True)]
    found = probe(answers, encoder.template, fitting(encoder, [e.output for e in asked], limit))
    if same is not None:
        found["as_base"] = {"count": sum(same), "of": len(same)}
    return {
        "part": part,
        "rows": len(chosen),
        "prompts": len(asked) - len(chosen),
        "max_new_tokens": limit,
        "probes": found,
        "warnings": warnings(found, Facts.of(config, run, counts), languages_asked(answers)),
        "answers": [_shown(answer, encoder) for answer in answers],
    }


def _shown(answer: Answer, encoder: Encoder) -> dict[str, Any]:
    shows = [name for name, there in signs(answer, encoder.template).items() if there]
    return {**answer.as_dict(), "signs": shows}


def choose(examples: Iterable[Example], encoder: Encoder, limit: int, room: int, count: int = ROWS) -> list[Example]:
    """Rows by content hash, so the same ones on every machine; languages in turn, references that fit first.

    Args:
        room: most tokens of a prompt.
    """
    by_language: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: e.id):
        by_language.setdefault(example.language, []).append(example)
    turns = (e for e in chain.from_iterable(zip_longest(*by_language.values())) if e is not None)
    pool = [e for e, _ in zip(turns, range(POOL), strict=False)]
    pool = [e for e in pool if len(encoder.prompt(e.instruction, e.input)) <= room]
    fits = dict(zip([e.id for e in pool], fitting(encoder, [e.output for e in pool], limit), strict=True))
    return sorted(pool, key=lambda e: not fits[e.id])[:count]


@torch.inference_mode()
def as_base(model: Any, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]) -> list[bool] | None:
    """Whether the model without what was trained would give the same answers, ties aside; None where it cannot say.

    One pass instead of many: if at each place of the answer the base's likeliest token is the one that stands there,
    then the base's own greedy answer is this one.
    """
    held = adapter_disabled(model)
    if held is None:
        return None
    same = [True] * len(prompts)
    rows = [
        (np.array([*prompt, *answer]), np.array([*[IGNORE] * len(prompt), *answer]))
        for prompt, answer in zip(prompts, ids, strict=True)
    ]

    def others(group: list[int]) -> set[int]:
        """Rows of which the base would say some token otherwise."""
        found: set[int] = set()
        with contextlib.closing(label_logits(model, pad([rows[i] for i in group]))) as slices:
            for logits, there, at in slices:
                most, tie = logits.amax(-1).float(), TIE.get(logits.dtype, 1e-4)
                is_same = logits.gather(-1, there[:, None])[:, 0].float() >= most - tie * most.abs()
                found |= {group[n] for n in at[~is_same].tolist()}
        return found

    with answering(model), held:
        for _, found in each_group(model, [len(row) for row, _ in rows], others):
            for i in found:
                same[i] = False
    return same


def tell(found: Mapping[str, Any]) -> None:
    """The short block at the end of training."""
    if found.get("missing"):
        say(f"train: probes: {found['missing']}")
        return
    where = "held-out" if found["part"] == "val" else "training"
    say(
        f"train: probes: {found['rows']} {where} rows and {found['prompts']} prompts, "
        f"at most {found['max_new_tokens']} tokens each"
    )
    shown = [f"{NAMES[name]} {n['count']} of {n['of']}" for name, n in found["probes"].items() if n["of"]]
    say(f"       {' | '.join(shown)}")
    if not found["probes"]["stops"]["of"]:
        say("       whether they stop was not asked: no reference is short enough (eval.max_new_tokens)")
    for warning in found["warnings"]:
        say(advice(warning, "       "))
