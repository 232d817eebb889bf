"""The network of a bottleneck adapter."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class Bottleneck(torch.nn.Module):
    """y = x + W_up f(W_down x + b_down) + b_up; x and y (..., hidden), the inner vector (..., size).

    Source: Houlsby et al. 2019, arXiv 1902.00751, figure 2. Computes in the type of its own weights, gives that of x.
    """

    def __init__(self, hidden: int, size: int, activation: str) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Linear(hidden, size), torch.nn.Linear(size, hidden)
        self.activation = getattr(F, activation)
        torch.nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.activation(self.down(x.to(self.down.weight.dtype)))
        return x + self.up(inner).to(x.dtype)
