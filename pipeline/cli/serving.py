"""The commands of the server: serve, and ui, which shows its page."""

from __future__ import annotations

from pipeline.cli.command_line import Given


def serve(given: Given) -> None:
    """Serves base, export and stored adapters until it is stopped."""
    _serve(given, page=False)


def ui(given: Given) -> None:
    """The same server; shows the address of its page and opens it where there is a desktop."""
    _serve(given, page=True)


def _serve(given: Given, page: bool) -> None:
    """The token and the port come first: what is wrong with them is told before anything is trained or loaded."""
    config, run = given.load()
    from pipeline.serving.server.access import Access
    from pipeline.serving.server.listening import bind
    from pipeline.serving.server.serve import serve as until_stopped
    from pipeline.serving.server.serve import serves_export
    from pipeline.stages import bring_up_to_date

    access = Access.of(config.serve)
    with bind(config.serve) as listener:
        if serves_export(config):
            config = bring_up_to_date(config, run, "export")
        until_stopped(config, run, access, listener, page)
