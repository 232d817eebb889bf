"""Before any work the processes of a run meet: all are there, made of the same things, and see the same run folder.

    all      agree on a name for this attempt of the run
    rank 0   writes a file with a random name into the run folder, and a note with that name
    all      look for the file; note their host and facts (versions, hashes of config, data and base), or why they
             cannot take part
    rank 0   compares the notes with its own, and notes the verdict: empty, or what is wrong

Nothing of the run has been made by then, so ranks that do not fit are refused within seconds.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.ranks.board import POLL, Board
from pipeline.ranks.place import Place
from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, make_folder
from pipeline.run.progress import say

SEEN_AFTER = 10.0  # seconds in which a file has to appear on another host; NFS keeps what it knows of a folder for some
NAMED = 8  # ranks that a message lists
# Facts that may differ, and what that means.
TOLERATED = {"card": "each step takes as long as on the slowest"}

Facts = Mapping[str, str]


def meet(
    board: Board, place: Place, facts: Facts, folder: Path, patience: float, refusal: UserError | None = None
) -> tuple[Board, list[str]]:
    """Returns once all ranks are there and agree; the board of this attempt, and the hosts by rank.

    Args:
        facts: what must be the same on all ranks, short texts by name. folder: of the run, which all must see.
        patience: seconds to wait for the other ranks. refusal: why this rank cannot take part.

    Raises:
        UserError: ranks are missing, cannot take part, differ from rank 0, or do not see its run folder.
    """
    deadline = time.monotonic() + patience
    board = _attempt(board, place, deadline, patience)
    if place.rank == 0:
        is_new = not folder.exists()
        make_folder(folder)
        mark = folder / f".ranks-{secrets.token_hex(8)}.tmp"
        with disk_errors(folder):
            mark.touch()
        try:
            board.write("folder", {"mark": mark.name, "path": str(folder.resolve())})
            own = _note(place, facts, refusal, folder, True)
            notes = [own, *_other_notes(board, place, deadline, patience)]
        finally:
            mark.unlink(missing_ok=True)
        problem = _problem(notes)
        if not problem:
            _tell_tolerated(notes)
        elif is_new:
            with contextlib.suppress(OSError):  # another command has begun there
                folder.rmdir()
        board.write("verdict", {"problem": problem, "hosts": [note["host"] for note in notes]})
    else:
        first = _wait(board, "folder", place, deadline, patience)
        sees = _appears(folder / first["mark"])
        board.write(f"note/{place.rank}", _note(place, facts, refusal, folder, sees))
    verdict = _wait(board, "verdict", place, deadline + SEEN_AFTER, patience)
    board.count("heard")
    if place.rank == 0:  # which may hold the store
        board.wait_for_count("heard", place.world, SEEN_AFTER)
    if verdict["problem"]:
        raise UserError(*verdict["problem"])
    return board, list(verdict["hosts"])


def _attempt(board: Board, place: Place, deadline: float, patience: float) -> Board:
    """The board of this attempt, whose name rank 0 chooses.

    Notes of an earlier attempt may still be there, and no variable of a launcher names the attempt alike on all hosts.
    So each rank asks with a word of its own, and takes the answer that repeats it.

    Raises:
        UserError: a rank did not come.
    """
    own = secrets.token_hex(8)
    if place.rank:
        board.write(f"ask/{place.rank}", [own, place.host])
        while (answer := board.read(f"answer/{place.rank}") or ["", ""])[0] != own:
            _check_time(board, place, deadline, patience)
        joined = Board(board.store, answer[1])
        joined.write(f"came/{place.rank}", place.host)
        return joined
    joined = Board(board.store, own)
    joined.write("came/0", place.host)
    missing, answered = set(range(1, place.world)), dict.fromkeys(range(place.world), "")
    while missing:
        for rank in sorted(missing):
            word, _ = board.read(f"ask/{rank}") or ["", ""]
            if word != answered[rank]:
                answered[rank] = word
                board.write(f"answer/{rank}", [word, own])
        missing -= {rank for rank in missing if joined.read(f"came/{rank}") is not None}
        if missing:
            _check_time(joined, place, deadline, patience)
    return joined


def _check_time(board: Board, place: Place, deadline: float, patience: float) -> None:
    """Waits a moment, or stops waiting."""
    if time.monotonic() > deadline:
        raise _missing(board, place, patience)
    time.sleep(POLL)


def _note(place: Place, facts: Facts, refusal: UserError | None, folder: Path, sees: bool) -> dict[str, Any]:
    refused = [refusal.what, refusal.where, refusal.fix] if refusal else None
    where = {"host": place.host, "folder": str(folder.resolve()), "cwd": os.getcwd()}
    return {"facts": dict(facts), "refused": refused, "sees": sees, **where}


def _other_notes(board: Board, place: Place, deadline: float, patience: float) -> list[dict[str, Any]]:
    """The notes of all ranks but the first, by rank."""
    return [_wait(board, f"note/{rank}", place, deadline + SEEN_AFTER, patience) for rank in range(1, place.world)]


def _wait(board: Board, name: str, place: Place, deadline: float, patience: float) -> Any:
    """A note, once it is there.

    Raises:
        UserError: it is not there in time; with the ranks that did not come and the hosts of those that did.
    """
    while (value := board.read(name)) is None:
        _check_time(board, place, deadline, patience)
    return value


def _missing(board: Board, place: Place, patience: float) -> UserError:
    came = [board.read(f"came/{rank}") or (board.read(f"ask/{rank}") or [0, None])[1] for rank in range(place.world)]
    came[place.rank] = place.host
    gone = [rank for rank, host in enumerate(came) if host is None]
    there = ", ".join(sorted({host for host in came if host is not None}))
    who = _ranks(gone) if gone else "a rank that came"
    what = f"{who} of {place.world} did not answer within {patience:.0f} s; there are those on {there}"
    fix = (
        "start the same command on every host, with its own number (--node-rank or --machine_rank), and look at its log"
        f" there; {PATIENCE} sets the seconds"
    )
    return UserError(what, "rendezvous", fix)


def _appears(path: Path) -> bool:
    """Whether a file that another process wrote can be seen."""
    deadline = time.monotonic() + SEEN_AFTER
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        if path.parent.is_dir():
            os.listdir(path.parent)  # a network file system asks its server again
        time.sleep(POLL)
    return True


def _problem(notes: list[dict[str, Any]]) -> tuple[str, str, str] | None:
    """What is wrong, where, and what to do; None if the ranks agree."""
    first = notes[0]
    if refused := [note["refused"] for note in notes if note["refused"]]:
        what, where, fix = refused[0]
        ranks = [rank for rank, note in enumerate(notes) if note["refused"] == refused[0]]
        return what if len(ranks) == len(notes) else f"{_who(notes, ranks)}: {what}", where, fix
    blind = [rank for rank, note in enumerate(notes) if not note["sees"]]
    if blind:
        note = notes[blind[0]]
        other = f"{_who(notes, blind)} cannot see the run folder of rank 0 on {first['host']}, {first['folder']}"
        if note["folder"] != first["folder"]:
            return (
                f"{other}: theirs is {note['folder']}", f"started in {note['cwd']}",
                "start all ranks in the same folder, or name one with RUNS=/shared/runs",
            )  # fmt: skip
        fix = "put it on a disk that all hosts share, with RUNS=/shared/runs"
        return f"{other}: the folder has the same name there, but is another one", note["folder"], fix
    for name in first["facts"]:
        if name in TOLERATED:
            continue
        by_value = _by(notes, lambda note, name=name: note["facts"].get(name, "none"))  # type: ignore[misc]
        if len(by_value) > 1:
            has = "; ".join(f"{value} on {_who(notes, ranks)}" for value, ranks in by_value.items())
            return (
                f"the ranks differ in {name}: {has}", "start of the run",
                "give all ranks the same versions, config, data and base, then start again",
            )  # fmt: skip
    return None


def _tell_tolerated(notes: list[dict[str, Any]]) -> None:
    for name, means in TOLERATED.items():
        by_value = _by(notes, lambda note, name=name: note["facts"].get(name, "none"))  # type: ignore[misc]
        if len(by_value) > 1:
            has = "; ".join(f"{value} on {_who(notes, ranks)}" for value, ranks in by_value.items())
            say(f"train: the ranks differ in {name}: {has}; {means}")


def _by(notes: list[dict[str, Any]], value: Callable[[dict[str, Any]], str]) -> dict[str, list[int]]:
    """Ranks by a value of their note, in the order of the first rank that has it."""
    groups: dict[str, list[int]] = defaultdict(list)
    for rank, note in enumerate(notes):
        groups[value(note)].append(rank)
    return groups


def _who(notes: list[dict[str, Any]], ranks: list[int]) -> str:
    hosts = sorted({notes[rank]["host"] for rank in ranks})
    return f"{_ranks(ranks)} ({', '.join(hosts)})"


def _ranks(ranks: Iterable[int]) -> str:
    """Such as `rank 3` or `ranks 1, 2`."""
    numbers = list(ranks)
    names = ", ".join(map(str, numbers[:NAMED])) + (f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {names}"


PATIENCE = "SURI_RANKS_WAIT"  # environment variable: seconds to wait for all ranks
