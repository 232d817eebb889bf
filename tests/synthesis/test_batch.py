"""Requests go out as one file, their replies come back once, and a killed command waits for the same batch."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.asker import Asker, GaveUp
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply
from pipeline.synthesis.spend import Budget, BudgetReached
from pipeline.synthesis.teachers import teachers_of
from tests.helpers.asking import asked, request, settings
from tests.helpers.teacher_server import Answer, Server, error, prompt, serving

pytest.importorskip("openai", reason="needs openai (extra `judge`)")
pytestmark = pytest.mark.judge
REQUESTS = [request(f"q{i}") for i in range(20)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOMENT", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(f"pipeline.synthesis.batch_teacher.{name}", 0.01)


def echo(number: int, body: dict[str, Any]) -> Any:
    return prompt(body).upper()


def section(server: Server, budget: str = "", **teacher: Any) -> Any:
    return settings(server.url, budget, kind="batch", **teacher)


def leave_after(path: Path, server: Server, condition: Any) -> None:
    """A command that ends without a word as soon as something is true, as with kill -9."""

    async def main() -> None:
        journal = Journal(path)
        budget = Budget(section(server), journal)
        asker = Asker(journal, budget, teachers_of(section(server), budget))
        tasks = [asyncio.create_task(asker.ask(r)) for r in REQUESTS]
        while not condition(journal):
            await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()

    asyncio.run(main())


def test_one_file_for_all_requests(tmp_path: Path) -> None:
    with serving(echo) as server:
        replies = asked(tmp_path / "j.jsonl", section(server), REQUESTS)
        assert [reply.text for reply in replies if isinstance(reply, Reply)] == [f"Q{i}" for i in range(20)]
        assert len(server.batches) == 1
        lines = [json.loads(line) for line in server.files["file-1"].splitlines()]
        assert [line["custom_id"] for line in lines] == [r.key for r in REQUESTS]
        assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
        assert lines[0]["body"]["max_tokens"] == 50
        again = asked(tmp_path / "j.jsonl", section(server), REQUESTS)
        assert again == replies
        assert len(server.batches) == 1
    journal = Journal(tmp_path / "j.jsonl")
    assert (journal.tokens, journal.open, journal.batches) == (server.paid_tokens, {}, {})


def test_a_file_is_cut_at_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.synthesis.batch_teacher.MOST_REQUESTS", 8)
    with serving(echo) as server:
        replies = asked(tmp_path / "j.jsonl", section(server), REQUESTS)
        assert all(isinstance(reply, Reply) for reply in replies)
        assert sorted(len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()) == [4, 8, 8]


@pytest.mark.parametrize(
    "condition",
    [lambda journal: journal.batches, lambda journal: any(batch.id for batch in journal.batches.values()),
     lambda journal: len(journal) >= 7],
    ids=["not created", "created", "half read"],
)  # fmt: skip
def test_a_killed_command_waits_for_the_same_batch(tmp_path: Path, condition: Any) -> None:
    path = tmp_path / "j.jsonl"
    with serving(echo) as server:
        leave_after(path, server, condition)
        first = len(server.batches)
        outcomes = asked(path, section(server), REQUESTS)
        assert all(isinstance(outcome, Reply) for outcome in outcomes)
        assert len(server.batches) == max(first, 1)
        assert len(server.paid) == 20
    journal = Journal(path)
    assert (journal.tokens, journal.open, journal.batches) == (server.paid_tokens, {}, {})


def test_a_batch_whose_id_never_came_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with serving(echo) as server:
        leave_after(path, server, lambda journal: any(batch.id for batch in journal.batches.values()))
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if '"id": "batch-' not in line))
        assert all(isinstance(outcome, Reply) for outcome in asked(path, section(server), REQUESTS))
        assert len(server.batches) == 1


def test_replies_that_are_not_asked_for_any_more_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with serving(echo) as server:
        leave_after(path, server, lambda journal: any(batch.id for batch in journal.batches.values()))
        asked(path, section(server), REQUESTS[:2])
        journal = Journal(path)
        assert (len(journal), journal.tokens) == (20, server.paid_tokens)


def test_a_teacher_that_is_no_batch_any_more_asks_again_and_counts_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j.jsonl"
    with serving(echo) as server:
        leave_after(path, server, lambda journal: any(batch.id for batch in journal.batches.values()))
        assert all(isinstance(outcome, Reply) for outcome in asked(path, settings(server.url), REQUESTS))
        assert "20 earlier requests have no reply and may be paid for" in capsys.readouterr().out
        journal = Journal(path)
        assert journal.tokens + journal.open_tokens >= 2 * 20 * 60


def test_requests_that_fail_within_a_batch(tmp_path: Path) -> None:
    def says(number: int, body: dict[str, Any]) -> Any:
        faults = {"q3": Answer(error("maximum context length is 8"), 400), "q4": Answer(error("oh"), 500)}
        return faults.get(prompt(body), "x")

    with serving(says) as server:
        outcomes = asked(tmp_path / "j.jsonl", section(server), REQUESTS)
    assert isinstance(outcomes[3], Reply)
    assert "maximum context" in outcomes[3].failure
    assert isinstance(outcomes[4], GaveUp)
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) == 19
    journal = Journal(tmp_path / "j.jsonl")
    assert (journal.tokens, journal.open) == (server.paid_tokens, {})


@pytest.mark.parametrize(
    ("state", "said"),
    [("failed", "failed"), ("cancelled", "was cancelled"), ("expired", "expired without any"), ("completed", "ended")],
)
def test_a_batch_without_a_reply(tmp_path: Path, state: str, said: str) -> None:
    with serving(lambda n, body: Answer(error("no time"), 500)) as server:
        server.batch_state = state
        outcome = asked(tmp_path / "j.jsonl", section(server), REQUESTS[:1])[0]
        assert isinstance(outcome, UserError)
        assert said in str(outcome)
        server.batch_state, server.says = "completed", echo
        assert isinstance(asked(tmp_path / "j.jsonl", section(server), REQUESTS[:1])[0], Reply)
    assert Journal(tmp_path / "j.jsonl").tokens == server.paid_tokens


def test_a_batch_that_expired_keeps_what_it_has(tmp_path: Path) -> None:
    with serving(lambda n, body: "x" if prompt(body) in ("q1", "q2") else Answer(error("no time"), 500)) as server:
        server.batch_state = "expired"
        outcomes = asked(tmp_path / "j.jsonl", section(server), REQUESTS)
    assert [isinstance(outcome, Reply) for outcome in outcomes] == [i in (1, 2) for i in range(20)]
    assert {str(outcome) for outcome in outcomes if isinstance(outcome, GaveUp)} == {
        "a batch expired without a reply to this request"
    }
    journal = Journal(tmp_path / "j.jsonl")
    assert (journal.tokens, journal.open) == (server.paid_tokens, {})


def test_the_budget_holds_over_batches(tmp_path: Path) -> None:
    most = REQUESTS[0].most_tokens()
    with serving(echo) as server:
        outcomes = asked(tmp_path / "j.jsonl", section(server, f"{12 * most} tokens"), REQUESTS)
        assert server.paid_tokens <= 12 * most
    assert any(isinstance(outcome, BudgetReached) for outcome in outcomes)
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) == len(server.paid) >= 12
    assert len(server.batches) > 1


def test_a_server_without_batches(tmp_path: Path) -> None:
    with serving(echo) as server:
        wrong = settings(server.url.replace("/v1", "/v2"), kind="batch")
        outcome = asked(tmp_path / "j.jsonl", wrong, REQUESTS[:1])[0]
    assert isinstance(outcome, UserError)
    assert Journal(tmp_path / "j.jsonl").open == {}
