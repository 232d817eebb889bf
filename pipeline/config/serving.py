"""Keys of `serve` and `ui`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.values import Length, Positive, Section, number, variable_name


class Serve(Section):
    """The server of `serve` and `ui`."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address on which the server listens; 127.0.0.1 = this machine only. Set 0.0.0.0 for other machines; a token is
    then required."""
    port: Annotated[int, BeforeValidator(number), Field(ge=0, le=65_535)] = 8000
    """Port; 0 = a free one. Change it when another program uses it."""
    token: Annotated[str, AfterValidator(variable_name)] = ""
    """Name of the environment variable that holds the token which every request must carry; empty = SURI_TOKEN if it
    is set, else none. Set it when your token is in another variable."""
    models: tuple[str, ...] = ()
    """Names of what is served: `base`, the run's name for its export, adapters of the store; empty = all of them. Name
    fewer when memory is short."""
    parallel: Annotated[int, BeforeValidator(number), Field(ge=1, le=1024)] = 8
    """Answers that are generated at once. Raise it for many users on a GPU."""
    queue: Annotated[int, BeforeValidator(number), Field(ge=0, le=100_000)] = 64
    """Requests that may wait; further ones get status 503. Raise it when requests come in bursts."""
    max_tokens: Length = 1024
    """Longest answer in tokens that a request may ask for. Lower it when many users share the server."""
    timeout: Positive = 300
    """Seconds after which an answer is ended, waiting included. Raise it for long answers on a slow machine."""
