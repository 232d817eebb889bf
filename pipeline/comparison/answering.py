"""Base and tuned model answer the same questions, each in the trained template, one model in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.comparison.pair import Pair, Said
from pipeline.comparison.questions import WHERE, Question
from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.evaluation.answers import Answer
from pipeline.evaluation.measurement import MeasuredModel, base_model, tuned_model
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.model import base as bases
from pipeline.model.exported import export_kind
from pipeline.model.generate import NotFinite
from pipeline.model.load import base_shape, context_length, device
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run

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
    sees = context_length(base_shape(config.model, base), config.adapter)
    asked, skipped = fitting(encoder, questions, sees, config.compare.max_new_tokens)
    limit = config.compare.max_new_tokens
    answers = {
        "base": _ask(base_model(config, run, base, encoder), asked, limit, None),
        "tuned": _ask(tuned_model(config, run, encoder), asked, limit, _shots(config, run, encoder, sees)),
    }
    pairs = [
        Pair(q, *(Said(_text(answer), answer.stopped) for answer in both))
        for q, *both in zip(asked, answers["base"], answers["tuned"], strict=True)
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


def _ask(measured: MeasuredModel, questions: Sequence[Question], limit: int, shots: Shots | None) -> list[Answer]:
    """The model's answers to the questions, in their order; those that are known are not generated again.

    Raises:
        UserError: its logits are not finite (with the question's name).
    """
    examples = [Example.of(q.instruction, q.input, "", source=q.set, task=q.category) for q in questions]
    try:
        return measured.answers(examples, limit, "answers", shots, 0 if device().type == "cuda" else CPU_BATCH)
    except NotFinite as error:
        question = questions[error.rows[0]]
        what = f"the {measured.label} model's logits are not finite for the question {question.id!r}"
        raise UserError(what, question.place, error.fix) from None
    finally:
        measured.release()


def _text(answer: Answer) -> str:
    """The answer without half a character that the limit left at its end."""
    return answer.said if answer.stopped else answer.said.rstrip("\ufffd")


def _shots(config: Config, run: Run, encoder: Encoder, sees: int | None) -> Shots | None:
    """Examples for the prompt, where that is all that tuned means."""
    if export_kind(run) != "nothing":
        return None
    room, count = config.compare.max_new_tokens, config.adapter.shots
    return shots_from(run.folder("dataset"), encoder, config.train.seed, sees, room, count)
