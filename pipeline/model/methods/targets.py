"""Linear layers by name, and whether a rank fits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest
from pipeline.run.progress import say

ALL = ("all-linear",)


def linear_layers(model: Any) -> dict[str, Any]:
    """Every linear layer by its full name, quantised ones included."""
    return {name: module for name, module in model.named_modules() if _is_linear(module)}


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")


def matching_layers(model: Any, targets: Sequence[str]) -> dict[str, Any]:
    """The linear layers that match the targets, which are full names or their last parts.

    Raises:
        UserError: no targets, or one that matches no layer, with the nearest name.
    """
    if not targets:
        raise UserError("no targets: nothing would be trained", "adapter.targets", "[all-linear] adapts every layer")
    linear = linear_layers(model)
    short = sorted({name.split(".")[-1] for name in linear})
    chosen: dict[str, Any] = {}
    for target in targets:
        matches = {name: m for name, m in linear.items() if name == target or name.endswith("." + target)}
        if not matches:
            hint = nearest(target.split(".")[-1], short, f"this model has {', '.join(short)}; or [all-linear]")
            raise UserError(f"no linear layer is called {target!r}", "adapter.targets", hint)
        chosen |= matches
    head = model.get_output_embeddings()
    if head in chosen.values() and head.weight is model.get_input_embeddings().weight:
        what = "the output head shares its weights with the embedding, so an update of it cannot be merged"
        raise UserError(what, "adapter.targets", "take the head out of the targets")
    return chosen


def check_rank(rank: int, layers: dict[str, Any], all_of: str = "") -> None:
    """Checks that the rank does not exceed the smaller side of the matrices, where more parameters are of no use.

    Args:
        all_of: the initialisation that needs the full rank in every layer; empty for none.

    Raises:
        UserError: it exceeds that of every layer, or of one layer where `all_of` is given.
    """
    sides = {name: min(_shape(module)) for name, module in layers.items()}
    small = {name: side for name, side in sides.items() if side < rank}
    if len(small) == len(sides):
        what = f"adapter.r={rank} is more than any target layer allows ({max(sides.values(), default=0)})"
        raise UserError(what, "adapter.r", "lower adapter.r")
    if small:
        name = min(small, key=small.__getitem__)
        if all_of:
            what = f"{all_of} needs {rank} ranks of every target layer, and {name} has {small[name]}"
            raise UserError(what, "adapter.r", f"lower adapter.r to {small[name]}, or take it out of adapter.targets")
        some = f"{len(small)} of {len(sides)} layers can use, such as {name} (at most {small[name]})"
        say(f"adapter: adapter.r={rank} is more than {some}")


def _shape(module: Any) -> tuple[int, ...]:
    """Shape of the matrix, from the layer where it knows it, since a 4-bit weight is stored flat."""
    return (module.in_features, module.out_features) if hasattr(module, "in_features") else tuple(module.weight.shape)


def last_blocks(model: Any, wanted: int) -> list[int] | None:
    """Numbers of the last `wanted` blocks; None for all.

    Raises:
        UserError: the model has fewer.
    """
    blocks = model.config.num_hidden_layers
    if wanted > blocks:
        raise UserError(f"the model has {blocks} blocks, not {wanted}", "adapter.last_blocks", f"at most {blocks}")
    return list(range(blocks - wanted, blocks)) if wanted else None


def embedding_names(model: Any) -> list[str]:
    """Names of the embedding and of the head. peft itself detects when the two are tied."""
    both = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [name.split(".")[-1] for name, module in model.named_modules() if any(module is t for t in both)]
