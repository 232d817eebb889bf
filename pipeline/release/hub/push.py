"""`make push`: sends an export to a hub, private unless told otherwise, after showing what goes and asking."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.model.base.licences import README, read_front_matter
from pipeline.release import terms
from pipeline.release.front_matter import problems
from pipeline.release.hub.contents import File, chosen, contents
from pipeline.release.hub.repository import WRITTEN_BY_THE_HUB, Repository, State, is_stored
from pipeline.release.summary import unfinished_text
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, readable_size
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import say


@dataclass(frozen=True)
class Request:
    """What the user asked for. what: formats, with commas. skip: files that are not sent, with commas.

    public: anyone may see it. agreed: sent without asking. unfinished: also an export whose answers do not end by
    themselves. replace: the repository is made equal to what is sent, and other files in it are deleted.
    """

    what: str = ""
    skip: str = ""
    public: bool = False
    agreed: bool = False
    unfinished: bool = False
    replace: bool = False


def push(
    config: Config, run: Run, repository: Repository, request: Request, ask: Callable[[], bool] | None = None
) -> None:
    """Shows what goes where, asks, sends it, and compares what arrived.

    Args:
        ask: for an answer; None = on the terminal.

    Raises:
        UserError: there is nothing to send, or it has changed; the hub refuses; nobody agreed.
    """
    formats = chosen(request.what)
    _check_finished(run, request)
    files = contents(run, formats, [name.strip() for name in request.skip.split(",") if name.strip()])
    _check_card(files)
    account = repository.account()
    state = repository.state()
    missing, removed = _compare(repository, files, state, request)
    if not missing and not removed:
        say(f"push: up to date: {repository.page} holds all {len(files)} files")
        return
    _show(repository, account, files, missing, removed, request)
    _show_terms(config, run, repository.name.partition("/")[2])
    if not request.agreed and not (ask or _ask)():
        raise UserError("nothing was sent", repository.page, "answer y to send it")
    repository.create(private=not request.public)
    repository.send(missing, removed, f"{config.name}, made by Suri")
    repository.check(files)
    say(f"push: {len(files)} files are there, each with the hash of the export: {repository.page}")


def _check_finished(run: Run, request: Request) -> None:
    unfinished = (read_json(run.folder("export") / "results.json") or {}).get("unfinished")
    if unfinished and not request.unfinished:
        fix = f"train longer, or send it as it is: `{next_command('push', UNFINISHED='1')}`"
        raise UserError(f"the export is unfinished: {unfinished_text(unfinished)}", str(run.folder("export")), fix)


def _check_card(files: Sequence[File]) -> None:
    """Raises:
    UserError: a hub would not accept the metadata of the card.
    """
    card = next((file for file in files if file.target == README), None)
    if card is not None and (wrong := problems(read_front_matter(card.path))):
        raise UserError(f"the card's metadata is not valid: {wrong[0]}", str(card.path), "export again")


def _compare(
    repository: Repository, files: Sequence[File], state: State | None, request: Request
) -> tuple[list[File], list[str]]:
    """Files that the repository lacks, and names that are to be removed there.

    Raises:
        UserError: it holds other files, or everyone may see it, and the user has not agreed to that.
    """
    if state is None:
        return list(files), []
    if not state.is_private and not request.public:
        fix = f"make it private on its page, name another one, or `{next_command('push', PUBLIC='1')}`"
        raise UserError("the repository is public: everyone would see what is sent", repository.page, fix)
    missing = [file for file in files if not is_stored(file, state)]
    names = {file.target for file in files}
    changed = [file.target for file in missing if file.target in state.files]
    removed = sorted(set(state.files) - names - set(WRITTEN_BY_THE_HUB))
    if (changed or removed) and not request.replace:
        shown = ", ".join([*changed, *removed][:5])
        what = f"the repository holds something else: {shown}{', ...' if len(changed) + len(removed) > 5 else ''}"
        fix = f"name another one, or make it equal to the export: `{next_command('push', REPLACE='1')}`"
        raise UserError(what, repository.page, fix)
    return missing, removed


def _show(
    repository: Repository, account: str, files: Sequence[File], missing: Sequence[File], removed: Sequence[str],
    request: Request,
) -> None:  # fmt: skip
    seen = "PUBLIC, everyone can see it" if request.public else "private"
    say(f"push: to {repository.name} on {repository.host}, as {account}; {seen}")
    for file in files:
        say(f"{readable_size(file.bytes):>10}  {file.target}{'' if file in missing else ' (already there)'}")
    for name in removed:
        say(f"{'removed':>10}  {name}")
    say(f"{readable_size(sum(file.bytes for file in missing)):>10}  to send, {len(missing)} of {len(files)} files")


def _show_terms(config: Config, run: Run, name: str) -> None:
    """The conflicts of licences, for the name in the repository."""
    record = read_json(run.folder("export") / "suri.json")
    stored = record.get("terms") if isinstance(record, dict) else None
    found = terms.from_data(stored) if stored is not None else terms.parties(config, _folder(config))
    for line in terms.conflicts(found, name):
        say(f"push: {line.replace('**', '').replace('`', '')}")


def _folder(config: Config) -> Path | None:
    path = Path(config.model.base)
    return path if config.model.base and path.is_dir() else None


def _ask() -> bool:
    """The answer on the terminal.

    Raises:
        UserError: there is no terminal.
    """
    if not sys.stdin or not sys.stdin.isatty():
        fix = f"to send it without being asked: `{next_command('push', YES='1')}`"
        raise UserError("nothing was sent: there is no terminal to ask on", "make push", fix)
    try:
        return input("Send it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
