"""Answers of base and tuned model to the same questions, in the trained template, one model in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.comparison.answer_pairs import AnswerPair, ModelAnswer
from pipeline.comparison.questions import WHERE, CompareQuestion, TooLong
from pipeline.config.schema import Config
from pipeline.evaluation.answers import Answer
from pipeline.evaluation.measure import MeasuredModel, base_model, tuned_model
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.model import base as bases
from pipeline.model.exported import export_dtype, export_kind
from pipeline.model.generate import NotFinite
from pipeline.model.precision import device
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.run.errors import UserError
from pipeline.run.folder import Run

CPU_BATCH = 8  # answers are written to disk by batch, and on a CPU a large batch takes minutes


def answer_questions(
    config: Config, run: Run, questions: Sequence[CompareQuestion]
) -> tuple[list[AnswerPair], list[TooLong]]:
    """Both models' answers; those that an earlier command measured are not generated again.

    Returns:
        The pairs in the order of the questions, and the questions that were too long.

    Raises:
        UserError: no question fits, a model cannot be loaded, or its logits are not finite (with the question's name).
    """
    base, limit = RunBase.of(config, bases.resolve(config.model)), config.compare.max_new_tokens
    sees = base.context_length()
    asked, skipped = fitting(base.encoder, questions, sees, limit)
    shots = None
    if export_kind(run.folder("export")) == "nothing":  # the tuned model is the base with examples
        shots = shots_from(run.folder("dataset"), base.encoder, base.seed, sees, limit, base.adapter.shots)
    tuned = tuned_model(run, base, export_dtype(config.export, config.model))
    answers = {
        "base": _ask(base_model(run.folder("measurements"), base), asked, limit, None),
        "tuned": _ask(tuned, asked, limit, shots),
    }
    pairs = [
        AnswerPair(q, *(ModelAnswer(_text(answer), answer.stopped) for answer in both))
        for q, *both in zip(asked, answers["base"], answers["tuned"], strict=True)
    ]
    return pairs, skipped


def fitting(
    encoder: AnyEncoder, questions: Sequence[CompareQuestion], sees: int | None, room: int
) -> tuple[list[CompareQuestion], list[TooLong]]:
    """The questions whose prompt leaves `room` tokens for an answer, and those that are too long.

    Args:
        sees: tokens that the model sees; None: no limit.

    Raises:
        UserError: all are too long, or a chat template refuses one (with its place).
    """
    short, long = [], []
    for question in questions:
        try:
            length = len(encoder.prompt_for(question.example()))
        except UserError as error:  # the chat template refuses the conversation
            raise UserError(error.what, question.place, "fix or delete that row") from None
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


def _ask(
    measured: MeasuredModel, questions: Sequence[CompareQuestion], limit: int, shots: Shots | None
) -> list[Answer]:
    """The model's answers to the questions, in their order.

    Raises:
        UserError: its logits are not finite (with the question's name).
    """
    examples = [question.example() for question in questions]
    try:
        return measured.answers(examples, limit, "answers", shots, 0 if device().type == "cuda" else CPU_BATCH)
    except NotFinite as error:
        question = questions[error.rows[0]]
        what = f"the {measured.label} model's logits are not finite for the question {question.id!r}"
        raise UserError(what, question.place, error.fix) from None
    finally:
        measured.release()


def _text(answer: Answer) -> str:
    """The answer without an incomplete character at its end, where the limit cut it."""
    return answer.text if answer.stopped else answer.text.rstrip("\ufffd")
