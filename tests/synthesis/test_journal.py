"""Every reply is on the disk before it is used, and is read back; what a crash left is counted, never lost."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request
from tests.helpers.asking import request

REPLY = Reply("text \ud800 한글\n", "stop", "", "m-1", 30, 12, 0.25, "2026-01-01T00:00:00+00:00", 1.5)


def filled(path: Path, requests: list[Request], reply: Reply = REPLY, answered: int | None = None) -> Journal:
    """A journal with requests that were sent, the first of them answered."""
    journal = Journal(path)

    async def main() -> None:
        async def one(number: int, request: Request) -> None:
            await journal.sending(request, 0.5)
            if answered is None or number < answered:
                await journal.add(request.key, reply, request.purpose)

        await asyncio.gather(*(one(*pair) for pair in enumerate(requests)))

    asyncio.run(main())
    return journal


def state(journal: Journal) -> tuple[Any, ...]:
    return (journal.tokens, journal.cost, journal.unpriced, journal.open_tokens, journal.open_cost, len(journal),
            journal.open, dict(journal.replies()))  # fmt: skip


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    requests = [request(f"q{i}") for i in range(50)]
    journal = filled(tmp_path / "journal.jsonl", requests, answered=40)
    again = Journal(tmp_path / "journal.jsonl")
    assert state(again) == state(journal)
    assert again.tokens == 40 * 42
    assert again.cost == 10.0
    assert again.open_tokens == sum(r.most_tokens() for r in requests[40:])
    assert again.open_cost == 5.0
    assert again.reply(requests[3].key) == REPLY
    assert again.reply(requests[45].key) is None
    assert requests[3].key in again
    assert again.replies is not None


def test_a_reply_is_on_the_disk_when_add_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")

    async def main() -> None:
        await journal.sending(request("a"), 0.0)
        assert request("a").key in (tmp_path / "journal.jsonl").read_text()
        await journal.add(request("a").key, REPLY, "tasks")
        assert Journal(journal.path).reply(request("a").key) == REPLY

    asyncio.run(main())


def test_each_try_counts_until_a_reply_or_a_refusal_ends_it(tmp_path: Path) -> None:
    journal, asked = Journal(tmp_path / "journal.jsonl"), request("a")

    async def main() -> None:
        for _ in range(3):
            await journal.sending(asked, 1.0)
        journal.refused(asked.key)
        await journal.add(asked.key, REPLY, "tasks")
        await journal.flush()

    asyncio.run(main())
    for each in (journal, Journal(journal.path)):
        assert each.tokens == 42
        assert each.open == {asked.key: [(asked.most_tokens(), 1.0)]}  # one try may have been paid for besides


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_cut_last_line_is_left_out_and_overwritten(tmp_path: Path, cut: int) -> None:
    path, requests = tmp_path / "journal.jsonl", [request("a"), request("b")]
    filled(path, requests[:1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path)
    assert len(journal) == 0
    assert list(journal.open) == [requests[0].key]
    assert path.read_bytes() == whole[:-cut]  # reading changes nothing

    async def main() -> None:
        await journal.add(requests[1].key, REPLY, "tasks")

    asyncio.run(main())
    assert [next(iter(json.loads(line))) for line in path.read_text().splitlines()] == ["sent", "reply"]
    assert Journal(path).reply(requests[1].key) == REPLY


def test_a_first_line_that_was_cut_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"sent": "abc", "tok')
    assert len(Journal(path)) == 0


@pytest.mark.parametrize(
    "damage", [b"\x00\x01\xff\n", b"{}\n", b"[]\n", b"null\n", b'{"reply": 3}\n',
               b'{"sent": "x", "tokens": -1, "cost": 0}\n',
               b'{"sent": "x", "tokens": 1, "cost": Infinity}\n', b"\n", b"[" * 5000 + b"\n",
               b'{"reply": "x", "text": 5, "prompt_tokens": 1, "completion_tokens": 1, "cost": null}\n',
               b'{"reply": "x", "text": "", "prompt_tokens": NaN, "completion_tokens": 1, "cost": null}\n'],
)  # fmt: skip
def test_damaged_lines_in_the_middle_are_told_and_left_out(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path, requests = tmp_path / "journal.jsonl", [request("a"), request("b")]
    before = state(filled(path, requests))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    assert state(Journal(path)) == before
    assert "1 damaged lines" in capsys.readouterr().out


def test_another_file_in_its_place_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("my diary\nof today")
    with pytest.raises(UserError, match="no journal"):
        Journal(path)
    assert path.read_text() == "my diary\nof today"


def test_a_reply_that_stands_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    before = state(filled(path, [request("a")]))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1], lines[1].replace(b"text ", b"other ")]))
    assert state(Journal(path)) == before


def _full_after(monkeypatch: pytest.MonkeyPatch, bytes_left: int) -> Callable[[], None]:
    """Makes the disk full after some bytes; the result frees it again."""
    import builtins

    real, left = builtins.open, [bytes_left]

    def opened(path: Any, mode: str = "r", *more: Any, **others: Any) -> Any:
        file = real(path, mode, *more, **others)
        if mode != "ab":
            return file

        class Full:
            def write(self, data: Any) -> int:
                if left[0] <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                count = file.write(bytes(data)[: left[0]])
                left[0] -= count
                return int(count)

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

        return Full()

    monkeypatch.setattr("builtins.open", opened)
    return lambda: left.__setitem__(0, 1 << 30)


def test_a_full_disk_is_one_message_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, [request("a")])
    before = path.read_bytes()
    journal = Journal(path)
    free = _full_after(monkeypatch, 100)

    async def main() -> list[Any]:
        adds = (journal.add(request(text).key, REPLY, "tasks") for text in "bcd")
        first = await asyncio.gather(*adds, return_exceptions=True)
        later = await asyncio.gather(journal.add(request("e").key, REPLY, "tasks"), return_exceptions=True)
        return first + later

    errors = asyncio.run(main())
    assert all(isinstance(error, UserError) and "no space" in error.what for error in errors)
    assert path.read_bytes() == before
    assert request("b").key not in journal
    free()
    assert len(filled(path, [request("b")])) == 2


def test_a_second_command_does_not_write_into_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = Journal(path), Journal(path)

    async def main() -> None:
        await first.add(request("a").key, REPLY, "tasks")
        with pytest.raises(UserError, match="another command writes"):
            await second.add(request("b").key, REPLY, "tasks")
        await first.add(request("c").key, REPLY, "tasks")

    asyncio.run(main())
    assert len(Journal(path)) == 2


def test_no_text_stays_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    path, text = tmp_path / "journal.jsonl", "x" * 5000
    filled(path, [request(f"q{i}") for i in range(1000)], Reply(text))
    tracemalloc.start()
    journal = Journal(path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(journal) == 1000
    assert kept < 1000 * 400


def test_lost_tries_are_those_that_are_in_no_batch(tmp_path: Path) -> None:
    requests = [request(text) for text in ("a", "bb", "c")]
    journal = filled(tmp_path / "journal.jsonl", requests, answered=1)
    assert journal.lost() == (2, requests[1].most_tokens() + requests[2].most_tokens())

    async def main() -> None:
        await journal.hand_over("one", [requests[1].key])

    asyncio.run(main())
    assert Journal(journal.path).lost() == (1, requests[2].most_tokens())


def test_batches_are_known_until_they_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")

    async def main() -> None:
        await journal.hand_over("teacher-1", ["k1", "k2"])
        await journal.hand_over("judge-1", ["k3"])
        await journal.handed_over("teacher-1", "batch-7")
        await journal.batch_ended("judge-1", "completed")

    asyncio.run(main())
    again = Journal(journal.path)
    assert {name: (batch.id, batch.keys) for name, batch in again.batches.items()} == {
        "teacher-1": ("batch-7", {"k1", "k2"})
    }
    assert again.is_pending("k1")
    assert not again.is_pending("k3")
    again.forget_batches("judge")
    assert again.is_pending("k1")
    again.forget_batches("teacher")
    assert not again.is_pending("k1")
