"""Exports without merged weights: an adapter to be loaded on its base, or no weights but examples for the prompt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from pipeline.evaluation.shots import shots_from
from pipeline.model import adapter as adapters
from pipeline.model.adapter_folder import name_base
from pipeline.model.exported import free_memory
from pipeline.model.load import context_length
from pipeline.model.methods.method import SETTINGS, WEIGHTS
from pipeline.model.methods.through_peft import ThroughPeft
from pipeline.release import verify
from pipeline.release.export import Export
from pipeline.run.progress import say


def export_adapter(export: Export, base_log_probs: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Writes adapter and tokenizer, loads them as the card says, checks and measures the loaded model.

    Raises:
        UserError: a check failed.
    """
    base, source = export.base, export.run.folder("adapter")
    tuned = adapters.load(export.take_model(), source, base.fingerprint())
    tuned_log_probs = export.log_probabilities(tuned)
    verify.weights_have_learnt(tuned_log_probs, base_log_probs, export.checks)
    longest = context_length(tuned.config)
    del tuned
    free_memory()

    say("export: this method cannot be merged into the base, so the export is an adapter")
    for name in (WEIGHTS, SETTINGS):
        shutil.copyfile(source / name, folder / name)
    name_base(folder, base.model, base.files)
    export.save_tokenizer(folder, longest)

    if isinstance(adapters.method_of(base.adapter), ThroughPeft):
        reloaded, how = PeftModel.from_pretrained(base.load(), folder).eval(), "stock peft, loaded on the base,"
    else:
        reloaded, how = adapters.load(base.load(), folder), "the base with the adapter"
    result = f"{how} gives the same logits as in training"
    verify.reload_equals_merged(tuned_log_probs, export.log_probabilities(reloaded), export.checks, result)
    return export.measure_export(reloaded, folder)


def export_nothing(export: Export, folder: Path) -> dict[str, Any]:
    """Measures the base with examples in front of each question; only the tokenizer is written.

    Raises:
        UserError: the tokenizer does not give training's ids.
    """
    base, model = export.base, export.take_model()
    longest = context_length(model.config)
    export.save_tokenizer(folder, longest)
    room, count = export.eval.max_new_tokens, base.adapter.shots
    shots = shots_from(export.run.folder("dataset"), base.encoder, base.seed, longest, room, count)
    return export.measure_base(model, shots)
