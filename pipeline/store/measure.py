"""Measures a stored adapter, or the base alone, on the held-out rows of any run."""

from __future__ import annotations

import sys
from typing import Any

from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.evaluation.held_out_rows import held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_key, base_model
from pipeline.evaluation.results import measure
from pipeline.evaluation.shots import Shots
from pipeline.model.base import Base
from pipeline.model.run_base import RunBase
from pipeline.prompt.general_text import WINDOW
from pipeline.run.folder import Run
from pipeline.store.folder import Store
from pipeline.store.load import PROMPT_RULES, open_stored


def measure_stored(config: Config, run: Run, base: Base, store: Store, name: str) -> dict[str, Any]:
    """`measure` for the adapter `name` (`base`: none) on the rows of `run`, with the template of the adapter.

    Raises:
        UserError: as `open_stored`.
    """
    shots, run_base, measurements = None, RunBase.of(config, base), run.folder("measurements")
    if name == BASE:
        measured = base_model(measurements, run_base)
    else:
        model, encoder = open_stored(run_base, store, name)
        if any(getattr(encoder.prompt_config, rule) != getattr(config.prompt, rule) for rule in PROMPT_RULES):
            # The run's tokens are encoded with the config's rules; zero shots make `measure` encode the rows again.
            shots = Shots(encoder, [], 0, config.train.seed, sys.maxsize, 0)
        key = {**base_key(config.model), "files": store.record(name)["files"]}
        measured = MeasuredModel(measurements / f"adapter-{name}.jsonl", key, encoder, lambda: model, name)
    splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), config.eval.rows)
    longest = run_base.context_length() or WINDOW
    return measure(measured, splits, config.eval, config.data.groups, longest, shots)
