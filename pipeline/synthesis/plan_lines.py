"""The part of `make plan` about generated rows, as text."""

from __future__ import annotations

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.generated import money
from pipeline.run.progress import readable_time
from pipeline.synthesis.forecast import Forecast
from pipeline.synthesis.readiness import named, place_of
from pipeline.synthesis.spend import Limit
from pipeline.synthesis.summary import Spent


def lines(name: str, settings: Synthesis, planned: Forecast, spent: Spent) -> list[str]:
    """The forecast. name: of the run. spent: by earlier commands."""
    teacher = settings.teacher
    said = [f"generate   {name}: {settings.method} in {settings.language} by {named(teacher)} at {place_of(teacher)}"]
    if spent.replies:
        said.append(f"journal    {spent.text(teacher.price.currency)}; {planned.rows:,} rows are made of them")
    else:
        said.append("journal    empty: nothing was asked yet")
    if not planned.requests:
        return [*said, _rows(settings, planned), "requests   none: nothing is missing, or nothing is left to ask for"]
    return [
        *said, _rows(settings, planned), *_tokens(settings, planned), *_cost(settings, planned),
        *_budget(settings, planned, spent), _time(settings, planned),
    ]  # fmt: skip


def _rows(settings: Synthesis, planned: Forecast) -> str:
    missing = max(0, settings.rows - planned.rows)
    how = "at the yield so far" if planned.is_measured else "if every draft is kept"
    text = f"rows       {settings.rows:,} wanted, {missing:,} to make"
    if planned.possible is not None:
        return f"rows       {settings.rows:,} wanted; there is enough for about {planned.possible:,}, {how}"
    return f"{text}, {how}" if missing else text


def _tokens(settings: Synthesis, planned: Forecast) -> list[str]:
    n = planned.requests
    how = "as measured" if planned.is_measured or planned.replies else "estimated from characters, docs/synthesis.md"
    about = "" if planned.completion is None else f"about {_rounded(planned.completion)} tokens, "
    further = ""
    if not planned.is_measured:
        further = "; repairs come on top" if settings.method == "self-instruct" else "; further ones may follow"
    return [
        f"requests   about {_rounded(n)}{further}",
        f"prompts    about {_rounded(planned.prompt)} tokens ({planned.prompt / n:,.0f} a request, {how})",
        f"replies    {about}at most {planned.most_completion:,} (teacher.max_tokens={settings.teacher.max_tokens})",
    ]


def _rounded(number: int) -> str:
    """To three digits, since more would not be known."""
    unit = 10 ** max(0, len(str(number)) - 3)
    return f"{round(number / unit) * unit:,}"


def _cost(settings: Synthesis, planned: Forecast) -> list[str]:
    asked, currency = settings.teacher, settings.teacher.price.currency
    if planned.most_cost is None:
        if asked.kind == "local":
            return ["cost       none: the teacher runs on this machine"]
        return ["cost       not known: synthesis.teacher.price is not set"]
    most = f"at most {money(planned.most_cost, currency)}"
    about = "" if planned.cost is None else f"about {money(planned.cost, currency)}, "
    judge = settings.judge
    note = "; the judge's price differs" if judge.bar and judge.model and judge.price != asked.price else ""
    return [f"cost       {about}{most}{note}"]


def _budget(settings: Synthesis, planned: Forecast, spent: Spent) -> list[str]:
    limit = Limit.of(settings.budget)
    if limit is None and settings.teacher.kind == "local":
        return []
    if limit is None:
        return ["budget     none: set synthesis.budget, such as 200000 tokens or 5 USD"]
    in_money = limit.unit != "tokens"

    def shown(amount: float) -> str:
        return money(amount, limit.unit) if in_money else f"{amount:,.0f} tokens"

    used = spent.cost if in_money else float(spent.tokens)
    coming = planned.cost if in_money else float(planned.prompt + (planned.completion or planned.most_completion))
    said = [
        f"budget     {shown(limit.amount)}, {shown(used)} of it spent; requests in flight reserve up to "
        f"{shown(planned.reserved)}"
    ]
    if coming is not None and used + coming > limit.amount:
        share = max(0.0, limit.amount - used) / coming
        rows = planned.rows + int(share * max(0, settings.rows - planned.rows))
        said.append(f"           it ends generation at about {rows:,} rows; what is made until then is written")
    return said


def _time(settings: Synthesis, planned: Forecast) -> str:
    asked = settings.teacher
    if asked.kind == "batch":
        return "time       up to a day a batch file, as the provider says"
    if planned.seconds is None:
        return f"time       not known before the first replies; {asked.parallel} requests at once"
    return f"time       about {readable_time(planned.seconds)} with {asked.parallel} requests at once (as measured)"
