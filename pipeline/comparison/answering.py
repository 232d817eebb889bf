"""Base and tuned model answer the same questions, each in the trained template, one model in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.comparison.kept import Kept
from pipeline.comparison.pair import Pair, Said
from pipeline.comparison.questions import WHERE, Question
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.evaluation.answers import Answer, answer
from pipeline.evaluation.shots import Shots, shots_of
from pipeline.files import sha256_json
from pipeline.model import base as bases
from pipeline.model import identity
from pipeline.model.base import Base
from pipeline.model.exported import base_with_tokens, dtype_of_export, exported_model, free_memory, holds
from pipeline.model.generate import NotFinite
from pipeline.model.load import context_of, dtype_name
from pipeline.progress import say
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of, rules
from pipeline.record import Example
from pipeline.run import Run

WHO = ("base", "tuned")
CPU_BATCH = 8  # answers are kept batch by batch, and on a CPU a large one takes minutes


def answered(config: Config, run: Run, questions: Sequence[Question]) -> tuple[list[Pair], list[tuple[Question, int]]]:
    """Both models' answers; answers of an earlier call that was stopped, or had other questions too, are taken over.

    Returns:
        The pairs in the order of the questions, and the questions that were too long, each with its tokens.

    Raises:
        UserError: no question fits, a model cannot be loaded, or its logits are not finite (with the question's name).
    """
    base = bases.resolve(config.model)
    encoder = encoder_of(config, base.tokenizer)
    sees = context_of(config, base)
    asked, skipped = fitting(encoder, questions, sees, config.compare.max_new_tokens)
    said = {}
    for who in WHO:
        kept = Kept(run.root / "partial" / f"{who}.jsonl", _key(config, run, encoder, who))
        _ask(config, run, base, encoder, sees, asked, kept, who)
        said[who] = [kept.found[_name(q)] for q in asked]
    pairs = [
        Pair(q, *(Said(row["said"], row["stopped"]) for row in rows))
        for q, *rows in zip(asked, said["base"], said["tuned"], strict=True)
    ]
    return pairs, skipped


def fitting(
    encoder: Encoder, questions: Sequence[Question], sees: int | None, room: int
) -> tuple[list[Question], list[tuple[Question, int]]]:
    """The questions that leave `room` tokens for an answer, and those that do not, with their length in tokens.

    Raises:
        UserError: none does.
    """
    short, long = [], []
    for question in questions:
        length = len(encoder.prompt(question.instruction, question.input))
        if sees is not None and length + room > sees:
            long.append((question, length))
        else:
            short.append(question)
    if not short:
        shortest = min(length for _, length in long)
        raise UserError(
            f"no question fits: the model sees {sees:,} tokens, the shortest prompt has {shortest:,} of them, and "
            f"{room:,} are kept for the answer", WHERE, "lower compare.max_new_tokens, or ask shorter questions",
        )  # fmt: skip
    return short, long


def _key(config: Config, run: Run, encoder: Encoder, who: str) -> dict[str, Any]:
    """All that a model's answers depend on, besides the question."""
    key = {
        "version": 1,
        "who": who,
        "model": identity.settings(config.model),
        "base": identity.identity(config.model),
        "template": encoder.template.hash,
        "tokenizer": encoder.tokenizer.hash,
        "prompt": rules(config),
        "max_new_tokens": config.compare.max_new_tokens,
        "dtype": dtype_name(config.model) if who == "base" else dtype_of_export(config, run),
    }
    return key if who == "base" else {**key, "export": run.result("export")}


def _name(question: Question) -> str:
    return sha256_json([question.instruction, question.input, question.category])


def _ask(
    config: Config, run: Run, base: Base, encoder: Encoder, sees: int | None, asked: Sequence[Question], kept: Kept,
    who: str,
) -> None:  # fmt: skip
    """Has the model called `who` answer what is not in `kept` yet."""
    missing = [q for q in asked if _name(q) not in kept.found]
    if not missing:
        return
    if len(missing) < len(asked):
        say(f"compare: {who}: {len(asked) - len(missing)} of {len(asked)} answers are there already")
    torch.manual_seed(0)
    if who == "base":
        model, shots = base_with_tokens(config, base, encoder), None
    else:
        model, shots = exported_model(config, run), _shots(config, run, encoder, sees)
    examples = [Example.of(q.instruction, q.input, "", source=q.set, task=q.category) for q in missing]

    def keep(i: int, one: Answer) -> None:
        # A letter that the limit cut in half is no letter.
        said = one.said if one.stopped else one.said.rstrip("\ufffd")
        kept.add(_name(missing[i]), {"said": said, "stopped": one.stopped})

    batch = 0 if next(model.parameters()).is_cuda else CPU_BATCH
    try:
        answer(
            model, encoder, examples, config.compare.max_new_tokens, f"compare: {who}", shots,
            batch=batch, done=keep,
        )  # fmt: skip
    except NotFinite as error:
        question = missing[error.rows[0]]
        what = f"the {who} model's logits are not finite for the question {question.id!r}"
        raise UserError(what, question.place, error.fix) from None
    del model
    free_memory()


def _shots(config: Config, run: Run, encoder: Encoder, sees: int | None) -> Shots | None:
    """Examples for the prompt, where that is all that tuned means."""
    if holds(run) != "nothing":
        return None
    return shots_of(config, run, encoder, sees, config.compare.max_new_tokens, config.adapter.shots)
