"""Loads what `serve.models` names and starts the engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.exported import export_dtype
from pipeline.model.load import load_folder
from pipeline.model.precision import DTYPES
from pipeline.model.run_base import RunBase
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.progress import warn, working
from pipeline.serving.engine.batch import Batch
from pipeline.serving.engine.batch_engine import BatchEngine, Limits, Route
from pipeline.serving.engine.candidates import Candidate, exported, stored, wanted_names
from pipeline.serving.engine.decoder import NotServable, decoder_of
from pipeline.serving.engine.loaded import LoadedBase, context_of
from pipeline.serving.engine.memory import SHORT_PROMPT, context_within, plan_cache
from pipeline.serving.engine.request import Engine
from pipeline.serving.engine.served_model import ServedModel
from pipeline.store.folder import Store


def open_engine(config: Config, run: Run, store: Store) -> tuple[Engine, list[ServedModel]]:
    """Loads the models and starts the engine's thread; the caller closes it.

    The models are the base (`base`), the run's export (the run's name) and the adapters of the store that belong to the
    base. What cannot be served is left out with a line, or is an error where `serve.models` names it.

    Raises:
        UserError: a model that was named cannot be served, none can, or the memory does not suffice.
    """
    candidates, base = _candidates(config, run, store)
    routes = _loaded(config, candidates, base)
    candidates = [candidate for candidate in candidates if candidate.name in routes]
    batches = list({id(batch): batch for batch, _ in routes.values()}.values())
    per_token = [batch.per_token for batch in batches]
    contexts = [batch.context for batch in batches]
    serve = config.serve
    cache = plan_cache(batches[0].decoder.device, per_token, contexts, serve.parallel, serve.max_tokens)
    for batch in batches:
        batch.context = context_within(cache, batch.per_token, batch.context)
        batch.reserve(serve.parallel, SHORT_PROMPT + serve.max_tokens, cache // len(batches))
    engine = BatchEngine(
        {name: Route(batch, adapter) for name, (batch, adapter) in routes.items()},
        Limits(serve.parallel, serve.queue, cache),
    )
    models = [
        ServedModel(one.name, one.kind, one.encoder, one.end_ids, routes[one.name][0].context, one.note)
        for one in candidates
    ]
    return engine, models


def _candidates(config: Config, run: Run, store: Store) -> tuple[list[Candidate], Callable[[], RunBase]]:
    names = wanted_names(config, run, store)
    named = set(config.serve.models)

    @functools.cache
    def base() -> RunBase:
        return RunBase.of(config, resolve(config.model))

    def one(name: str) -> Candidate:
        if name == BASE:
            return Candidate(BASE, "base", base().encoder)
        if name == config.name:
            return exported(config, run, base, with_base=bool(set(names) - {name}))
        return stored(base(), store, name)

    candidates = []
    for name in names:
        try:
            candidates.append(one(name))
        except (UserError, NotServable) as error:
            leave_out(name, name in named, error)
    if not candidates:
        raise UserError("there is no model that can be served", "serve.models", "see the lines above")
    return candidates, base


def leave_out(name: str, is_named: bool, error: UserError | NotServable) -> None:
    """Leaves a model out with a line, or refuses to start where the user named it.

    Raises:
        UserError: `is_named`.
    """
    if not is_named:
        warn(f"serve: {name} is left out: {error.what if isinstance(error, UserError) else error}")
        return
    if isinstance(error, UserError):
        raise error
    raise UserError(f"{name} cannot be served: {error}", "serve.models", f"remove {name} there") from None


def _loaded(
    config: Config, candidates: list[Candidate], base: Callable[[], RunBase]
) -> dict[str, tuple[Batch, int | None]]:
    """Batch and number of the adapter, by the names of the models that could be loaded."""
    named = set(config.serve.models)
    routes: dict[str, tuple[Batch, int | None]] = {}
    on_base = [candidate for candidate in candidates if not candidate.merged]
    if on_base:
        with working("serve: loading the base and its adapters"):
            loaded = LoadedBase(base().load())
            for one in on_base:
                if one.adapter:
                    try:
                        loaded.add(one.name, one.adapter, one.is_mixable)
                    except (UserError, NotServable) as error:
                        leave_out(one.name, one.name in named, error)
            try:
                routes = loaded.batches(BASE)
            except NotServable as error:
                leave_out(BASE, True, error)
    for one in on_base:
        if not one.adapter:
            routes[one.name] = routes[BASE]
    for one in candidates:
        if one.merged:
            try:
                with working(f"serve: loading {one.merged}"):
                    routes[one.name] = (_merged(config, one.merged), None)
            except (UserError, NotServable) as error:
                leave_out(one.name, one.name in named, error)
    served = {candidate.name for candidate in candidates}
    return {name: route for name, route in routes.items() if name in served}


@torch.no_grad()
def _merged(config: Config, folder: Path) -> Batch:
    model = load_folder(folder, DTYPES[export_dtype(config.export, config.model)], "the export")
    decoder = decoder_of(model.requires_grad_(False))
    return Batch(decoder, None, context_of(decoder))
