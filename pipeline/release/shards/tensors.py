"""The tensors of a merged model, computed one by one from the base's files and the adapter.

peft's own layers do the arithmetic, on a model without weights (`Skeleton`): for each tensor the base's weight is put
into its layer, the layer merges, and the weight is taken out. So each variant of LoRA and IA3 gives what peft's
`merge_and_unload` gives, and one tensor is in memory at a time.

    W (base's type) ─> float32 ─> layer.merge() ─> W' ─> type of the export           rounded once
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.ia3 import IA3Layer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from pipeline.model import adapter as adapters
from pipeline.model.base.tensors import TensorFiles
from pipeline.model.load import new_row
from pipeline.model.methods.full import FULL
from pipeline.model.methods.method import WEIGHTS, Method
from pipeline.model.methods.own_form import OwnForm
from pipeline.model.skeleton import Skeleton
from pipeline.run.errors import UserError

Read = Callable[[str], torch.Tensor]
PART = 1 << 20  # numbers that are summed at once: their float32 copy stays in a CPU's cache


class BaseTensors:
    """The base's tensors by their names in the model, in the type in which training loaded the base.

    Args:
        stored: their names in the files, see `Skeleton.stored_names`. dtype: of parameters; None = as stored.
    """

    def __init__(
        self, skeleton: Skeleton, files: TensorFiles, stored: Mapping[str, str], dtype: torch.dtype | None = None
    ) -> None:
        self.files, self.stored, self.dtype = files, stored, dtype
        self.shapes = {name: tensor.shape for name, tensor in skeleton.tensors().items()}
        self.buffers = dict(skeleton.model.named_buffers())
        self.shared = skeleton.tied()

    def read(self, name: str) -> torch.Tensor:
        """A tensor, with rows for new tokens."""
        name = self.shared.get(name, name)
        if name in self.buffers:  # some types of models save what they compute
            own, stored = self.buffers[name], self.stored[name]
            return self.files.read(stored).to(own.dtype) if stored in self.files.entries else own
        tensor = self.files.read(self.stored[name])
        if self.dtype is not None:
            tensor = tensor.to(self.dtype)
        missing = self.shapes[name][0] - tensor.shape[0] if tensor.dim() else 0
        if missing > 0:
            tensor = torch.cat([tensor, new_row(tensor).expand(missing, *tensor.shape[1:])])
        return tensor


class MergedTensors:
    """The tensors of base and adapter as one model, in the type of the export.

    Args:
        skeleton: without an adapter; this object attaches it. read: gives the base's tensors.
        folder: of the adapter. base_hash: of the base, compared with the adapter's record.

    Attributes:
        model: the skeleton's model with the adapter. names: of the base's parameters in it, by `id`.

    Raises:
        UserError: the adapter is damaged or belongs to another base.
    """

    def __init__(
        self, skeleton: Skeleton, read: Read, folder: Path, method: Method, dtype: torch.dtype, base_hash: str
    ) -> None:
        self.read_base, self.dtype = read, dtype
        self._parameters = skeleton.parameters()  # kept, so that ids stay theirs
        self.names = skeleton.names_by_id()
        self.model = skeleton.model if method is FULL else adapters.load(skeleton.model, folder, base_hash)
        self.trained: dict[str, torch.Tensor] = {}
        if isinstance(method, OwnForm):
            self.trained = load_file(folder / WEIGHTS)
            self._parameters, self.names = skeleton.parameters(), skeleton.names_by_id()
        self.layers = self._layers()
        self.buffers = {name for name, _ in skeleton.model.named_buffers()}

    def read_tuned(self, name: str) -> torch.Tensor:
        """A parameter of the base under the adapter; where a method trains the base's own, the trained one."""
        return self.trained[name] if name in self.trained else self.read_base(name)

    def merged(self, name: str) -> torch.Tensor:
        """A tensor of the merged model.

        Raises:
            UserError: it has NaN or infinity.
        """
        if name in self.layers:
            tensor = self._merge(name)
        else:
            tensor = self.read_tuned(name)
            if name in self.buffers or not tensor.is_floating_point():
                return tensor
        result = tensor.to(self.dtype)
        is_new = name in self.layers or name in self.trained or result is not tensor
        if is_new and not _is_finite(result):
            what = f"the merged weights have NaN or infinity in the tensor {name}"
            raise UserError(what, "export", "set export.dtype=fp32, or train again with a lower train.lr")
        return result

    def _merge(self, name: str) -> torch.Tensor:
        owner, wanted, layers = self.layers[name]
        empty = dict(owner._parameters)
        for key, parameter in empty.items():  # (IA)3 scales weight and bias at once
            if (other := self.names.get(id(parameter), "")) in self.layers and self.layers[other][2] == layers:
                owner._parameters[key] = torch.nn.Parameter(self.read_base(other).float(), requires_grad=False)
        try:
            for layer in layers:
                layer.merge()
                layer.merged_adapters.clear()
            merged: torch.Tensor = owner._parameters[wanted].data
            return merged
        finally:
            owner._parameters.update(empty)

    def _layers(self) -> dict[str, tuple[Any, str, list[Any]]]:
        """For each parameter that layers of peft change: the module that owns it, its key there, and these layers."""
        result: dict[str, tuple[Any, str, list[Any]]] = {}
        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer) and hasattr(layer, "merged_adapters"):
                owner, keys = layer.get_base_layer(), [getattr(layer, "parameter_name", "weight")]
                if isinstance(layer, IA3Layer) and not layer.is_feedforward:
                    keys.append("bias")
                for key in keys:
                    if (parameter := owner._parameters.get(key)) is not None:
                        result.setdefault(self.names[id(parameter)], (owner, key, []))[2].append(layer)
        return result


def _is_finite(tensor: torch.Tensor) -> bool:
    """Sums of parts are several times as fast as `isfinite`. One can overflow where the numbers are finite, so that is
    looked at then."""
    parts = tensor.reshape(-1).split(PART)
    return all(bool(torch.isfinite(p.sum(dtype=torch.float32)) or torch.isfinite(p).all()) for p in parts)
