"""A teacher without a server, for tests of `generate`: it answers by the number of the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.config.synthesis import Synthesis
from pipeline.run.folder import Run
from pipeline.synthesis import methods, readiness
from pipeline.synthesis.asker import GaveUp
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.spend import Budget

ROOT = Path(__file__).parents[2]
SEEDS = [
    {"instruction": f"Write a short poem about {what}.", "input": "", "output": f"A poem on {what}."}
    for what in ("rain", "a bicycle", "old maps", "winter", "a lighthouse")
]
VERBS = ("Describe", "List", "Explain", "Compare", "Draw", "Name", "Translate", "Summarise", "Count", "Plan")
NOUNS = ("harbour", "recipe", "engine", "garden", "museum", "storm", "market", "violin", "glacier", "theatre")


def tasks(number: int, count: int = 5) -> list[dict[str, Any]]:
    """New tasks, other ones for each number below 20."""
    made = []
    for k in range(count):
        n = number * count + k
        verb, noun = VERBS[n % 10], NOUNS[n // 10 % 10]
        text = f"{verb} the {noun} number {n} for a visitor who has never been there before."
        output = f"It is the {noun} that visitors know as number {n}."
        made.append({"instruction": text, "input": "", "output": output, "classification": False})
    return made


def reply_of(number: int) -> str:
    return json.dumps({"tasks": tasks(number)})


class FakeTeacher:
    """Answers with `says(number of the request's draw)`; an exception that it returns is raised.

    Attributes:
        asked: the requests that came, in order.
    """

    def __init__(self, budget: Budget, says: Callable[[int], Any] = reply_of, model: str = "served-model") -> None:
        self.budget, self.says, self.model = budget, says, model
        self.asked: list[Request] = []

    async def reply(self, request: Request) -> Reply:
        self.asked.append(request)
        await self.budget.sent(request)
        said = self.says(request.draw)
        if isinstance(said, Exception):
            self.budget.failed(request, free=True)
            raise said
        time = f"2026-12-01T00:00:{request.draw % 60:02d}+00:00"
        return Reply(said, "stop", "", self.model, 2000, 1000, time=time, seconds=2.0)

    async def close(self) -> None:
        pass


def put_teacher(
    patch: pytest.MonkeyPatch, says: Callable[[int], Any] = reply_of, model: str = "served-model"
) -> list[FakeTeacher]:
    """Puts a fake teacher in the place of the real ones; each command adds the one that it asks to the list."""
    used: list[FakeTeacher] = []
    patch.setattr(readiness, "find_spec", lambda name: True)  # of openai, which no fake needs

    def teachers_of(settings: Synthesis, budget: Budget) -> dict[str, FakeTeacher]:
        used.append(FakeTeacher(budget, says, model))
        return {"teacher": used[-1], "judge": used[-1]}

    patch.setattr(methods, "teachers_of", teachers_of)
    return used


def lost(number: int) -> Any:
    """Replies, but for the second request, which fails."""
    return GaveUp("busy") if number == 1 else reply_of(number)


def write_config(folder: Path, *overrides: str, **synthesis: Any) -> Config:
    """A config for self-instruct with five seeds, whose rows are its own source."""
    seeds = folder / "seeds.jsonl"
    seeds.write_text("".join(json.dumps(seed) + "\n" for seed in SEEDS))
    values = {
        "method": "self-instruct", "seeds": [str(seeds)], "rows": 20, "seeds_per_prompt": 2, "novelty": 0,
        "teacher": {"model": "asked-model", "base_url": "http://localhost:1/v1", "terms": "Ours; anything goes.",
                    "parallel": 2},
        **synthesis,
    }  # fmt: skip
    config = {"name": "made", "synthesis": values, "data": {"sources": [{"path": "runs/made/generated"}], "val": 2}}
    (folder / "made.yaml").write_text(json.dumps(config))  # JSON is YAML
    return load(str(folder / "made.yaml"), overrides, model=False)


def generate(config: Config, run: Run) -> None:
    """`make generate`, with whatever teacher was put in place."""
    stages.bring_up_to_date(config, run, "generate")
