"""The commands `push` and `publish`: an export to a hub, and data to an object store."""

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


def publish(given: Given) -> None:
    """Makes the data, where that is not done, and sends it."""
    config, run = given.load()
    from pipeline.dataset.publish import publish
    from pipeline.run.object_store import check_target
    from pipeline.stages import bring_up_to_date

    target = given.words[0].strip()
    check_target(target)  # a wrong address is told before the work
    publish(bring_up_to_date(config, run, "data"), run, target)
