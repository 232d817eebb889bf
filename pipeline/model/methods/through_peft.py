"""Methods that are in peft: its layers and its file format."""

from __future__ import annotations

import abc
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pipeline.config.schema import Adapter
from pipeline.model.methods.method import WEIGHTS, Method
from pipeline.run.errors import UserError, one_line

NO_FIT = "train again, or name the base it was trained on"


class ThroughPeft(Method):
    """A subclass returns peft's config; stock peft loads the saved adapter."""

    @abc.abstractmethod
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        """peft's config for this base.

        Raises:
            UserError: the base lacks what the method needs.
        """

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        from peft import get_peft_model

        model.requires_grad_(False)
        settings = self.settings(model, adapter, added)
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, settings)
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            said = one_line(error)
            what = f"{self.name} cannot adapt this model of type {model.config.model_type}: {said}"
            if "lora_dropout" in said:  # of experts, whose weights are no layers
                raise UserError(
                    what, "adapter.dropout", "set adapter.dropout=0, or name other adapter.targets"
                ) from None
            raise UserError(what, "adapter.method", "choose another method or another base") from None
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return adapted

    def save(self, model: Any, folder: Path, base: str) -> None:
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)

    def load(self, model: Any, folder: Path) -> Any:
        return load_peft(model, folder)

    def merge(self, model: Any) -> Any:
        return model.merge_and_unload(safe_merge=True)


def load_peft(model: Any, folder: Path) -> Any:
    """A saved peft adapter on a base, frozen.

    Raises:
        UserError: it is damaged or belongs to another base.
    """
    loaded = add_adapter(model, folder, "default", "the adapter")
    if loaded.active_peft_config.is_prompt_learning:
        try_forward(loaded, str(loaded.active_peft_config.peft_type.value))
    return loaded.requires_grad_(False)


def add_adapter(model: Any, folder: Path, name: str, whose: str) -> Any:
    """A PeftModel with the adapter in `folder` added as `name`, in evaluation mode.

    Args:
        model: a base, or a PeftModel with other adapters. whose: the adapter's name in messages.

    Raises:
        UserError: it is damaged or belongs to another base.
    """
    from peft import PeftModel, get_peft_model_state_dict

    is_empty = next(model.parameters()).device.type == "meta"  # of a `Skeleton`

    def read(into: Any, **options: Any) -> Any:
        if not isinstance(into, PeftModel):
            return PeftModel.from_pretrained(into, folder, adapter_name=name, **options)
        into.load_adapter(folder, adapter_name=name, is_trainable=False, **options)
        return into

    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            saved = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            # Allocates only what the file holds, whatever rank its config gives for layers that are not in the file.
            loaded = read(model, low_cpu_mem_usage=True)
        # peft only warns about tensors that match nothing, and the adapter would have no effect.
        unmatched = sorted(
            saved ^ set(get_peft_model_state_dict(loaded, adapter_name=name, save_embedding_layers=False))
        )
        if not unmatched and is_empty:
            _fill(loaded, folder, name)  # peft moved the adapter to the base's device
        elif not unmatched:
            read(loaded)  # low_cpu_mem_usage rounds the adapter to the base's type
    except Exception as error:  # peft, safetensors and torch each raise their own kinds
        raise UserError(f"{whose} does not fit this base: {one_line(error)}", str(folder), NO_FIT) from None
    if unmatched:
        what = f"{whose} does not fit this base: {len(unmatched)} tensors do not match, such as {unmatched[0]}"
        raise UserError(what, str(folder), NO_FIT)
    return loaded.eval()


def _fill(model: Any, folder: Path, name: str) -> None:
    """Puts an adapter's saved tensors into a model without weights.

    Raises:
        KeyError: the file lacks one.
    """
    with safe_open(folder / WEIGHTS, "pt") as file:
        saved = set(file.keys())
        for module_name, module in model.named_modules():
            for key in [key for key, parameter in module._parameters.items() if parameter is not None]:
                whole = f"{module_name}.{key}"
                if f".{name}" not in whole:
                    continue  # of the base
                short = whole.replace(f".{name}", "")
                short = short if short in saved else short.removesuffix(".weight")  # norms of DoRA
                if short not in saved:
                    raise KeyError(short)
                module._parameters[key] = torch.nn.Parameter(file.get_tensor(short).float(), requires_grad=False)


def try_forward(model: Any, name: str) -> None:
    """Runs one forward pass: peft's assumptions about the embedding or the cache can fail there, and only there.

    Raises:
        UserError: it failed.
    """
    kind = model.get_base_model().config.model_type
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        said = one_line(error, 200)
        fix = "use lora or houlsby, or another base"
        raise UserError(f"{name} cannot adapt this model of type {kind}: {said}", "adapter.method", fix) from None
