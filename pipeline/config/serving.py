"""Keys of answers in the terminal (`chat`, `ask`), and of the server (`serve`, `ui`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.values import (
    Count,
    Length,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    adapter_name,
    number,
    variable_name,
)


class Chat(Section):
    """Answers in `chat` and `ask`."""

    max_new_tokens: Length = 512
    """Longest answer in tokens. Raise it when answers are cut off."""
    temperature: Rate = 0.0
    """Sampling temperature; 0 = always the most likely token. Raise it for varied answers."""
    top_p: Share = 1.0
    """Samples from the most likely tokens that together have this probability (nucleus sampling). Lower it when
    sampled answers go astray."""
    top_k: Count = 0
    """Samples from this many of the most likely tokens; 0 = from all. Set it when sampled answers go astray."""
    repetition_penalty: Annotated[float, BeforeValidator(number), Field(gt=0, le=100)] = 1.0
    """Divides the logits of tokens that are in the prompt or the answer (CTRL); 1 = no penalty. Raise it to 1.1 or
    1.2 when answers repeat themselves."""
    seed: Seed | None = None
    """Seed of sampling; empty = another answer each time. Set it to get the same answers again."""
    adapter: Annotated[str, AfterValidator(adapter_name)] = ""
    """Adapter of the store that is put on the base; empty = the run's export. Set it to talk to a stored adapter."""


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
