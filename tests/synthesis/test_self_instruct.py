"""Self-instruct: requests, drafts, classification rows, and what is paid for when something changes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis, Teacher
from pipeline.run.errors import UserError
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.methods import method
from pipeline.synthesis.reply_form import records
from pipeline.synthesis.request import Draft, Reply, Request
from pipeline.synthesis.task_prompt import FIELDS
from tests.helpers.teacher_replies import driven, generated, tasks

SEEDS = {language: (f"data/seed_tasks.{language}.jsonl",) for language in ("en", "ko")}
GOOD = tasks({"instruction": "Describe your favourite kind of weather."}, {"instruction": "Name three large rivers."})


def settings_of(**more: Any) -> Synthesis:
    values = {"method": "self-instruct", "seeds": SEEDS["en"], "teacher": {"model": "m", "terms": "x"}, **more}
    return Synthesis.model_validate(values)


def drafts_of(replies: list[Reply | str], folder: Path, **more: Any) -> tuple[list[Draft], list[Request]]:
    return driven(method(settings_of(**more), Journal(folder / "journal.jsonl")).draft(0), replies)


def test_a_request_shows_seeds_and_asks_for_json(tmp_path: Path) -> None:
    drafts, [request] = drafts_of([GOOD], tmp_path, tasks_per_prompt=7)
    [(role, text)] = request.messages
    assert role == "user"
    assert "Write 7 new tasks" in text
    assert "in English" in text
    shown = [json.loads(line) for line in text.split("\n") if line.startswith('{"instruction')]
    assert len(shown) == 3
    assert request.schema is not None
    assert request.purpose == "tasks"
    assert [draft.instruction for draft in drafts] == [
        "Describe your favourite kind of weather.", "Name three large rivers.",
    ]  # fmt: skip
    assert len(drafts[0].origin["seeds"]) == 3
    assert drafts[0].requests == (request.key,)


def test_korean_prompts_are_korean(tmp_path: Path) -> None:
    _, [request] = drafts_of([GOOD], tmp_path, language="ko", seeds=SEEDS["ko"])
    assert "한국어로 5개" in request.messages[0][1]
    assert "English" not in request.messages[0][1]
    _, [request] = drafts_of([GOOD], tmp_path, language="de")
    assert "in German" in request.messages[0][1]


def test_text_mode_asks_for_numbered_text_that_the_parser_reads(tmp_path: Path) -> None:
    for language in ("en", "ko"):
        teacher = {"model": "m", "terms": "x", "json_mode": "text"}
        reply = "1. Instruction: Count the birds.\nInput: <noinput>\nOutput: Seven."
        more: dict[str, Any] = {"language": language, "seeds": SEEDS[language], "teacher": teacher}
        [draft], [request] = drafts_of([reply], tmp_path, **more)
        assert (draft.instruction, draft.input, draft.output) == ("Count the birds.", "", "Seven.")
        assert request.schema is None
        assert not any("JSON" in text for _, text in request.messages)
        assert [role for role, _ in request.messages] == ["user", "assistant", "user"]
        shown = records(request.messages[1][1], "tasks", FIELDS).whole
        assert len(shown) == 3, "the shown seeds are in the form that is asked for"
        assert all(row["output"] for row in shown)


def test_items_have_requests_of_their_own(tmp_path: Path) -> None:
    """Also where there are so few seeds that their prompts are equal."""
    few = tmp_path / "seeds.jsonl"
    rows = [{"instruction": f"Task {n}", "input": "", "output": "Done"} for n in range(3)]
    few.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = method(settings_of(seeds=(str(few),)), Journal(tmp_path / "journal.jsonl"))
    keys = {driven(made.draft(n), [GOOD])[1][0].key for n in range(20)}
    assert len(keys) == 20


def test_what_does_not_parse_is_asked_for_once_more(tmp_path: Path) -> None:
    drafts, [first, repair] = drafts_of(["Here you are: nothing.", GOOD], tmp_path)
    assert len(drafts) == 2
    assert drafts[0].requests == (first.key, repair.key)
    assert repair.purpose == "repair"
    assert [role for role, _ in repair.messages] == ["user", "assistant", "user"]
    assert repair.messages[1][1] == "Here you are: nothing."
    assert "neither JSON" in repair.messages[2][1]


def test_then_it_is_kept_as_rejected_with_its_text(tmp_path: Path) -> None:
    [draft], requests = drafts_of(["Nothing.", "Still nothing."], tmp_path)
    assert len(requests) == 2
    assert draft.rejected
    assert draft.rejected[0] == "unparsable"
    assert draft.raw == "Still nothing."


def test_failures_and_refusals_are_not_asked_again(tmp_path: Path) -> None:
    [draft], _ = drafts_of([Reply("", failure="the prompt is longer than the context")], tmp_path)
    assert draft.rejected == ("refused-request", "the prompt is longer than the context")
    [draft], _ = drafts_of(["I'm sorry, but as an AI language model, I cannot write tasks."], tmp_path)
    assert draft.rejected
    assert draft.rejected[0] == "refusal"
    assert draft.raw
    [draft], _ = drafts_of([Reply("", finish="content_filter")], tmp_path)
    assert draft.rejected == ("refusal", "the provider's content filter ended the reply")


def test_a_cut_reply_gives_its_whole_tasks(tmp_path: Path) -> None:
    drafts, requests = drafts_of([Reply(GOOD[:-10], finish="length")], tmp_path)
    assert [draft.instruction for draft in drafts] == ["Describe your favourite kind of weather."]
    assert len(requests) == 1


SPAM = Draft("Is this message spam or not?", "You won a car!", "spam", "classification", {"seeds": ["a"]})


def test_a_classification_task_becomes_a_row_for_each_label(tmp_path: Path) -> None:
    made = method(settings_of(), Journal(tmp_path / "journal.jsonl"))
    labels = [("spam", "Click here to win."), ("not spam", "See you at nine."), ("Spam", "A second one of this label.")]
    reply = json.dumps({"rows": [{"label": label, "input": text, "output": label} for label, text in labels]})
    rows, [request] = driven(made.finish(SPAM), [reply])
    assert [(row.instruction, row.input, row.output) for row in rows] == [
        (SPAM.instruction, "Click here to win.", "spam"), (SPAM.instruction, "See you at nine.", "not spam"),
    ]  # fmt: skip
    assert rows[0].origin["label"] == "spam"
    assert request.purpose == "classification"
    assert SPAM.instruction in request.messages[0][1]


def test_without_usable_labels_its_own_row_stays(tmp_path: Path) -> None:
    made = method(settings_of(), Journal(tmp_path / "journal.jsonl"))
    rows, _ = driven(made.finish(SPAM), ["Well."])
    assert [row.input for row in rows if not row.rejected] == [SPAM.input]
    assert [row.rejected[0] for row in rows if row.rejected] == ["unparsable"]
    inside = Draft("Does HTTP status 404 stand for a client error?", "", "yes", "classification")
    assert driven(made.finish(inside), [])[0] == [inside], "the instruction holds what is classified"


WORDS = [
    "amber",
    "birch",
    "cloud",
    "delta",
    "ember",
    "frost",
    "grove",
    "haven",
    "inlet",
    "jetty",
    "knoll",
    "lemon",
    "maple",
    "north",
    "ocean",
    "pearl",
    "quilt",
    "river",
]


def teacher(request: Request) -> str:
    """New tasks of random words, the same for a request whatever is asked before it."""
    draw = random.Random(request.key)
    return tasks(*({"instruction": " ".join(draw.sample(WORDS, 9))} for _ in range(5)))


def more_seeds(folder: Path, count: int) -> str:
    path = folder / f"more_{count}.jsonl"
    rows = [{"instruction": f"Own task {n}", "input": "", "output": "Done"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_more_rows_pay_only_for_what_is_new(tmp_path: Path) -> None:
    first, asked = generated(settings_of(rows=20), tmp_path, teacher)
    again, none = generated(settings_of(rows=20), tmp_path, teacher)
    assert none == []
    assert again.rows == first.rows
    more, asked_more = generated(settings_of(rows=40), tmp_path, teacher)
    assert more.rows[:20] == first.rows
    assert not {r.key for r in asked} & {r.key for r in asked_more}
    at_once, _ = generated(settings_of(rows=40), tmp_path / "other", teacher)
    assert more.rows == at_once.rows
    used = {key for row in at_once.rows for key in row.requests}
    assert used <= {r.key for r in asked} | {r.key for r in asked_more}


def test_more_seeds_pay_only_for_what_is_new(tmp_path: Path) -> None:
    first, asked = generated(settings_of(rows=20), tmp_path, teacher)
    own = more_seeds(tmp_path, 100)
    seeds = (own, *SEEDS["en"])
    same, none = generated(settings_of(rows=20, seeds=seeds), tmp_path, teacher)
    assert none == [], "twice as many seeds, not a request"
    assert same.rows == first.rows
    more, asked_more = generated(settings_of(rows=60, seeds=seeds), tmp_path, teacher)
    assert more.rows[:20] == first.rows
    assert any("Own task" in r.messages[0][1] for r in asked_more), "the new items show them"
    assert not any("Own task" in r.messages[0][1] for r in asked)
    again, none = generated(settings_of(rows=60, seeds=seeds), tmp_path, teacher)
    assert none == []
    assert again.rows == more.rows


def test_a_removed_seed_costs_only_the_items_that_showed_it(tmp_path: Path) -> None:
    own = more_seeds(tmp_path, 100)
    generated(settings_of(rows=60, seeds=(own,)), tmp_path, teacher)
    lines = Path(own).read_text(encoding="utf-8").split("\n")
    gone = json.loads(lines[0])["instruction"]
    journal = Journal(tmp_path / "journal.jsonl")
    made = method(settings_of(seeds=(own,)), journal)
    showed = [n for n in range(12) if f'"{gone}"' in driven(made.draft(n), [GOOD])[1][0].messages[0][1]]
    Path(own).write_text("\n".join(lines[1:]), encoding="utf-8")
    made = method(settings_of(seeds=(own,)), journal)
    changed = [n for n in range(12) if driven(made.draft(n), [GOOD])[1][0].key not in journal]
    assert changed == showed


def test_changed_filters_pay_nothing_for_what_is_there(tmp_path: Path) -> None:
    first, asked = generated(settings_of(rows=20, novelty=0.9), tmp_path, teacher)
    _, none = generated(settings_of(rows=len(first.rows), novelty=0), tmp_path, teacher)
    assert none == []
    strict, asked_more = generated(settings_of(rows=20, novelty=0.5), tmp_path, teacher)
    assert not {r.key for r in asked} & {r.key for r in asked_more}
    assert strict.counts()["not-novel"] > 0


def test_seeds_that_evolve_are_a_function_of_replies(tmp_path: Path) -> None:
    settings = settings_of(rows=40, evolve_seeds=True)
    first, asked = generated(settings, tmp_path / "a", teacher)
    assert len({r.key for r in asked}) == len(asked)
    one, _ = generated(settings.model_copy(update={"teacher": Teacher(model="m", parallel=1)}), tmp_path / "b", teacher)
    assert one.rows == first.rows, "whatever is in flight"
    later = [row for row in first.rows if "shown_tasks_of" in row.origin]
    assert later
    texts = {r.key: r.messages[0][1] for r in asked}
    parents = {r.key: [t["instruction"] for t in json.loads(teacher(r))["tasks"]] for r in asked}
    for row in later:
        shown = [text for text in parents[row.origin["shown_tasks_of"]] if text in texts[row.requests[0]]]
        assert len(shown) == 1
    _, none = generated(settings, tmp_path / "a", teacher)
    assert none == []
    _, none = generated(settings.model_copy(update={"novelty": 0.0}), tmp_path / "a", teacher)
    assert none == [], "a prompt does not depend on filters"


def test_a_teacher_that_only_refuses_or_repeats_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refusal 100%"):
        generated(settings_of(rows=20), tmp_path / "a", lambda request: "I'm sorry, but I cannot help with that.")
    seed = json.loads(Path(SEEDS["en"][0]).read_text(encoding="utf-8").split("\n")[0])
    with pytest.raises(UserError, match="not-novel 100%"):
        generated(settings_of(rows=20), tmp_path / "b", lambda request: tasks({"instruction": seed["instruction"]}))
