"""One export in progress: its inputs, its checks, and the model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.held_out_rows import held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_key, tuned_key
from pipeline.evaluation.results import measure
from pipeline.evaluation.shots import Shots
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.exported import base_with_tokens
from pipeline.model.load import base_shape, context_length
from pipeline.prompt.encode import Encoder
from pipeline.prompt.general_text import WINDOW
from pipeline.release import verify
from pipeline.run.files import read_json
from pipeline.run.folder import Run


@dataclass
class Export:
    """What every kind of export needs.

    Only one model may be in memory at a time. So this object is the only owner of the model, and `take_model` hands it
    over to the code that changes or frees it:

        load_base ─> model: base ─ take_model ─> merge ─> model: merged ─ take_model ─> save, free, load again

    Attributes:
        examples: rows on which log-probabilities and tokenizers are compared.
        model: the base with room for new tokens, then the merged model; None when it was taken.
    """

    config: Config
    run: Run
    base: Base
    encoder: Encoder
    examples: Sequence[Example]
    checks: verify.Checks
    model: Any = None

    def load_base(self) -> Any:
        """The base's model with room for new tokens."""
        return base_with_tokens(self.config, self.base, self.encoder)

    def take_model(self) -> Any:
        """The model; afterwards the caller is its only owner."""
        model, self.model = self.model, None
        return model

    def fingerprint(self) -> str:
        """Of the base."""
        return fingerprint(self.config.model, self.base, self.config.train.seed)

    def log_probabilities(self, model: Any) -> Any:
        """`verify.log_probabilities` on the examples."""
        return verify.log_probabilities(model, self.encoder, self.examples)

    def measure_base(self, model: Any, shots: Shots | None = None) -> dict[str, Any]:
        """Results of the base. shots: in front of every question."""
        return self._measure(self._measured(model, "base", base_key(self.config)), shots)

    def measure_export(self, model: Any, folder: Path) -> dict[str, Any]:
        """Results of the model loaded from the export's folder, after measuring whether its answers end.

        Raises:
            UserError: as `verify.answers_stop`.
        """
        measured = self._measured(model, "tuned", tuned_key(self.config, self.run, folder))
        rows = read_examples(self.run.folder("dataset"), "val" if self.config.data.val else "train")
        probes = read_json(self.run.folder("adapter") / "probes.json")
        stops = (probes.get("probes") or {}).get("stops", {}) if isinstance(probes, dict) else {}
        verify.answers_stop(measured, rows, self.config.export.min_eos, self.checks, stops)
        return self._measure(measured)

    def check_tokenizer(self, folder: Path) -> None:
        """The tokenizer in the export's folder gives training's ids, and a model there stops at training's end token.

        Raises:
            UserError: it does not.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        verify.tokenizer_agrees(tokenizer, self.encoder, self.examples, self.checks)
        if (folder / "generation_config.json").is_file():
            verify.end_token(folder, self.encoder, self.checks)

    def save_tokenizer(self, folder: Path, longest: int | None) -> None:
        """Writes and checks the tokenizer. longest: context length of the model.

        Raises:
            UserError: as `check_tokenizer`.
        """
        hf_tokenizer.save(hf_tokenizer.build(self.encoder, longest), self.encoder, folder)
        self.check_tokenizer(folder)

    def _measured(self, model: Any, label: str, key: dict[str, Any]) -> MeasuredModel:
        path = self.run.folder("measurements") / f"{label}.jsonl"
        return MeasuredModel(path, key, self.encoder, lambda: model, label)

    def _measure(self, measured: MeasuredModel, shots: Shots | None = None) -> dict[str, Any]:
        config, run = self.config, self.run
        splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), config.eval.rows)
        longest = context_length(base_shape(config.model, self.base), config.adapter) or WINDOW
        return measure(measured, splits, config.eval, config.data.groups, longest, shots)
