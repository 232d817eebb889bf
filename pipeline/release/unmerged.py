"""Exports without merged weights: an adapter beside its base, or examples for the prompt and no weights at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer

from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.held_out_rows import held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_key, tuned_key
from pipeline.evaluation.results import measure
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.model import adapter as adapters
from pipeline.model import hf_tokenizer
from pipeline.model.adapter_folder import name_base
from pipeline.model.base import Base
from pipeline.model.exported import base_with_tokens, free_memory
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import context_of
from pipeline.model.methods.method import SETTINGS, WEIGHTS
from pipeline.model.methods.through_peft import ThroughPeft
from pipeline.prompt.encode import Encoder
from pipeline.prompt.passages import WINDOW
from pipeline.release import verify
from pipeline.run.folder import Run, StageOutput
from pipeline.run.progress import say


@dataclass(frozen=True)
class Work:
    """What an export is made with."""

    config: Config
    run: Run
    base: Base
    encoder: Encoder
    examples: Sequence[Example]
    checks: verify.Checks

    def measured(self, model: Any, who: str, key: dict[str, Any]) -> MeasuredModel:
        """`who`: base or tuned. key: identifies the model."""
        path = self.run.folder("measurements") / f"{who}.jsonl"
        return MeasuredModel(path, key, self.encoder, lambda: model, who)

    def measure(self, measured: MeasuredModel, shots: Shots | None = None) -> dict[str, Any]:
        settings, run = self.config.eval, self.run
        splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), settings.rows)
        longest = context_of(self.config, self.base) or WINDOW
        return measure(measured, splits, settings, self.config.data.groups, longest, shots)

    def checked(self, reloaded: Any, folder: Path) -> dict[str, Any]:
        """Measures what was saved in `folder` and loaded again, once it is known to stop.

        Raises:
            UserError: too few answers end by themselves.
        """
        measured = self.measured(reloaded, "tuned", tuned_key(self.config, self.run, folder))
        rows = read_examples(self.run.folder("dataset"), "val" if self.config.data.val else "train")
        verify.answers_stop(measured, rows, self.config.export.min_eos, self.checks)
        return self.measure(measured)


def unmerged(work: Work, held: list[Any], base_says: torch.Tensor, output: StageOutput) -> dict[str, Any]:
    """Writes adapter and tokenizer, loads them as the card says, checks and measures what was loaded.

    Args:
        held: the base, which is taken out. base_says: its log-probabilities.

    Raises:
        UserError: a check failed.
    """
    plain = held.pop()
    config, run, encoder, folder = work.config, work.run, work.encoder, output.folder
    tuned = adapters.load(plain, run.folder("adapter"), fingerprint(config, work.base))
    tuned_says = verify.log_probabilities(tuned, encoder, work.examples)
    verify.weights_have_learnt(tuned_says, base_says, work.checks)
    limit = getattr(plain.config, "max_position_embeddings", None)
    del tuned, plain
    free_memory()

    say("export: saving the adapter, which no weights of the base's form can hold")
    shutil.copyfile(run.folder("adapter") / WEIGHTS, folder / WEIGHTS)
    shutil.copyfile(run.folder("adapter") / SETTINGS, folder / SETTINGS)
    name_base(folder, config, work.base)
    _save_tokenizer(work, limit, output)

    fresh = base_with_tokens(config, work.base, encoder)
    if isinstance(adapters.method_of(config.adapter), ThroughPeft):
        reloaded, how = PeftModel.from_pretrained(fresh, folder).eval(), "stock peft on the base"
    else:
        reloaded, how = adapters.load(fresh, folder), "the base with the adapter"
    said = f"{how} gives the logits of what was trained"
    reloaded_says = verify.log_probabilities(reloaded, encoder, work.examples)
    verify.reload_equals_merged(tuned_says, reloaded_says, work.checks, said)
    return work.checked(reloaded, folder)


def without_training(work: Work, held: list[Any], output: StageOutput) -> dict[str, Any]:
    """Measures the base, taken out of `held`, with examples in front of each question; only the tokenizer is written.

    Raises:
        UserError: the tokenizer does not agree with ours.
    """
    plain = held.pop()
    limit = getattr(plain.config, "max_position_embeddings", None)
    _save_tokenizer(work, limit, output)
    config, room, count = work.config, work.config.eval.max_new_tokens, work.config.adapter.shots
    shots = shots_from(work.run.folder("dataset"), work.encoder, config.train.seed, limit, room, count)
    return work.measure(work.measured(plain, "base", base_key(config)), shots)


def _save_tokenizer(work: Work, limit: int | None, output: StageOutput) -> None:
    hf_tokenizer.save(hf_tokenizer.build(work.encoder, limit), work.encoder, output.folder)
    tokenizer = AutoTokenizer.from_pretrained(output.folder, local_files_only=True)
    verify.tokenizer_agrees(tokenizer, work.encoder, work.examples, work.checks)
