"""Probes at the end of training: answers of the model to a few questions, with their faults (`probes`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.schema import Eval
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.answers import Answer, read
from pipeline.evaluation.probe_causes import Facts, advice, warnings
from pipeline.evaluation.probes import NAMES, fitting, languages_asked, probe, signs
from pipeline.model.adapter import adapter_disabled
from pipeline.model.generate import answering, greedy
from pipeline.model.loss import label_logits
from pipeline.model.memory import OutOfMemory, each_group
from pipeline.model.sharded import is_sharded
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE
from pipeline.run.progress import say

ROWS = 16
LIMIT = 64  # new tokens at most, also if `eval.max_new_tokens` allows more
COMPARED = 8  # answers compared with the base's, at the cost of a pass over them
POOL = 256  # rows that the questions are chosen from
TIE = {torch.float32: 1e-4, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}  # of a logit's size: rounding


def probe_model(
    model: Any, encoder: AnyEncoder, dataset: Path, settings: Eval, longest: int | None, facts: Facts
) -> dict[str, Any]:
    """Answers of the model to held-out rows (training rows where there are none) and to `eval.prompts`.

    Args:
        dataset: folder of the data stage. longest: context length of the model, None if it has no limit.

    Returns:
        The content of `adapter/probes.json`: settings, `probes` (see `probes.probe`), `warnings`, `answers`; or
        `missing`, the reason why there are none.

    Raises:
        UserError: the model gives NaN (`NotFinite`).
    """
    limit = min(settings.max_new_tokens, LIMIT)
    split = "val" if next(read_examples(dataset, "val"), None) else "train"
    room = min(encoder.prompt_config.cutoff, (longest or 1 << 30) - limit)
    rows = choose(read_examples(dataset, split), encoder, limit, room)
    questions = rows + [Example.of(text, "", "", source="eval.prompts") for text in settings.prompts]
    if not questions:
        return {"missing": "no question: no row fits, and eval.prompts is empty", "warnings": []}
    prompts = [encoder.prompt_for(e) for e in questions]
    try:
        ids = greedy(model, prompts, end_id=encoder.end_id, max_new_tokens=limit, what="probes")
        is_as_base = as_base(model, prompts[:COMPARED], ids[:COMPARED])
    except (torch.cuda.OutOfMemoryError, OutOfMemory):
        if is_sharded(model):  # the other ranks wait in this pass
            raise
        torch.cuda.empty_cache()
        return {"missing": "out of GPU memory", "warnings": []}
    answers = [read(encoder, example, ids_) for example, ids_ in zip(questions, ids, strict=True)]
    counted = probe(answers, encoder.template, fitting(encoder, [e.output for e in questions], limit))
    if is_as_base is not None:
        counted["as_base"] = {"count": sum(is_as_base), "of": len(is_as_base)}
    return {
        "part": split,
        "rows": len(rows),
        "prompts": len(questions) - len(rows),
        "max_new_tokens": limit,
        "probes": counted,
        "warnings": warnings(counted, facts, languages_asked(answers)),
        "answers": [_shown(answer, encoder) for answer in answers],
    }


def _shown(answer: Answer, encoder: AnyEncoder) -> dict[str, Any]:
    shown = [name for name, is_shown in signs(answer, encoder.template).items() if is_shown]
    return {**answer.as_dict(), "signs": shown}


def choose(examples: Iterable[Example], encoder: AnyEncoder, limit: int, room: int) -> list[Example]:
    """`ROWS` rows by content hash, the same on every machine; languages in turn, references that fit first.

    Args:
        room: most tokens of a prompt.
    """
    by_language: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: e.id):
        by_language.setdefault(example.language, []).append(example)
    turns = (e for e in chain.from_iterable(zip_longest(*by_language.values())) if e is not None)
    pool = [e for e, _ in zip(turns, range(POOL), strict=False)]
    pool = [e for e in pool if len(encoder.prompt_for(e)) <= room]
    fits = dict(zip([e.id for e in pool], fitting(encoder, [e.output for e in pool], limit), strict=True))
    return sorted(pool, key=lambda e: not fits[e.id])[:ROWS]


@torch.inference_mode()
def as_base(model: Any, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]) -> list[bool] | None:
    """Whether the base alone gives the same greedy answers, ties aside; None where the adapter cannot be switched off.

    One pass instead of many: where the base's likeliest token equals the answer's at every position, the base's own
    greedy answer is this one.
    """
    without_adapter = adapter_disabled(model)
    if without_adapter is None:
        return None
    same = [True] * len(prompts)
    rows = [
        (np.array([*prompt, *answer]), np.array([*[IGNORE] * len(prompt), *answer]))
        for prompt, answer in zip(prompts, ids, strict=True)
    ]

    def others(group: list[int]) -> set[int]:
        """Rows in which the base prefers another token somewhere."""
        differing: set[int] = set()
        with contextlib.closing(label_logits(model, pad([rows[i] for i in group]))) as slices:
            for logits, labels, at in slices:
                most, tie = logits.amax(-1).float(), TIE.get(logits.dtype, 1e-4)
                is_same = logits.gather(-1, labels[:, None])[:, 0].float() >= most - tie * most.abs()
                differing |= {group[n] for n in at[~is_same].tolist()}
        return differing

    with answering(model), without_adapter:
        for _, differing in each_group(model, [len(row) for row, _ in rows], others):
            for i in differing:
                same[i] = False
    return same


def tell(probed: Mapping[str, Any]) -> None:
    """Prints the counts and warnings at the end of training."""
    if probed.get("missing"):
        say(f"train: answers not checked: {probed['missing']}")
        return
    where = "held-out" if probed["part"] == "val" else "training"
    say(
        f"train: answers checked: {probed['rows']} {where} rows and {probed['prompts']} prompts, "
        f"at most {probed['max_new_tokens']} tokens each"
    )
    parts = [f"{NAMES[name]} {n['count']} of {n['of']}" for name, n in probed["probes"].items() if n["of"]]
    say(f"       {', '.join(parts)}")
    if not probed["probes"]["stops"]["of"]:
        say("       whether answers end was not checked: no reference fits into eval.max_new_tokens")
    for warning in probed["warnings"]:
        say(advice(warning, "       "))
