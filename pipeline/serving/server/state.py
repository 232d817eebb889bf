"""What the endpoints share: the engine and its models once they are loaded, settings and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.nearest import nearest
from pipeline.run.terminal import quoted
from pipeline.serving.engine.request import Engine
from pipeline.serving.engine.served_model import ServedModel
from pipeline.serving.server.access import Access
from pipeline.serving.server.api_error import ApiError, unavailable
from pipeline.serving.server.json_body import BodyReader
from pipeline.serving.server.metrics import Metrics
from pipeline.serving.server.token_text import TokenText

LOADING_WAIT = "5"  # seconds after which a client may ask again
ORDER = ("export", "adapter", "base")  # kinds of models, the default first

Result = TypeVar("Result")


@dataclass(frozen=True)
class Loaded:
    """The engine with its models by name, in the order in which they are listed."""

    engine: Engine
    models: Mapping[str, ServedModel]
    texts: Mapping[str, TokenText]

    @classmethod
    def of(cls, engine: Engine, models: Sequence[ServedModel]) -> Loaded:
        texts = {id(model.encoder.tokenizer): TokenText(model.encoder.tokenizer) for model in models}
        by_name = {model.name: model for model in models}
        return cls(engine, by_name, {model.name: texts[id(model.encoder.tokenizer)] for model in models})

    @property
    def default(self) -> str:
        return min(self.models.values(), key=lambda model: ORDER.index(model.kind)).name

    def model(self, name: str) -> ServedModel:
        """Raises:
        ApiError: there is no such model; with the nearest one.
        """
        if name in self.models:
            return self.models[name]
        hint = nearest(name[:100], self.models, f"there is {', '.join(self.models)}")
        raise ApiError(f"no such model: {quoted(name)}; {hint}", "model", "model_not_found", 404)


@dataclass
class ServerState:
    """Attributes:
    loaded: None while the models are loaded.
    prompts: the thread that makes prompts, one at a time. preparing: requests that wait for it.
    """

    config: Config
    run: Run
    access: Access
    metrics: Metrics = field(default_factory=Metrics)
    loaded: Loaded | None = None
    bodies: BodyReader = field(default_factory=BodyReader)
    prompts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prompts"))
    preparing: int = 0

    def ready(self) -> Loaded:
        """Raises:
        ApiError: the models are not loaded yet.
        """
        if self.loaded is None:
            raise unavailable("the models are still loading; try again in a moment", "loading", LOADING_WAIT)
        return self.loaded

    async def prepared(self, work: Callable[[], Result]) -> Result:
        """Makes a prompt outside of the event loop, which goes on with other requests.

        Raises:
            ApiError: too many requests wait for it already.
        """
        if self.preparing >= self.config.serve.parallel + self.config.serve.queue:
            self.metrics.refused()
            raise unavailable("the queue is full; try again later", "queue_full")
        self.preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.prompts, work)
        finally:
            self.preparing -= 1
