"""The command `push`: an export to a hub."""

from __future__ import annotations

from pipeline.cli.command_line import Given


def push(given: Given) -> None:
    """Sends what the user names, after showing it and asking."""
    config, run = given.load()
    from pipeline.release.hub.push import Request, push
    from pipeline.release.hub.repository import Repository

    options = given.options
    flags = {name: name in options for name in ("public", "unfinished", "replace")}
    request = Request(options.get("what", ""), options.get("skip", ""), agreed="yes" in options, **flags)
    push(config, run, Repository(given.words[0].strip()), request)
