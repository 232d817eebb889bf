"""From the config to the models that are asked."""

from __future__ import annotations

from pipeline.config.synthesis import Asked, Synthesis
from pipeline.run.progress import say
from pipeline.synthesis.api_teacher import ApiTeacher
from pipeline.synthesis.asker import Teacher
from pipeline.synthesis.batch_teacher import MOST_REQUESTS, BatchTeacher
from pipeline.synthesis.generation import WINDOW
from pipeline.synthesis.local_teacher import LocalTeacher
from pipeline.synthesis.request import Role
from pipeline.synthesis.spend import Budget


def asked_of(settings: Synthesis, role: Role) -> Asked:
    """Settings of a role's model: a judge without a model is the teacher."""
    return settings.judge if role == "judge" and settings.judge.model else settings.teacher


def teachers_of(settings: Synthesis, budget: Budget) -> dict[Role, Teacher]:
    """The models that the config names, by role; says which requests of earlier commands may be paid for."""
    teacher = _teacher(settings.teacher, budget, "teacher")
    judge = _teacher(settings.judge, budget, "judge") if settings.judge.bar and settings.judge.model else teacher
    if lost := budget.journal.lost():
        tries, tokens = lost
        say(f"generate: {tries:,} earlier requests have no reply and may be paid for: up to {tokens:,} tokens count")
    return {"teacher": teacher, "judge": judge}


def parallel_of(asked: Asked) -> int:
    """Requests that are prepared at a time: a batch takes as many as there are."""
    return max(asked.parallel, MOST_REQUESTS // WINDOW) if asked.kind == "batch" else asked.parallel


def _teacher(asked: Asked, budget: Budget, role: Role) -> Teacher:
    if asked.kind == "batch":
        return BatchTeacher(asked, budget, role)
    budget.journal.forget_batches(role)
    if asked.kind == "local":  # a request counts as sent when its batch begins; before that it may be cancelled
        return LocalTeacher(asked, f"synthesis.{role}", lambda request: budget.on_wire.add(request.key))
    return ApiTeacher(asked, budget, role)
