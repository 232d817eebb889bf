"""One export with the whole model in memory: of adapters that are not merged, of nothing trained, and of merges that
cannot be made tensor by tensor (`release.shards`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Export as Settings
from pipeline.model.precision import BYTES
from pipeline.release.export import Export
from pipeline.release.formats import check_gguf, extra_space
from pipeline.release.merge import merge, save_merged
from pipeline.release.unmerged import export_adapter, export_nothing
from pipeline.run.files import need_space
from pipeline.run.progress import working


class InMemory:
    """The counterpart of `ShardMerge`.

    Attributes:
        left_out: always empty, as results are measured. log_probs: of the export, after `save`.
    """

    left_out = ""

    def __init__(self, export: Export, settings: Settings) -> None:
        self.export, self.settings = export, settings
        self.kind = spec_of(export.base.adapter).export
        self.log_probs = torch.empty(0)

    def base(self) -> dict[str, Any]:
        """The base's results; afterwards the model in memory is the merged one, where there is one.

        Raises:
            UserError: the disk is too small, or the merged model differs from base + adapter.
        """
        export = self.export
        with working("export: loading the base"):
            model = export.model = export.base.load()
        if "gguf" in self.settings.formats:  # before anything that takes minutes
            check_gguf(export, model.config, model.get_input_embeddings().weight.shape[0])
        parameters = model.num_parameters()
        size = BYTES[export.dtype] * parameters if self.kind == "merged" else 0
        need_space(export.run.root, size + extra_space(self.settings, parameters), "the export")
        results = export.measure_base(model)
        self.log_probs = export.log_probabilities(model)
        del model
        if self.kind == "merged":
            with working("export: merging and comparing with base + adapter"):
                self.log_probs = merge(export, self.log_probs)
        return results

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the export into an empty folder and checks it; returns its results.

        Raises:
            UserError: a check failed.
        """
        if self.kind == "merged":
            return save_merged(self.export, self.log_probs, folder)
        if self.kind == "adapter":
            return export_adapter(self.export, self.log_probs, folder)
        return export_nothing(self.export, folder)
