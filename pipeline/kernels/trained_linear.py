"""Linear layers that share one input and are trained themselves, stacked: q, k, v; gate, up; or a single layer.

    forward   y = x W' + bias (+ the residual stream)
    backward  dx = dy W,   dW = dy' x,   dbias = sum of dy over the tokens

Products read copies of W in the compute dtype, which are refreshed after each optimizer step, as autocast would make
them in each pass. dW is in the parameter's own dtype. `Block` uses this class where it otherwise uses `StackedLora`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.lora import sum_over_tokens
from pipeline.kernels.types import DropoutSeed, Fp8Rows


class TrainedLinear:
    """Layers (torch.nn.Linear) with one input whose weights and biases are trained.

    Attributes:
        frozen: W and bias in the compute dtype, (out, in) and (out,).
        parameters: the weight and, if it has one, the bias of each layer in turn, as `backward_parameters` has them.
    """

    spare_columns = 0

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        self.frozen, self.has_dropout = FrozenWeights(layers, dtype), False
        ends = [sum(self.frozen.sizes[: n + 1]) for n in range(len(layers))]
        self.outputs = [slice(end - size, end) for end, size in zip(ends, self.frozen.sizes, strict=True)]
        self.with_bias = [layer.bias is not None for layer in layers]
        self.parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]

    def copies(self) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """As `StackedLora.copies`; empty for weights that are used themselves."""
        copies, parameters = [], iter(self.parameters)
        for out, has_bias in zip(self.outputs, self.with_bias, strict=True):
            weight = next(parameters)
            if weight.dtype != self.frozen.dtype:
                copies.append((self.frozen.weight[out], weight, 1.0))
            if has_bias:
                assert self.frozen.bias is not None
                copies.append((self.frozen.bias[None, out], next(parameters), 1.0))
        return copies

    def forward(
        self, x: torch.Tensor, add_to: torch.Tensor | None = None, seed: DropoutSeed | None = None,
        x_fp8: Fp8Rows | None = None,
    ) -> tuple[torch.Tensor, Any]:  # fmt: skip
        """y (tokens, out) from x (tokens, in), with `add_to` added. The backward pass needs nothing beside x."""
        return self.frozen.forward(x, add_to), None

    def output(
        self, x: torch.Tensor, saved: Any, add_to: torch.Tensor | None = None, x_fp8: Fp8Rows | None = None
    ) -> torch.Tensor:
        """As `forward`, for recomputation."""
        return self.frozen.forward(x, add_to)

    def backward_input(
        self, dy: torch.Tensor, saved: Any, needs_dx: bool = True, dy_fp8: Fp8Rows | None = None
    ) -> tuple[torch.Tensor | None, Any]:
        """dx (tokens, in), None if not needed."""
        return self.frozen.backward(dy) if needs_dx else None, None

    def backward_parameters(self, dy: torch.Tensor, x: torch.Tensor, p: Any, saved: Any) -> list[torch.Tensor]:
        """Gradients of `parameters`, in their order and dtype. dy (tokens, out), x (tokens, in)."""
        dtype, gradients = self.parameters[0].dtype, []
        stacked = sum_over_tokens(dy, x, dtype)
        for out, has_bias in zip(self.outputs, self.with_bias, strict=True):
            gradients.append(stacked[out])
            if has_bias:
                gradients.append(dy[:, out].sum(0, dtype=dtype))
        return gradients
