"""Sampled generation for many prompts at once: an answer depends on its own seed, not on the rest of its batch.

Each row has its own sequence of uniform numbers u, one a token. The token is the first one at which the cumulative
probability exceeds u (inversion of the distribution), so one number decides it:

    tokens         a    b    c    d
    probability   0.5  0.2  0.2  0.1
    cumulative    0.5  0.7  0.9  1.0       u = 0.65 -> b

Up to rounding, a row's answer is the same in any batch, at any place in it, and on any device.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from pipeline.model.generate import answering, generate_batch, most_tokens, rows_at_once
from pipeline.model.memory import OutOfMemory

NUCLEUS = 1024  # most tokens that top_p chooses from: sorting the whole vocabulary would take longer than the model
LONGEST_PERIOD = 64  # tokens of a passage that is found when it repeats
REPEATS = 3  # times that it must stand there, and
SHORTEST_LOOP = 32  # tokens that they must have together
LOOK_EVERY = 8  # tokens between two searches for repetition


@dataclass(frozen=True)
class Question:
    """A prompt and how its answer is drawn.

    Attributes:
        ids: of the prompt.
        max_new_tokens: most tokens of the answer, the end token included.
        temperature: 0 = always the most probable token.
        seed: of the row's numbers, 0 to 2^64 - 1.
    """

    ids: Sequence[int]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """ids: new ones, without the end token. tokens: their number with the end token.

    end: stop (by an end token), length (the limit, or the model's context), repetition (the same passage again and
    again), or cancelled.
    """

    ids: list[int]
    tokens: int
    end: Literal["stop", "length", "repetition", "cancelled"]


@torch.inference_mode()
def sample(
    model: Any, questions: Sequence[Question], end_ids: Sequence[int], top_p: float = 1.0,
    cancel: threading.Event | None = None,
) -> list[Answer]:  # fmt: skip
    """An answer for each question. All are generated at once, or as many as fit into the card's memory.

    Args:
        end_ids: ids that end an answer.
        top_p: tokens are drawn from the most probable ones, which together have this probability (nucleus sampling,
            Holtzman et al. 2020, arXiv 1904.09751), at most `NUCLEUS` of them; 1 = from all.
        cancel: ends the answers early when it is set.

    Raises:
        NotFinite: logits of a prompt are NaN or infinite. OutOfMemory: one row alone does not fit.
    """
    answers: dict[int, Answer] = {}
    context = most_tokens(model)
    order = sorted(range(len(questions)), key=lambda i: -len(questions[i].ids))
    most = len(order)
    with answering(model):
        while order:
            tokens = len(questions[order[0]].ids) + max(questions[i].max_new_tokens for i in order)
            rows = order[: min(most, rows_at_once(model, tokens) if _on_card(model) else most)]
            limits = [min(questions[i].max_new_tokens, max(0, context - len(questions[i].ids))) for i in rows]
            new = _sampled(model, [questions[i] for i in rows], limits, end_ids, top_p, cancel)
            if new is None:  # out of memory
                most = len(rows) // 2
                continue
            answers |= dict(zip(rows, new, strict=True))
            order = order[len(rows) :]
    return [answers[i] for i in range(len(questions))]


def _sampled(
    model: Any, questions: Sequence[Question], limits: list[int], end_ids: Sequence[int], top_p: float,
    cancel: threading.Event | None,
) -> list[Answer] | None:  # fmt: skip
    """The answers of one batch; None where several rows do not fit into memory."""
    longest = max(limits)
    if longest == 0:
        return [Answer([], 0, "length") for _ in questions]
    device = next(model.parameters()).device
    settings = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=list(end_ids), pad_token_id=end_ids[0], max_new_tokens=longest
    )
    draw, ends = _Draw(questions, longest, top_p, device), _Ends(limits, cancel, device)
    new = None
    with contextlib.suppress(torch.cuda.OutOfMemoryError):  # of a single row; of several it returns None
        new = generate_batch(model, [q.ids for q in questions], settings, None, [draw], [ends])
    if new is None and len(questions) == 1:
        raise OutOfMemory(len(questions[0].ids) + longest)
    if new is None:
        return None
    return [_answer(ids, length, end_ids) for ids, length in zip(new, ends.lengths(len(new[0])), strict=True)]


def _answer(ids: list[int], length: tuple[int, Any], end_ids: Sequence[int]) -> Answer:
    """ids: of a row, padded at the end. length: where it was ended, and why."""
    place, reason = length
    ended = next((n for n, id in enumerate(ids[:place]) if id in end_ids), None)
    if ended is not None:
        return Answer(ids[:ended], ended + 1, "stop")
    return Answer(ids[:place], place, reason)


class _Draw(LogitsProcessor):
    """Leaves one token of each row, drawn by the row's next number; transformers then takes it as the best one."""

    def __init__(self, questions: Sequence[Question], longest: int, top_p: float, device: torch.device) -> None:
        numbers = [torch.rand(longest, generator=torch.Generator().manual_seed(q.seed)) for q in questions]
        self.numbers = torch.stack(numbers).to(device)  # (rows, longest)
        temperature = torch.tensor([q.temperature for q in questions], device=device)[:, None]
        self.is_greedy = temperature == 0
        self.temperature = torch.where(self.is_greedy, torch.ones_like(temperature), temperature)
        self.top_p, self.step = top_p, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(scores.float() / self.temperature, dim=-1)  # (rows, vocabulary)
        ids = None
        if self.top_p < 1:
            probabilities, ids = probabilities.topk(min(NUCLEUS, scores.shape[-1]), dim=-1)
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0.0)
        cumulative = probabilities.cumsum(dim=-1)
        target = self.numbers[:, self.step, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[-1] - 1)  # (rows, 1)
        token = token if ids is None else ids.gather(1, token)
        token = torch.where(self.is_greedy, scores.argmax(dim=-1, keepdim=True), token)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)


class _Ends(StoppingCriteria):
    """Ends rows at their own limit, and rows that repeat themselves, which small models do up to any limit."""

    def __init__(self, limits: Sequence[int], cancel: threading.Event | None, device: torch.device) -> None:
        self.limits = torch.tensor(limits, device=device)
        self.repeated = torch.full_like(self.limits, sys.maxsize)  # tokens after which a row was ended for that
        self.cancel, self.prompt, self.step = cancel, 0, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.step == 0:
            self.prompt = input_ids.shape[1] - 1
        self.step += 1
        if self.step % LOOK_EVERY == 0:
            new = repeats(input_ids[:, self.prompt :]) & (self.repeated > self.step)
            self.repeated[new] = self.step
        if self.cancel is not None and self.cancel.is_set():
            return torch.ones_like(self.limits, dtype=torch.bool)
        return (self.step >= self.limits) | (self.step >= self.repeated)

    def lengths(self, generated: int) -> list[tuple[int, str]]:
        """Number of tokens after which each row was ended, and why; an end token may stand before."""
        ends = []
        for limit, repeated in zip(self.limits.tolist(), self.repeated.tolist(), strict=True):
            place = min(limit, repeated, generated)
            why = "repetition" if repeated == place else "length" if limit == place else "cancelled"
            ends.append((place, why))
        return ends


def repeats(ids: torch.Tensor) -> torch.Tensor:
    """Whether each row ends with the same passage again and again. ids: (rows, tokens); bool: (rows,)."""
    rows, count = ids.shape
    result = torch.zeros(rows, dtype=torch.bool, device=ids.device)
    for period in range(1, LONGEST_PERIOD + 1):
        length = max(REPEATS * period, SHORTEST_LOOP)
        if length > count:
            break
        tail = ids[:, -length:]
        result |= (tail[:, period:] == tail[:, :-period]).all(dim=1)
    return result


def _on_card(model: Any) -> bool:
    return bool(next(model.parameters()).is_cuda)
