"""A stored adapter, or the base alone, on the held-out rows of any run: how well does it know that run's tasks?"""

from __future__ import annotations

import sys
from typing import Any

from pipeline.adapter_name import BASE
from pipeline.config import Config
from pipeline.evaluation.measure import PARTS, measure
from pipeline.evaluation.shots import Shots
from pipeline.model.base import Base
from pipeline.model.load import add_tokens, load_base
from pipeline.model.stored import RULES, open_stored
from pipeline.prompt.stage import encoder_of
from pipeline.run import Run
from pipeline.store import Store


def measure_stored(config: Config, run: Run, base: Base, store: Store, name: str) -> dict[str, Any]:
    """As `measure`, for the adapter called `name` (`base`: none), on the rows of `run`, in the adapter's own form.

    Raises:
        UserError: as `open_stored`.
    """
    shots = None
    if name == BASE:
        encoder = encoder_of(config, base.tokenizer)
        model = load_base(config, base)
        add_tokens(model, encoder.tokenizer.size)
    else:
        model, encoder = open_stored(config, base, store, name)
        if any(getattr(encoder.prompt_config, rule) != getattr(config.prompt, rule) for rule in RULES):
            # The run's encoded rows are in the config's form; no examples in front means: encoded anew, else the same.
            shots = Shots(encoder, [], 0, config.train.seed, sys.maxsize, 0)
    return measure(model, config, run, encoder, name, shots)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `measure`, without the answers: what a record keeps."""
    return {part: {k: v for k, v in found[part].items() if k != "said"} for part in PARTS if part in found}
