"""The model of transformers inside what peft wraps."""

from __future__ import annotations

from typing import Any


def causal_lm_of(model: Any) -> Any:
    """The base of a PeftModel, whose adapted layers stay in it; another model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
