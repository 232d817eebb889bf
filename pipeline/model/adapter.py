"""What is trained: low-rank updates through peft, or every weight."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open

from pipeline.config import Adapter
from pipeline.errors import UserError
from pipeline.progress import say

WEIGHTS = "adapter_model.safetensors"


def attach(model: Any, adapter: Adapter, seed: int, added: tuple[int, ...] = ()) -> Any:
    """Returns the model with exactly the wanted parameters trainable, in float32.

    Args:
        seed: of the adapter's random start.
        added: ids of new tokens, whose rows of the embedding and of the head are trained besides the adapter.

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
        layers_to_transform=_last_blocks(model, adapter.last_blocks),
        trainable_token_indices={name: list(added) for name in _tables(model)} if added else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def _last_blocks(model: Any, wanted: int) -> list[int] | None:
    """Numbers of the last `wanted` blocks; None for all.

    Raises:
        UserError: the model has fewer.
    """
    blocks = model.config.num_hidden_layers
    if wanted > blocks:
        raise UserError(f"the model has {blocks} blocks, not {wanted}", "adapter.last_blocks", f"at most {blocks}")
    return list(range(blocks - wanted, blocks)) if wanted else None


def check_targets(model: Any, adapter: Adapter) -> str | list[str]:
    """The targets as peft wants them.

    Raises:
        UserError: as in `attach`.
    """
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if adapter.targets == ("all-linear",):
        inside = {name: module for name, module in linear.items() if module is not head}
        _check_rank(adapter.r, inside)
        # peft chooses blocks by number only for targets that are given by name.
        return sorted({name.split(".")[-1] for name in inside}) if adapter.last_blocks else "all-linear"
    if not adapter.targets:
        raise UserError("no targets: nothing would be trained", "adapter.targets", "[all-linear] adapts every layer")
    short = sorted({name.split(".")[-1] for name in linear})
    chosen: dict[str, Any] = {}
    for target in adapter.targets:
        found = {name: m for name, m in linear.items() if name == target or name.endswith("." + target)}
        if not found:
            near = difflib.get_close_matches(target.split(".")[-1], short, 1)
            hint = f"did you mean {near[0]}?" if near else f"this model has {', '.join(short)}; or [all-linear]"
            raise UserError(f"no linear layer is called {target!r}", "adapter.targets", hint)
        chosen |= found
    if head in chosen.values() and head.weight is model.get_input_embeddings().weight:
        what = "the output head shares its weights with the embedding, so an update of it cannot be merged"
        raise UserError(what, "adapter.targets", "take the head out of the targets")
    _check_rank(adapter.r, chosen)
    return list(adapter.targets)


def _check_rank(rank: int, layers: dict[str, Any]) -> None:
    """A rank beyond a matrix' smaller side adds parameters and nothing that could be learnt with them."""
    sides = {name: min(_shape(module)) for name, module in layers.items()}
    small = {name: side for name, side in sides.items() if side < rank}
    if len(small) == len(sides):
        what = f"rank {rank} is more than any of the targets can use ({max(sides.values(), default=0)})"
        raise UserError(what, "adapter.r", "lower adapter.r")
    if small:
        name = min(small, key=small.__getitem__)
        others = f"{len(small)} of {len(sides)} targets"
        say(f"adapter: rank {rank} is more than {others} can use, such as {name} ({small[name]})")


def _shape(module: Any) -> tuple[int, ...]:
    """Sides of the matrix; a 4-bit weight is stored flat, so the layer is asked first."""
    return (module.in_features, module.out_features) if hasattr(module, "in_features") else tuple(module.weight.shape)


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")


def _tables(model: Any) -> list[str]:
    """Names of the embedding and of the head. peft sees by itself when the two share their weights."""
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [name.split(".")[-1] for name, module in model.named_modules() if any(module is t for t in tables)]


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
        UserError: the adapter is damaged, or of another base.
    """
    fix = "train again, or name the base it was trained on"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            loaded = PeftModel.from_pretrained(model, folder).eval()
        with safe_open(folder / WEIGHTS, "pt") as file:
            saved = set(file.keys())
    except Exception as error:  # peft, safetensors and torch each raise their own kinds
        said = " ".join(str(error).split())[:300]
        raise UserError(f"the adapter does not fit this base: {said}", str(folder), fix) from None
    # peft only warns when tensors find no place, and goes on with an adapter that does nothing.
    strangers = sorted(saved ^ set(get_peft_model_state_dict(loaded, save_embedding_layers=False)))
    if strangers:
        what = f"the adapter does not fit this base: {len(strangers)} tensors do not match, such as {strangers[0]}"
        raise UserError(what, str(folder), fix)
    return loaded
