"""Feature-based: everything is frozen but the output head, which learns on top of the base's features."""

from __future__ import annotations

from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.own_form import OwnForm
from pipeline.run.errors import UserError


class Head(OwnForm):
    """z = W h with h frozen. A head that shares its weights with the embedding gets weights of its own first."""

    def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
        import torch

        head = model.get_output_embeddings()
        if head is None:
            raise UserError(f"{model.config.model_type} has no output head", "adapter.method", "choose another method")
        if head.weight is model.get_input_embeddings().weight:
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
            model.config.tie_word_embeddings = False
            if isinstance(getattr(model, "all_tied_weights_keys", None), dict):
                model.all_tied_weights_keys = {}  # transformers 5 leaves those names out of what it saves
        return {name: p for name, p in model.named_parameters() if any(p is q for q in head.parameters())}


HEAD = Head(METHODS["head"])
