"""kill -9 at random instants: nothing that was journaled is paid for again, and what may have been paid is counted."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply
from tests.helpers.asking import asked, request, settings
from tests.helpers.teacher_server import Answer, completion, prompt, serving

pytest.importorskip("openai", reason="needs openai (extra `judge`)")
pytestmark = pytest.mark.judge
COUNT = 300


def start(url: str, path: Path) -> int:
    """A process that asks; forked, since importing openai anew takes seconds on a busy machine. Ends with 0 if all went
    well."""
    child = os.fork()
    if child == 0:
        try:
            outcomes = asked(path, settings(url, parallel=16), [request(f"q{i}") for i in range(COUNT)])
            os._exit(sum(not isinstance(outcome, Reply) for outcome in outcomes))
        finally:
            os._exit(99)
    return child


def test_kills(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal" / "journal.jsonl", random.Random(7)
    with serving(lambda n, body: Answer(completion(prompt(body).upper()), delay=0.01)) as server:
        answered, kills = set[str](), 5
        for _ in range(kills):
            size = path.stat().st_size if path.exists() else 0
            before = Counter(map(prompt, server.paid))
            child = start(server.url, path)
            while not path.exists() or path.stat().st_size <= size:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.06)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            time.sleep(0.02)  # the server ends what it began
            journal = Journal(path)
            assert journal.tokens + journal.open_tokens >= server.paid_tokens
            # What the journal held before was not sent again.
            after = Counter(map(prompt, server.paid))
            assert all(after[text] == before[text] for text in answered)
            answered = {text for text in after if request(text).key in journal}
        assert len(answered) < COUNT
        assert os.waitstatus_to_exitcode(os.waitpid(start(server.url, path), 0)[1]) == 0
        paid = Counter(map(prompt, server.paid))
    journal = Journal(path)
    assert {reply.text for _, reply in journal.replies()} == {f"Q{i}" for i in range(COUNT)}
    assert len(journal) == len(paid) == COUNT
    assert sum(paid.values()) - COUNT <= 16 * kills  # only what was in flight
    assert journal.tokens + journal.open_tokens >= server.paid_tokens
    assert sum(len(tries) for tries in journal.open.values()) <= 16 * kills
