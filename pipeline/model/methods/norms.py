"""LN tuning: only the normalisation layers are trained (Zhao et al. 2023, arXiv 2312.11420)."""

from __future__ import annotations

from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.own_form import OwnForm
from pipeline.run.errors import UserError


class Norms(OwnForm):
    """y = g * x / rms(x) + b; g and, where present, b are trained. The result is a stock model."""

    def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
        weights = {
            f"{name}.{own}": parameter
            for name, module in model.named_modules()
            if type(module).__name__.lower().endswith("norm")
            for own, parameter in module.named_parameters(recurse=False)
        }
        if not weights:
            what = f"{model.config.model_type} has no normalisation layer with weights"
            raise UserError(what, "adapter.method", "choose another method")
        return weights


NORMS = Norms(METHODS["norms"])
