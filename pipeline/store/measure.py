"""A stored adapter, or the base alone, on the held-out rows of any run: how well does it know that run's tasks?"""

from __future__ import annotations

import sys
from typing import Any

from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.evaluation.held_out_rows import held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_key
from pipeline.evaluation.results import measure
from pipeline.evaluation.shots import Shots
from pipeline.model.base import Base
from pipeline.model.exported import base_with_tokens
from pipeline.model.load import context_of
from pipeline.prompt.passages import WINDOW
from pipeline.prompt.stage import encoder_of
from pipeline.run.folder import Run
from pipeline.store.folder import Store
from pipeline.store.load import RULES, open_stored


def measure_stored(config: Config, run: Run, base: Base, store: Store, name: str) -> dict[str, Any]:
    """As `measure`, for the adapter called `name` (`base`: none), on the rows of `run`, in the adapter's own form.

    Raises:
        UserError: as `open_stored`.
    """
    shots, key, cache = None, base_key(config), run.folder("measurements")
    if name == BASE:
        encoder = encoder_of(config, base.tokenizer)
        measured = MeasuredModel(
            cache / "base.jsonl", key, encoder, lambda: base_with_tokens(config, base, encoder), name
        )
    else:
        model, encoder = open_stored(config, base, store, name)
        if any(getattr(encoder.prompt_config, rule) != getattr(config.prompt, rule) for rule in RULES):
            # The run's encoded rows are in the config's form; no examples in front means: encoded anew, else the same.
            shots = Shots(encoder, [], 0, config.train.seed, sys.maxsize, 0)
        adapter = {**key, "files": store.record(name)["files"]}
        measured = MeasuredModel(cache / f"adapter-{name}.jsonl", adapter, encoder, lambda: model, name)
    splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), config.eval.rows)
    return measure(measured, splits, config.eval, config.data.groups, context_of(config, base) or WINDOW, shots)
