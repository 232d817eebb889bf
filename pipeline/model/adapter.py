"""What is trained: low-rank updates through peft, or every weight."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

import pipeline.model.quiet  # noqa: F401  (before torch and peft)
from pipeline.config import Adapter
from pipeline.errors import UserError


def attach(model: Any, adapter: Adapter, seed: int, added: tuple[int, ...] = ()) -> Any:
    """Returns the model with exactly the wanted parameters trainable, in float32.

    Args:
        seed: of the adapter's random start.
        added: ids of new tokens, whose embeddings are trained besides the adapter.

    Raises:
        UserError: a target that no linear layer has, or a rank above every layer's size.
    """
    model.config.use_cache = False  # a cache costs memory in training and hides the last position from packing
    if adapter.method == "full":
        model.requires_grad_(True)
        return model
    model.requires_grad_(False)
    targets = check_targets(model, adapter)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        trainable_token_indices=list(added) or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def check_targets(model: Any, adapter: Adapter) -> str | list[str]:
    """The targets as peft wants them.

    Raises:
        UserError: as in `attach`.
    """
    if adapter.targets == ("all-linear",):
        return "all-linear"
    linear = {name.split(".")[-1] for name, module in model.named_modules() if _is_linear(module)}
    for target in adapter.targets:
        if target.split(".")[-1] not in linear:
            near = difflib.get_close_matches(target, sorted(linear), 1)
            hint = f"did you mean {near[0]}?" if near else f"this model has {', '.join(sorted(linear))}"
            raise UserError(f"no linear layer is called {target!r}", "adapter.targets", hint)
    return list(adapter.targets)


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save(model: Any, folder: Path, base: str) -> None:
    """Writes what was trained: a PEFT adapter, or the whole model when every weight was trained."""
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    else:
        model.save_pretrained(folder, safe_serialization=True)


def load(model: Any, folder: Path) -> Any:
    """Puts a saved adapter onto a base, frozen.

    Raises:
        UserError: the adapter is empty, damaged, or of another base.
    """
    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except Exception as error:  # peft, safetensors and torch each raise their own kinds
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"the adapter does not fit this base: {said}",
            str(folder),
            "train again, or name the base it was trained on",
        ) from None
