"""Linear layers with weights in oneDNN's blocked layout, for float32 on a CPU.

A plain `torch.nn.Linear` multiplies through MKL, whose products of few rows take twice the time of one row on some
machines. oneDNN reads a layout of its own, into which the weights are brought once. The layers of SmolLM2-135M for 1,
8 and 200 rows take 31, 59 and 527 ms plain and 16, 23 and 224 ms packed (one core of an AMD EPYC 9005).

torch's compiler uses the same two functions when it freezes a model (`torch/_inductor/fx_passes/mkldnn_fusion.py`).
"""

from __future__ import annotations

from typing import Any

import torch


class PackedLinear(torch.nn.Module):
    """y = x W^T + b. x (..., inputs) float32."""

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.packed, self.bias = packed, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y


class Packer:
    """Packs the layers of several models on the same weights; each weight is packed once."""

    def __init__(self) -> None:
        self._packed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the weight too, so that its address stays its

    def pack(self, model: Any) -> list[torch.nn.Module]:
        """Replaces the plain linear layers of a model, where that is possible.

        Layers inside of peft's, which may read the weight itself, stay as they are. Returns the new layers.
        """
        if not _is_possible(model):
            return []
        new: list[torch.nn.Module] = []
        of_peft = tuple(f"{n}." for n, layer in model.named_modules() if type(layer).__module__.startswith("peft."))
        for place, layer in list(model.named_modules()):
            if type(layer) is not torch.nn.Linear or place.startswith(of_peft):
                continue
            if layer.weight.dtype != torch.float32 or layer._forward_hooks or layer._forward_pre_hooks:
                continue
            parent, _, name = place.rpartition(".")
            packed = PackedLinear(self._of(layer.weight.detach()), layer.bias)
            setattr(model.get_submodule(parent), name, packed)
            new.append(packed)
        return new

    def _of(self, weight: torch.Tensor) -> torch.Tensor:
        key = weight.data_ptr()
        if key not in self._packed:
            self._packed[key] = (torch.ops.mkldnn._reorder_linear_weight(weight, None), weight)
        return self._packed[key][0]

    def forget(self) -> None:
        """Frees the plain weights that no model uses any more."""
        self._packed.clear()


def _is_possible(model: Any) -> bool:
    """Whether torch has the two functions, and they compute a product as torch does."""
    if next(model.parameters()).device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    try:
        x, weight = torch.randn(3, 2, 8), torch.randn(5, 8)
        y = PackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight, None), None)(x)
        return torch.allclose(y, torch.nn.functional.linear(x, weight), atol=1e-4)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
