"""A model without its weights: layers, names and shapes, and the buffers that it computes itself.

It tells what a checkpoint must hold, takes an adapter without any memory for the base, and computes with weights that
are read block by block (`streamed.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import dot_natural_key, revert_weight_conversion
from transformers.utils import logging

from pipeline.run.errors import UserError, one_line


class Names(NamedTuple):
    """Names of tensors by their names in the model. stored: where they are read. saved: as transformers writes them."""

    stored: dict[str, str]
    saved: dict[str, str]


class Skeleton:
    """A causal LM on torch's `meta` device, in evaluation mode.

    Args:
        shape: its transformers config. size: rows of embedding and head, where new tokens make them larger.
        dtype: of its parameters; in float32 an adapter that is loaded on it keeps its own precision.

    Attributes:
        old_rows: rows of the embedding without new tokens. tables: names of the modules of embedding and head.
        blocks: names of modules that together hold all parameters and compute one after another: the blocks of the
            decoder, and the embedding, the last norm and the head around them.

    Raises:
        UserError: the installed transformers cannot build the model.
    """

    def __init__(self, shape: Any, size: int = 0, dtype: torch.dtype = torch.float32) -> None:
        logging.set_verbosity_error()
        try:
            with init_empty_weights(include_buffers=False):
                self.model: Any = AutoModelForCausalLM.from_config(shape, dtype=dtype).eval()
        except Exception as error:  # of any class: the code of hundreds of models reads settings from outside
            fix = "check that the installed transformers knows the model"
            where = str(getattr(shape, "name_or_path", "") or "model")
            raise UserError(f"cannot build the model: {one_line(error)}", where, fix) from None
        self.model.tie_weights()  # `init_empty_weights` made two of one
        vars(self.model.config).pop("auto_map", None)  # names code in the base's repository
        self.old_rows = self.model.get_input_embeddings().weight.shape[0]
        if size > self.old_rows:
            self.model.resize_token_embeddings(size, mean_resizing=False)
        self.tables = {
            name for name, module in self.model.named_modules()
            if any(module is table for table in (self.model.get_input_embeddings(), self.model.get_output_embeddings()))
        }  # fmt: skip
        self.blocks = self._blocks()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by name; a tied one has all of its names."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    def names_by_id(self) -> dict[int, str]:
        """For the `id` of each parameter the name under which it is saved."""
        shared = self.tied()
        return {id(parameter): shared.get(name, name) for name, parameter in self.parameters().items()}

    def tied(self) -> dict[str, str]:
        """Name of a parameter that shares its weights with another, and the name under which they are saved."""
        groups: dict[int, list[str]] = {}
        for name, parameter in self.parameters().items():
            groups.setdefault(id(parameter), []).append(name)
        declared = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        shared: dict[str, str] = {}
        for names in groups.values():
            kept = next((name for name in names if name not in declared), names[0])
            shared |= {name: kept for name in names if name != kept}
        return shared

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint of the model holds, by its names in the model and in the order in which transformers saves:
        each shared tensor once, and no tensor that the model computes itself."""
        shared, ignored = self.tied(), set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        state = self.model.state_dict(keep_vars=True)
        kept = {name: tensor for name, tensor in state.items() if name not in shared and name not in ignored}
        return {name: kept[name] for name in sorted(kept, key=dot_natural_key)}

    def names_in(self, stored: Collection[str]) -> Names | None:
        """The names of `tensors` in a checkpoint that has the names `stored`; None where some are missing, or were
        split or joined, which transformers does while it loads some types of models.
        """
        own = self.tensors()
        computed = dict(self.model.named_buffers())
        prefix = f"{self.model.base_model_prefix}."  # not in checkpoints of a bare decoder
        names = {name: name if name in stored else name.removeprefix(prefix) for name in own}
        if all(name in stored or model_name in computed for model_name, name in names.items()):
            return Names(names, {name: name for name in own})
        renamed = {id(tensor): name for name, tensor in revert_weight_conversion(self.model, own).items()}
        names = {name: renamed.get(id(tensor), "") for name, tensor in own.items()}
        return Names(names, names) if all(name in stored for name in names.values()) else None

    def _blocks(self) -> list[str]:
        names: list[str] = []
        for name, module in self.model.named_modules():
            parent, _, _ = name.rpartition(".")
            if any(name == known or name.startswith(known + ".") for known in names):
                continue
            in_list = bool(parent) and isinstance(self.model.get_submodule(parent), torch.nn.ModuleList)
            if in_list or any(True for _ in module.parameters(recurse=False)):
                names.append(name)
        return names
