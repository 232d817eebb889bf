"""Seed tasks: errors, and which seeds an item shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.example import Example
from pipeline.run.errors import UserError
from pipeline.synthesis.seeds import SeedChoice, read_seeds, seed_files

SEEDS = [Example.of(f"Task number {n}", "", f"Answer {n}", source="seeds") for n in range(30)]


def written(folder: Path, *lines: str) -> Synthesis:
    path = folder / "seeds.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Synthesis(seeds=(str(path),), seeds_per_prompt=2)


def row(number: int, **more: object) -> str:
    return json.dumps({"instruction": f"Task {number}", "input": "", "output": "Done", **more})


def test_seeds_of_any_form(tmp_path: Path) -> None:
    settings = written(tmp_path, row(1), row(2, task="classification"), row(1))
    more = tmp_path / "more.csv"
    more.write_text("question,answer\nHow are you?,Fine.\n", encoding="utf-8")
    settings = settings.model_copy(update={"seeds": (*settings.seeds, str(more))})
    seeds = read_seeds(settings)
    assert [seed.instruction for seed in seeds] == ["Task 1", "Task 2", "How are you?"], "an equal one counts once"
    assert seeds[1].task == "classification"
    assert [path.name for path in seed_files(settings)] == ["seeds.jsonl", "more.csv"]


def test_the_projects_own_seeds() -> None:
    for language in ("en", "ko"):
        seeds = read_seeds(Synthesis(seeds=(f"data/seed_tasks.{language}.jsonl",)))
        assert len(seeds) == 168
        assert sum(seed.task == "classification" for seed in seeds) == 24


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"instruction": "Task"', ["not valid JSON"]),
        ('{"input": "", "output": "Done"}', ["instruction"]),
        ('{"instruction": "Task", "input": ""}', ["output"]),
        ('{"instruction": "Task", "input": 3, "output": "Done"}', ["input is a number"]),
        ('{"instruction": "Task", "input": "", "output": " "}', ["output is empty"]),
        ('{"instruction": "", "input": "", "output": "Done"}', ["instruction is empty"]),
        ('["Task"]', ["not"]),
    ],
)
def test_a_wrong_seed_is_one_message_with_its_line(tmp_path: Path, line: str, words: list[str]) -> None:
    settings = written(tmp_path, row(1), row(2), line, line)
    with pytest.raises(UserError) as error:
        read_seeds(settings)
    assert error.value.where.startswith(f"{settings.seeds[0]}:3")
    for word in words:
        assert word in error.value.what
    assert "1 more has errors" in error.value.what


@pytest.mark.parametrize(
    ("settings", "where", "what"),
    [
        (Synthesis(), "synthesis.seeds", "no seed tasks"),
        (Synthesis(seeds=("nowhere/seeds.jsonl",)), "synthesis.seeds", "no such data file"),
        (Synthesis(seeds=("data/seed_tasks.en.jsonl",), seeds_per_prompt=50), "", ""),
    ],
)
def test_files_that_are_not_there(settings: Synthesis, where: str, what: str) -> None:
    if not where:
        assert len(read_seeds(settings)) == 168
        return
    with pytest.raises(UserError) as error:
        read_seeds(settings)
    assert error.value.where == where
    assert what in error.value.what


def test_fewer_seeds_than_a_prompt_shows(tmp_path: Path) -> None:
    settings = written(tmp_path, row(1)).model_copy(update={"seeds_per_prompt": 3})
    with pytest.raises(UserError, match="1 different seed tasks, and each prompt is to show 3"):
        read_seeds(settings)


def test_items_show_different_seeds_and_always_the_same() -> None:
    choice = SeedChoice(Synthesis(), SEEDS, {})
    shown = [tuple(seed.id for seed in choice.of(n)) for n in range(200)]
    assert all(len(set(ids)) == 3 for ids in shown)
    assert len(set(shown)) > 190
    assert {name for ids in shown for name in ids} == {seed.id for seed in SEEDS}
    again = SeedChoice(Synthesis(), SEEDS[::-1], {})
    assert shown == [tuple(seed.id for seed in again.of(n)) for n in range(200)], "the order of a file does not count"


def test_added_seeds_leave_earlier_items_as_they_are() -> None:
    before, after = SeedChoice(Synthesis(), SEEDS[:20], {}), None
    first = {seed.id: 50 for seed in SEEDS[20:]}
    after = SeedChoice(Synthesis(), SEEDS, first)
    assert [before.of(n) for n in range(50)] == [after.of(n) for n in range(50)]
    new = {seed.id for n in range(50, 150) for seed in after.of(n)} & first.keys()
    assert new == first.keys(), "and show in later ones"


def test_where_too_few_were_there_the_next_ones_are_shown() -> None:
    choice = SeedChoice(Synthesis(), SEEDS[:4], {seed.id: 10 for seed in SEEDS[1:4]})
    assert len(choice.of(0)) == 3
