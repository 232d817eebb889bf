"""One export in progress: its inputs, its checks, and the model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pipeline.config.schema import Data, Eval
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.held_out_rows import held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_key, is_model_file, tuned_key
from pipeline.evaluation.results import measure
from pipeline.evaluation.shots import Shots
from pipeline.model import hf_tokenizer
from pipeline.model.run_base import RunBase
from pipeline.prompt.general_text import WINDOW
from pipeline.release import verify
from pipeline.run.files import read_json, sha256_file
from pipeline.run.folder import Run


@dataclass
class Export:
    """What every kind of export needs.

    Only one model may be in memory at a time. So this object is the only owner of the model, and `take_model` hands it
    over to the code that changes or frees it:

        load_base ─> model: base ─ take_model ─> merge ─> model: merged ─ take_model ─> save, free, load again

    Attributes:
        dtype: of merged weights, see `export_dtype`. min_eos: of the config's `export`. eval, data: its sections.
        examples: rows on which log-probabilities and tokenizers are compared.
        model: the base with room for new tokens, then the merged model; None when it was taken.
    """

    run: Run
    base: RunBase
    dtype: str
    min_eos: float
    eval: Eval
    data: Data
    examples: Sequence[Example]
    checks: verify.Checks
    model: Any = None

    def take_model(self) -> Any:
        """The model; afterwards the caller is its only owner."""
        model, self.model = self.model, None
        return model

    def log_probabilities(self, model: Any) -> Any:
        """`verify.log_probabilities` on the examples."""
        return verify.log_probabilities(model, self.base.encoder, self.examples)

    def measure_base(self, model: Any, shots: Shots | None = None) -> dict[str, Any]:
        """Results of the base. shots: in front of every question."""
        return self._measure(self._measured(model, "base", base_key(self.base.model)), shots)

    def measure_export(self, model: Any, folder: Path) -> dict[str, Any]:
        """Results of the model loaded from the export's folder, after measuring whether its answers end.

        Raises:
            UserError: as `verify.answers_stop`.
        """
        hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if is_model_file(path.name)}
        measured = self._measured(model, "tuned", tuned_key(self.base, self.dtype, hashes))
        rows = read_examples(self.run.folder("dataset"), "val" if self.data.val else "train")
        probes = read_json(self.run.folder("adapter") / "probes.json")
        stops = (probes.get("probes") or {}).get("stops", {}) if isinstance(probes, dict) else {}
        verify.answers_stop(measured, rows, self.min_eos, self.checks, stops)
        return self._measure(measured)

    def check_tokenizer(self, folder: Path) -> None:
        """The tokenizer in the export's folder gives training's ids, and a model there stops at training's end token.

        Raises:
            UserError: it does not.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        verify.tokenizer_agrees(tokenizer, self.base.encoder, self.examples, self.checks)
        if (folder / "generation_config.json").is_file():
            verify.end_token(folder, self.base.encoder, self.checks)

    def save_tokenizer(self, folder: Path, longest: int | None) -> None:
        """Writes and checks the tokenizer. longest: context length of the model.

        Raises:
            UserError: as `check_tokenizer`.
        """
        encoder = self.base.encoder
        hf_tokenizer.save(hf_tokenizer.build(encoder, longest), encoder, folder)
        self.check_tokenizer(folder)

    def _measured(self, model: Any, label: str, key: dict[str, Any]) -> MeasuredModel:
        path = self.run.folder("measurements") / f"{label}.jsonl"
        return MeasuredModel(path, key, self.base.encoder, lambda: model, label)

    def _measure(self, measured: MeasuredModel, shots: Shots | None = None) -> dict[str, Any]:
        splits = held_out_rows(self.run.folder("dataset"), self.run.folder("tokens"), self.eval.rows)
        longest = self.base.context_length() or WINDOW
        return measure(measured, splits, self.eval, self.data.groups, longest, shots)
