"""One export that is merged tensor by tensor: the base's behaviour, base + adapter's, the files, and what they give.

    base (loaded, or block by block) ─> base + adapter ─> files, tensor by tensor ─> loaded, or block by block
                                                          └ no model in memory

Log-probabilities on a few rows are compared in every case. Results of the base and of the export need both in memory;
without that they are left out, and the export says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.model import adapter as adapters
from pipeline.model import hf_tokenizer
from pipeline.model.exported import free_memory
from pipeline.model.fits import why_too_large
from pipeline.model.load import cast, load_folder
from pipeline.model.methods.full import FULL
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.release import merge, verify
from pipeline.release.export import Export
from pipeline.release.shards import streaming
from pipeline.release.shards.plan import Plan
from pipeline.release.shards.quantized import dequantized
from pipeline.release.shards.streaming import SavedModel
from pipeline.release.shards.write import content, write_checkpoint
from pipeline.run.errors import UserError
from pipeline.run.progress import say, working


class ShardMerge:
    """Merges the run of an `Export` by a `Plan`.

    Args:
        into: `dequantized` or `original`, the weights that the update of a quantised base is added to.

    Attributes:
        left_out: why results are not measured; empty where they are.
        log_probs: of the export, after `save`.

    Raises:
        UserError: a quantised base does not fit into memory, and its dequantised weights were asked for.
    """

    def __init__(self, export: Export, plan: Plan, into: str) -> None:
        self.export, self.plan, base = export, plan, export.base
        self.dtype, self.is_full = DTYPES[export.dtype], adapters.method_of(base.adapter) is FULL
        self.is_quantized = base.model.quantize in ("nf4", "int8")  # fp8 is used only while training
        self.is_dequantized = self.is_quantized and into == "dequantized"
        self.base_dtype = "fp32" if base.is_float32 else dtype_name(base.model)
        # Trained gains and heads are in float32, and move by less than a step of bf16.
        same = DTYPES[self.base_dtype] == self.dtype or not plan.merged.trained
        self.tuned_dtype = DTYPES[self.base_dtype] if same else torch.float32
        loaded = base.model.quantize if self.is_quantized else self.base_dtype if same else "fp32"
        self.base_too_large = why_too_large(plan.parameters, loaded)
        self.export_too_large = why_too_large(plan.parameters, export.dtype)
        self.left_out = self.base_too_large or self.export_too_large
        if self.is_dequantized and self.base_too_large:
            what = f"the base in {base.model.quantize} {self.base_too_large}, so it cannot be dequantised"
            fix = "free memory, or set export.merge_into=original, which needs none of it"
            raise UserError(what, "export.merge_into", fix)
        self.rows = streaming.probe_rows(base.encoder, export.examples)
        self.size = base.encoder.tokenizer.size
        self.log_probs = self.base_log_probs = self.tuned_log_probs = torch.empty(0)

    def base(self) -> dict[str, Any]:
        """Log-probabilities of the base and of base + adapter; returns the base's results, if they are measured."""
        results: dict[str, Any] = {}
        if self.left_out:
            say(f"export: the model {self.left_out}: results are left out; the checks read the weights block by block")
        if self.base_too_large:
            with working("export: the base and base + adapter, block by block"):
                self._stream_base()
            return results
        export, folder = self.export, self.export.run.folder("adapter")
        with working("export: loading the base"):
            model = export.base.load()
        if not self.left_out:
            results = export.measure_base(model)
        self.base_log_probs = export.log_probabilities(model)
        if not self.is_full:
            with working("export: base + adapter"):
                if not self.is_quantized:
                    model = cast(model, self.tuned_dtype)
                model = adapters.load(model, folder)
                self.tuned_log_probs = export.log_probabilities(model)
        del model
        free_memory()
        return results

    def _stream_base(self) -> None:
        self.base_log_probs = self._saved_base().log_probabilities(self.rows)
        if not self.is_full:
            merged = self.plan.merged

            def read(name: str) -> torch.Tensor:
                return merged.read_tuned(name).to(self.tuned_dtype)

            self.tuned_log_probs = streaming.log_probabilities(
                self.plan.skeleton, merged.model, merged.names, read, self.rows
            )

    def _saved_base(self) -> SavedModel:
        folder = self.export.base.files.folder
        assert folder is not None  # a base in no file is merged in memory
        return SavedModel(folder, self.size, DTYPES[self.base_dtype])

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the export into an empty folder and checks it; returns its results, if they are measured.

        Raises:
            UserError: a check failed.
        """
        export, plan = self.export, self.plan
        if plan.merged.trained or self.is_full:
            before = self._saved_base()
            verify.change_survives(export.run.folder("adapter"), before, self.dtype, export.checks, export.dtype)
        if self.is_dequantized:
            with working("export: loading the base to dequantise it"):
                model = export.base.load()
            plan.merged.read_base = dequantized(model, plan.merged.read_base)
            del model
        sums = write_checkpoint(folder, plan.layout, plan.tensor)
        plan.merged.read_base = plan.base.read  # the quantised base is freed
        free_memory()
        self._save_settings(folder)
        export.check_tokenizer(folder)
        return self._check_streamed(folder, sums) if self.export_too_large else self._check_loaded(folder, sums)

    def _save_settings(self, folder: Path) -> None:
        """As transformers' `save_pretrained` of the merged model, whose skeleton holds an adapter now."""
        model, encoder = self.plan.skeleton.model, self.export.base.encoder
        tokenizer = merge.prepare(model, encoder)
        model.config.dtype = str(self.dtype).removeprefix("torch.")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        hf_tokenizer.save(tokenizer, encoder, folder)

    def _check_loaded(self, folder: Path, sums: Mapping[str, int]) -> dict[str, Any]:
        export = self.export
        with working("export: loading the saved model"):
            model = load_folder(folder, self.dtype)
        state = model.state_dict()
        changed = [saved for saved, name in self.plan.names.items() if _sum(state[name]) != sums[saved]]
        del state
        verify.tensors_as_merged(changed, len(sums), export.checks, "stock transformers loads the export")
        self.log_probs = export.log_probabilities(model)
        self._compare()
        return {} if self.left_out else export.measure_export(model, folder)

    def _check_streamed(self, folder: Path, sums: Mapping[str, int]) -> dict[str, Any]:
        with working("export: the saved model, block by block"):
            self.log_probs = SavedModel(folder, self.size, self.dtype).log_probabilities(self.rows)
            changed = streaming.changed_tensors(folder, sums)
        verify.tensors_as_merged(changed, len(sums), self.export.checks, "the files, read again")
        self._compare()
        self.export.checks.done["answers stop"] = f"not measured: the model {self.left_out}"
        return {}

    def _compare(self) -> None:
        """The export's log-probabilities with those of base + adapter, and with the base's."""
        export = self.export
        if self.is_full:
            verify.weights_have_learnt(self.log_probs, self.base_log_probs, export.checks)
            return
        allowed = verify.tolerance(self.base_dtype, export.base.model.quantize, export.dtype)
        note = f"; computed block by block, since the model {self.left_out}" if self.left_out else ""
        if self.is_quantized:
            quantized = export.base.model.quantize
            note += f"; {quantized} base + adapter as trained, merged into "
            note += "its dequantised weights" if self.is_dequantized else "the base's original weights"
            if self.base_too_large:
                note += f" (not compared with {quantized}: the base {self.base_too_large})"
        is_required = self.is_dequantized or not self.is_quantized
        verify.merged_equals_adapter(
            self.tuned_log_probs, self.log_probs, self.base_log_probs, allowed, export.checks, note, is_required
        )


def _sum(tensor: torch.Tensor) -> int:
    return zlib.crc32(content(tensor.cpu()))
