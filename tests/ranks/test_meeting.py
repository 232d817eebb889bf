"""Ranks meet: all are there, made of the same things, in the same run folder."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from pipeline.ranks import meeting
from pipeline.ranks.board import Board
from pipeline.ranks.meeting import meet
from pipeline.ranks.place import Place
from pipeline.run.errors import UserError

FACTS = {"torch": "2.13.0", "config": "c0ffee", "card": "H200"}


def gather(
    facts: list[dict[str, str]],
    folders: list[Path],
    world: int = 0,
    patience: float = 5,
    refusals: dict[int, UserError] | None = None,
) -> list[list[str] | UserError]:
    """What each rank that comes gets: the hosts, or an error. world: of more ranks than come. refusals: by rank."""
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    results: list[list[str] | UserError] = [[] for _ in facts]

    def come(rank: int) -> None:
        place = Place(rank, world or len(facts), rank, f"host{rank // 2}")
        board = Board(TCPStore("127.0.0.1", store.port, None, False, timedelta(seconds=5)), "")
        try:
            refusal = (refusals or {}).get(rank)
            _, results[rank] = meet(board, place, facts[rank], folders[rank], patience, refusal)
        except UserError as error:
            results[rank] = error

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(len(facts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_all_agree(tmp_path: Path) -> None:
    assert gather([FACTS] * 4, [tmp_path] * 4) == [["host0", "host0", "host1", "host1"]] * 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("ranks", "who"), [([2], "rank 2 (host1): "), ([1, 2], "ranks 1, 2 (host0, host1): "),
                                          ([0, 1, 2, 3], "")])  # fmt: skip
def test_a_rank_that_cannot_take_part(tmp_path: Path, ranks: list[int], who: str) -> None:
    """All hear why, and a run folder that the meeting made is gone."""
    refusals = {rank: UserError("no card", "LOCAL_RANK", "start fewer") for rank in ranks}
    for result in gather([FACTS] * 4, [tmp_path / "run"] * 4, refusals=refusals):
        assert isinstance(result, UserError)
        assert (result.what, result.where, result.fix) == (f"{who}no card", "LOCAL_RANK", "start fewer")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["torch", "config"])
def test_other_versions_or_settings(tmp_path: Path, name: str) -> None:
    results = gather([FACTS, FACTS, FACTS, {**FACTS, name: "other"}], [tmp_path] * 4)
    for result in results:
        assert isinstance(result, UserError)
        assert result.what == (
            f"the ranks differ in {name}: {FACTS[name]} on ranks 0, 1, 2 (host0, host1); other on rank 3 (host1)"
        )


def test_unlike_cards_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gather([FACTS, {**FACTS, "card": "A100"}], [tmp_path] * 2) == [["host0", "host0"]] * 2
    said = " ".join(capsys.readouterr().out.split())
    assert "H200 on rank 0 (host0); A100 on rank 1 (host0); each step takes as long as on the slowest" in said


def test_a_folder_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SEEN_AFTER", 0.3)
    (tmp_path / "a").mkdir()
    results = gather([FACTS] * 3, [tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    for result in results:
        assert isinstance(result, UserError)
        assert result.what == (
            f"rank 1 (host0) cannot see the run folder of rank 0 on host0, {tmp_path / 'a'}: theirs is {tmp_path / 'b'}"
        )
        assert "same folder" in result.fix
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize("coming", [[0, 1], [1, 2]])
def test_ranks_that_do_not_come_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coming: list[int]) -> None:
    """Without rank 0 too."""
    monkeypatch.setattr(meeting, "SEEN_AFTER", 0.3)
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    errors = []

    def come(rank: int) -> None:
        try:
            meet(Board(store, ""), Place(rank, 3, rank, f"host{rank}"), FACTS, tmp_path, 0.5)
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in coming]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (missing,) = {0, 1, 2} - set(coming)
    there = ", ".join(f"host{rank}" for rank in coming)
    assert [error.what for error in errors] == [
        f"rank {missing} of 3 did not answer within 0 s; there are those on {there}"
    ] * 2


def test_a_second_attempt_on_the_same_store(tmp_path: Path) -> None:
    """As after a restart: what the first one noted, an answer and a failure, is not taken for the second one's."""
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    boards: list[dict[int, Board]] = []
    for _ in range(2):
        seen: dict[int, Board] = {}

        def come(rank: int, seen: dict[int, Board]) -> None:
            client = TCPStore("127.0.0.1", store.port, None, False, timedelta(seconds=5))
            seen[rank], _ = meet(Board(client, ""), Place(rank, 2, rank, "host"), FACTS, tmp_path, 5)

        threads = [threading.Thread(target=come, args=(rank, seen)) for rank in (1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen[1].read("failure") is None
        seen[0].write("failure", "old")
        while seen[1].read("failure") is None:  # writing does not wait for the store
            time.sleep(0.01)
        assert seen[1].read("failure") == "old"
        boards.append(seen)
    assert boards[0][0].prefix != boards[1][0].prefix


def test_a_rank_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError, match="RANK=2 and WORLD_SIZE=2"):
        Place.here()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UserError, match="RANK='one' is no number"):
        Place.here()
