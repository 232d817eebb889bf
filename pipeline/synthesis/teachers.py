"""From the config to the models that are asked."""

from __future__ import annotations

from pipeline.config.synthesis import Asked, Synthesis
from pipeline.synthesis.api_teacher import ApiTeacher
from pipeline.synthesis.asker import Teacher
from pipeline.synthesis.request import Role
from pipeline.synthesis.spend import Budget


def asked_of(settings: Synthesis, role: Role) -> Asked:
    """Settings of a role's model: a judge without a model is the teacher."""
    return settings.judge if role == "judge" and settings.judge.model else settings.teacher


def teachers_of(settings: Synthesis, budget: Budget) -> dict[Role, Teacher]:
    """The models that the config names, by role."""
    teacher = ApiTeacher(settings.teacher, budget)
    judge = ApiTeacher(settings.judge, budget, "judge") if settings.judge.model else teacher
    return {"teacher": teacher, "judge": judge}
