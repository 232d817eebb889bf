"""Feature-based: only the output head is trained, on the features of the frozen base."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.own_form import OwnForm
from pipeline.run.errors import UserError


class Head(OwnForm):
    """z = W h with h frozen. A head tied to the embedding is untied first."""

    def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
        head = model.get_output_embeddings()
        if head is None:
            raise UserError(f"{model.config.model_type} has no output head", "adapter.method", "choose another method")
        if head.weight is model.get_input_embeddings().weight:
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
            model.config.tie_word_embeddings = False
            if isinstance(getattr(model, "all_tied_weights_keys", None), dict):
                model.all_tied_weights_keys = {}  # transformers 5 does not save those names
        return {name: p for name, p in model.named_parameters() if any(p is q for q in head.parameters())}


HEAD = Head(METHODS["head"])
