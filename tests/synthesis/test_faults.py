"""A server with every fault at once: rows are unique, each reply counts once, journal and data set agree, and no secret
is in any file."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.generation import Generation, Result
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Draft, Request, Work
from pipeline.synthesis.spend import Budget
from pipeline.synthesis.teachers import teachers_of
from tests.helpers.asking import settings
from tests.helpers.teacher_server import Answer, completion, error, prompt, serving

pytest.importorskip("openai", reason="needs openai (extra `judge`)")
pytestmark = pytest.mark.judge
FAULTS = [
    Answer(error("slow down"), 429), Answer(error("slow down"), 429, {"retry-after-ms": "3"}),
    Answer(error("slow down"), 429, {"retry-after": "0"}), Answer(b"oh", 500), Answer({}, 503), Answer(reset=True),
    Answer(completion("a"), cut=40), Answer(b"{"), Answer({"hello": 1}), Answer(completion("a", choices=[])),
    Answer(completion(None, choices=[{"finish_reason": "length", "message": {"content": "half"}}])),
    Answer(completion(["a"])), Answer(completion("a", usage=None)), Answer(error("content_filter"), 400),
]  # fmt: skip
SECRET = "sk-very-secret-key"


class Echo:
    """Two phases: an instruction, and its output; every fifth item asks the same as the one before."""

    items: int | None = 100
    rows_per_item = 1

    def draft(self, number: int) -> Work:
        request = self._request(f"instruction {number - (number % 5 == 4)}")
        reply = yield request
        draft = Draft(reply.text, origin={"number": number}).made_of(request)
        return [draft if reply.text.startswith("Say") else draft.reject("unparsable", "no instruction", reply.text)]

    def finish(self, draft: Draft) -> Work:
        request = self._request(f"output of {draft.instruction}")
        reply = yield request
        return [
            Draft(draft.instruction, "", f"{reply.text} and more", "", draft.origin, draft.requests).made_of(request)
        ]

    def _request(self, text: str) -> Request:
        return Request((("user", text),), 50, 0.7, "m", "t")


def generate(path: Path, section: Synthesis, replay: bool = False) -> Result:
    async def main() -> Result:
        journal = Journal(path)
        budget = Budget(section, journal)
        teachers = {} if replay else teachers_of(section, budget)
        asker = Asker(journal, budget, teachers)
        try:
            filters = DraftFilters(section.model_copy(update={"method": "questions", "novelty": 0.0}))  # no seeds
            return await Generation(Echo(), filters, asker, 1000, 16).run()
        finally:
            for teacher in set(teachers.values()):
                await teacher.close()
            journal.close()

    return asyncio.run(main())


def as_bytes(result: Result) -> str:
    return json.dumps([[vars(d) for d in drafts] for drafts in (result.rows, result.rejected)], default=str)


def test_all_faults_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINE", SECRET)
    monkeypatch.setattr("pipeline.synthesis.api_teacher.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("pipeline.synthesis.api_teacher.LONGEST_PAUSE", 0.01)
    chance = random.Random(3)

    def says(number: int, body: dict[str, Any]) -> Answer:
        if number > 20 and chance.random() < 0.4:
            return chance.choice(FAULTS)
        text = prompt(body)
        said = f"Say what {text}" if text.startswith("instruction") else f"{text} {SECRET}"
        return Answer(completion(said), delay=chance.random() * 0.01, twice=chance.random() < 0.1)  # out of order

    path = tmp_path / "run" / "journal.jsonl"
    with serving(says) as server:
        section = settings(server.url, "1000000 tokens", key="MINE", parallel=16, price={"input": 1, "output": 1})
        result = generate(path, section)
        journal = Journal(path)
        assert journal.tokens + journal.open_tokens >= server.paid_tokens
        known = sum(reply.prompt_tokens + reply.completion_tokens for _, reply in journal.replies())
        assert journal.tokens == known
        assert journal.cost == pytest.approx(known / 1e6)
        before = len(server.calls)
        assert as_bytes(generate(path, section)) == as_bytes(generate(path, section, replay=True))
    assert before > 200
    instructions = [row.instruction for row in result.rows]
    assert len(set(instructions)) == len(instructions) > 40
    keys = {key for key, _ in Journal(path).replies()}
    for draft in [*result.rows, *result.rejected]:
        assert set(draft.requests) <= keys
    for row in result.rows:
        reply = journal.reply(row.requests[0])
        assert reply is not None
        assert reply.text == row.instruction
    (tmp_path / "run" / "rows.jsonl").write_text(as_bytes(result))
    shown = capsys.readouterr()
    for text in [shown.out, shown.err, *(p.read_text() for p in tmp_path.rglob("*") if p.is_file())]:
        assert SECRET not in text


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_replies_changes_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def says(number: int, body: dict[str, Any]) -> Answer:
        return Answer(completion(f"Say what {prompt(body)}"), delay=chance.random() * 0.01)

    with serving(says) as server:
        section = settings(server.url, parallel=16)
        first = generate(tmp_path / "a.jsonl", section)
        again = generate(tmp_path / "b.jsonl", section)
    assert as_bytes(first) == as_bytes(again) == as_bytes(generate(tmp_path / "a.jsonl", section, replay=True))
    assert len(first.rows) == 80
    assert first.counts() == {"duplicate": 20}


def test_a_wrong_key_ends_all_at_once_and_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first item waits; the error of a later one ends the run, and no task is left with an error unseen."""
    from pipeline.run.errors import UserError

    def says(number: int, body: dict[str, Any]) -> Answer:
        slow = prompt(body) == "instruction 0"
        return Answer(completion("Say it"), delay=0.3) if slow else Answer(error("wrong key"), 401)

    with serving(says) as server, pytest.raises(UserError, match="refuses the key"):
        generate(tmp_path / "j.jsonl", settings(server.url, parallel=16))
    assert len(server.calls) <= 32
    journal = Journal(tmp_path / "j.jsonl")
    assert [reply.text for _, reply in journal.replies()] == ["Say it"]  # what was sent is paid for, and kept
    assert capfd.readouterr().err == ""


def test_ctrl_c_keeps_what_was_sent(tmp_path: Path) -> None:
    """In a process of its own: what was sent is awaited and journaled, and nothing more is sent."""
    path = tmp_path / "j.jsonl"
    with serving(lambda n, body: Answer(completion("Say it"), delay=0.3)) as server:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                generate(path, settings(server.url, parallel=8))
            except KeyboardInterrupt:
                os._exit(7)
            finally:
                os._exit(1)
        while server.at_once < 8:
            assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it is at work
            time.sleep(0.005)
        os.kill(child, signal.SIGINT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(server.calls) == 8
    journal = Journal(path)
    assert (len(journal), journal.open) == (8, {})
