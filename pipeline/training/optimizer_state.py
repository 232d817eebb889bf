"""What an optimizer keeps for each trained weight: names, types and shapes, to save, check and restore it.

    adamw                        exp_avg, exp_avg_sq, step
    adamw8bit, paged_adamw8bit   state1, state2 in blocks of 256 bytes with absmax1, absmax2; small weights, embeddings
                                 in float32, as in transformers' Trainer
    adafactor                    exp_avg_sq_row, exp_avg_sq_col of matrices, exp_avg_sq of vectors; RMS, step

Numbers are saved as tensors without dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Shape = tuple[str, tuple[int, ...]]
DTYPES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64",
    torch.int64: "I64", torch.uint8: "U8",
}  # fmt: skip
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I64": 8, "U8": 1}
SMALL = 4096  # numbers; bitsandbytes keeps the state of smaller weights in float32
BLOCK = 256  # of its 8-bit state
TABLE = "qmap"  # its tables of 8-bit values, the same for every weight: made anew instead of saved


@dataclass(frozen=True)
class Layout:
    """Names, types and shapes of a checkpoint's tensors.

    Attributes:
        weights: of each trained weight. moments: of each weight's state, by name.
    """

    weights: Mapping[str, Shape]
    moments: Mapping[str, Mapping[str, Shape]]

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], optimizer: str, embeddings: Collection[str] = ()) -> Layout:
        """optimizer: value of `train.optimizer`. embeddings: names of the weights that 8-bit optimizers leave in 32."""
        moments = {"adamw": _adamw, "adafactor": _adafactor}.get(optimizer, _eight_bits)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        of_each = {name: moments(shape) for name, shape in shapes.items()}
        if moments is _eight_bits:
            of_each |= {name: _thirty_two_bits(shapes[name]) for name in embeddings}
        return cls({name: (DTYPES.get(w.dtype, ""), shapes[name]) for name, w in weights.items()}, of_each)

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return _size(self.weights.values()) + self.moment_bytes

    @property
    def moment_bytes(self) -> int:
        """Size of the optimizer's state."""
        return _size(shape for state in self.moments.values() for shape in state.values())


def _size(shapes: Iterable[Shape]) -> int:
    return sum(BYTES.get(kind, 4) * math.prod(shape) for kind, shape in shapes)


def _adamw(shape: tuple[int, ...]) -> dict[str, Shape]:
    return {"exp_avg": ("F32", shape), "exp_avg_sq": ("F32", shape), "step": ("F32", ())}


def _thirty_two_bits(shape: tuple[int, ...]) -> dict[str, Shape]:
    return {"state1": ("F32", shape), "state2": ("F32", shape), "step": ("I64", ())}


def _eight_bits(shape: tuple[int, ...]) -> dict[str, Shape]:
    count = math.prod(shape)
    if count < SMALL:
        return _thirty_two_bits(shape)
    blocks = (-(-count // BLOCK),)
    codes, largest = ("U8", shape), ("F32", blocks)
    return {"state1": codes, "state2": codes, "absmax1": largest, "absmax2": largest, "step": ("I64", ())}


def _adafactor(shape: tuple[int, ...]) -> dict[str, Shape]:
    squares = {"exp_avg_sq": ("F32", shape)}
    if len(shape) > 1:
        squares = {"exp_avg_sq_row": ("F32", shape[:-1]), "exp_avg_sq_col": ("F32", (*shape[:-2], shape[-1]))}
    return {**squares, "RMS": ("F32", ()), "step": ("I64", ())}


def state_tensors(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> dict[str, torch.Tensor]:
    """The state of one weight, on the CPU unless it is sharded; empty if it has had no gradient so far."""
    return {
        name: value.detach() if hasattr(value, "to_local") else torch.as_tensor(value).detach().cpu().contiguous()
        for name, value in optimizer.state.get(weight, {}).items()
        if not name.startswith(TABLE)
    }


def put_states(
    optimizer: Any, weights: Mapping[str, torch.nn.Parameter], states: Mapping[str, dict[str, torch.Tensor]]
) -> None:
    """Restores the state of each weight that has one. states: as `state_tensors` gave them, by the weight's name."""
    places = {
        id(weight): (group, weight, number, place)
        for number, group in enumerate(optimizer.param_groups)
        for place, weight in enumerate(group["params"])
    }
    fused = any(group.get("fused") for group in optimizer.param_groups)
    if hasattr(optimizer, "check_overrides"):  # which weights bitsandbytes leaves in 32 bits
        optimizer.check_overrides()
    for name, weight in weights.items():
        state = states.get(name)
        if not state:
            continue
        if hasattr(optimizer, "init_state"):  # of bitsandbytes, which allocates paged memory itself
            optimizer.init_state(*places[id(weight)])
            own = optimizer.state[weight]
            for key, value in state.items():
                own[key] = int(value) if key == "step" else own[key].copy_(value)
            continue
        # Moments are on the weight's device; AdamW's step count only if it is fused, Adafactor's is a number.
        optimizer.state[weight] = {
            key: (value.to(weight.device) if key != "step" or fused else value) if value.dtype != torch.int64
            else int(value)
            for key, value in state.items()
        }  # fmt: skip
