"""Problems between keys of the section `synthesis`: what a method needs, prices, fields of requests."""

from __future__ import annotations

from pipeline.config.method_rules import Problem
from pipeline.config.synthesis import Asked, Synthesis

# What each method of `synthesis` makes its rows from: the keys, of which one must be given.
MADE_FROM = {
    "self-instruct": ("seeds",), "translate": ("sources",), "questions": ("documents", "sources"),
}  # fmt: skip
MADE_FROM_FIX = {
    "self-instruct": "name files of seed tasks, such as data/seed_tasks.en.jsonl",
    "translate": "name the data set, such as [{path: my_instructions.json}]",
    "questions": "name files or folders with text, or your own questions and answers as synthesis.sources",
}
TERMS = "write what the teacher's terms say about training on its replies, or their address, for the datasheet"
# Fields of a request's body that are made from other keys; n would multiply the price.
OWN_FIELDS = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "response_format", "n",
              "stream", "stream_options")  # fmt: skip


def synthesis_problems(settings: Synthesis) -> list[Problem]:
    """Every problem of a section that names a method, as (key, what is wrong with it and what to do)."""
    problems: list[Problem] = []
    if settings.method == "none":
        return problems
    section, teacher = "synthesis", settings.teacher
    if not teacher.model:
        problems.append(((section, "teacher", "model"), "missing; name the model as its server knows it"))
    if not teacher.terms.strip():
        problems.append(((section, "teacher", "terms"), f"missing; {TERMS}"))
    keys = MADE_FROM[settings.method]
    if not any(getattr(settings, key) for key in keys):
        problems.append(((section, keys[0]), f"missing; {MADE_FROM_FIX[settings.method]}"))
    if settings.method == "translate" and settings.language == settings.from_language:
        problems.append(((section, "from_language"), "is the language of the rows; remove it, or name another one"))
    asked: dict[str, Asked] = {"teacher": teacher}
    if settings.judge.bar and settings.judge.model:
        asked["judge"] = settings.judge
    for role, model in asked.items():
        problems += _of_price(settings, role, model)
        problems += _of_fields(role, model)
    return problems


def _of_fields(role: str, asked: Asked) -> list[Problem]:
    """Of further fields of requests, which must not replace those that other keys set."""
    key = ("synthesis", role, "extra")
    return [
        (key, f"must not hold {name}, which is set by other keys; remove it")
        for name in asked.extra
        if name in OWN_FIELDS
    ]


def _of_price(settings: Synthesis, role: str, asked: Asked) -> list[Problem]:
    """A budget in money needs the price of every model that is asked, in its currency."""
    price, unit = asked.price, settings.budget.partition(" ")[2]
    key = ("synthesis", role, "price")
    missing = [name for name in ("input", "output") if getattr(price, name) is None]
    if unit in ("", "tokens"):
        what = "missing; a price has input and output, 0 where it is free"
        return [((*key, missing[0]), what)] if len(missing) == 1 else []
    if missing:
        fix = "give input and output for a million tokens, or set a budget in tokens"
        return [(key, f"missing, and synthesis.budget is in {unit}; {fix}")]
    if price.currency != unit:
        return [((*key, "currency"), f"is {price.currency}, but synthesis.budget is in {unit}; name one currency")]
    return []
