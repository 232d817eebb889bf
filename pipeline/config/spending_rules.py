"""Problems between a budget, prices and how a teacher is asked."""

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
        price = asked.price
        prices = {"input": price.input, "output": price.output}
        missing = [name for name, value in prices.items() if value is None]
        if len(missing) == 1:
            problems.append(((*key, "price", missing[0]), "missing; a price has input and output, 0 where it is free"))
        elif unit not in ("", "tokens") and asked.kind != "local":
            if missing:
                what = f"missing; a budget in {unit} needs what a million tokens cost, or set the budget in tokens"
                problems.append(((*key, "price"), what))
            elif price.currency != unit:
                what = f"is {price.currency}, and synthesis.budget is in {unit}; use one currency"
                problems.append(((*key, "price", "currency"), what))
        for name in asked.extra:
            if name in OWN_FIELDS:
                problems.append(((*key, "extra"), f"must not hold {name}, which is set by other keys; remove it"))
    return problems
