"""Problems of prices, and of fields that are sent to a teacher."""

from __future__ import annotations

from pipeline.config.method_rules import Problem
from pipeline.config.synthesis import Asked, Synthesis

# Fields of a request's body that are made from other keys; n would multiply the price.
OWN_FIELDS = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "response_format", "n",
              "stream", "stream_options")  # fmt: skip


def spending_problems(settings: Synthesis) -> list[Problem]:
    """Every problem as (key, what is wrong with it and what to do)."""
    if settings.method == "none":
        return []
    problems: list[Problem] = []
    unit = settings.budget.partition(" ")[2]
    roles: dict[str, Asked] = {"teacher": settings.teacher}
    if settings.judge.model:
        roles["judge"] = settings.judge
    for role, asked in roles.items():
        key = ("synthesis", role)
        prices = {"input": asked.price.input, "output": asked.price.output}
        missing = [name for name, value in prices.items() if value is None]
        if len(missing) == 1 and unit in ("", "tokens"):  # with a budget in money both are needed anyway
            problems.append(((*key, "price", missing[0]), "missing; a price has input and output, 0 where it is free"))
        for name in asked.extra:
            if name in OWN_FIELDS:
                problems.append(((*key, "extra"), f"must not hold {name}, which is set by other keys; remove it"))
    return problems
