"""What a run does against forgetting while it trains: penalties towards its start, and the general data they need.

The third way, rehearsal, is rows among the training rows: `data.rehearsal`, pipeline/dataset/select/mix.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.dataset.read.source import labels
from pipeline.model.load import context_length
from pipeline.prompt.encode import Encoder
from pipeline.prompt.general_text import WINDOW, cut_windows, path_of, read_passages
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_json
from pipeline.run.folder import Run
from pipeline.training.fisher import ROWS, Row, load_or_make, with_fisher
from pipeline.training.penalty import Penalty, parts_of


def open_penalties(
    config: Config, run: Run, model: Any, weights: Mapping[str, torch.nn.Parameter], encoder: Encoder,
    tokens: Tokens, accelerator: Any, key: Mapping[str, Any],
) -> list[Penalty]:  # fmt: skip
    """The penalties of `train.l2_sp` and `train.ewc`, none by default.

    To be called while the weights are at the start of the run, before a checkpoint is restored: the start is a function
    of base and seed, so a resumed run has the same. `key`: of the training stage.

    Raises:
        UserError: EWC without general data, or with the text that forgetting is measured on.
    """
    settings = config.train
    if not (settings.l2_sp or settings.ewc):
        return []
    parts = parts_of(model, weights)
    found = [Penalty(parts, settings.l2_sp)] if settings.l2_sp else []
    if settings.ewc:
        rows = general_rows(config, run, encoder, tokens, context_length(model.config, config.adapter) or WINDOW)
        own = {name: value for name, value in key.items() if name not in ("train", "version")}
        own |= {"seed": settings.seed, "rows": ROWS}
        made = load_or_make(run.root, sha256_json(own), model, parts, rows, accelerator, settings.seed)
        found.append(Penalty(with_fisher(parts, made), settings.ewc))
    return found


def general_rows(config: Config, run: Run, encoder: Encoder, tokens: Tokens, longest: int) -> list[Row]:
    """Up to `ROWS` rows of general data as ids and labels: windows of `train.ewc_data`, or else training rows of the
    sources marked `rehearsal`, chosen by content hash.

    Args:
        longest: tokens that the model can be asked about.

    Raises:
        UserError: there are none, or passages of it are those that forgetting is measured on.
    """
    if named := config.train.ewc_data:
        passages = read_passages(path_of(named), "train.ewc_data")
        measured = {p.text.strip() for p in read_passages(path_of(config.eval.general))}
        if both := sum(p.text.strip() in measured for p in passages):
            what = f"{both} of its passages are those that forgetting is measured on (eval.general)"
            raise UserError(what, f"train.ewc_data, {named}", "name another text: one would guard what one measures")
        return [(w.ids, w.ids) for w in cut_windows(passages, encoder, ROWS, min(WINDOW, longest))]
    names = labels(config.data.sources)
    general = {name for name, source in zip(names, config.data.sources, strict=True) if source.rehearsal}
    wanted = {e.id for e in read_examples(run.folder("dataset"), "train") if e.source in general}
    place = {name: n for n, name in enumerate(tokens.names_of(range(len(tokens)))) if name in wanted}
    rows = [tokens.row(place[name]) for name in sorted(place) if tokens.labelled[place[name]]]
    if not rows:
        fix = "name a text with train.ewc_data, or mark a source `rehearsal: true`"
        raise UserError("EWC without general data: no training row comes from a rehearsal source", "train.ewc", fix)
    return [(ids.astype(np.int64), learnt.astype(np.int64)) for ids, learnt in rows[:ROWS]]
