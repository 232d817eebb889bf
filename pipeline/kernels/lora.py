"""LoRA on frozen linear layers that share one input: q, k, v; gate, up; or a single layer (Hu et al. 2021).

    forward, for two layers with outputs O1 + O2 = O and ranks R1 + R2 = R (T tokens, D inputs):

        x_TD --+-- W' -------------------------------+
               |                                     + ---> y_TO = [y1 | y2]
               +-- drop -- (s A)' --> t_TR -- B' ----+

        A_RD = [A1 ]     W_OD = [W1 ]     B_OR = [B1  0 ]     s: scale of each adapter
               [A2 ]            [W2 ]            [0   B2]

    backward:  p_TR = dy (s B),  dx = dy W + drop(p A),  dA = p' drop(x),  dB = dy' t

W has no gradient. Layers may lack an adapter: A and B have no rows and columns for them then.

- A, s A, B and s B are copies in the compute dtype, refreshed once per optimizer step (`StackedLora.copies`).
- If the input is allocated with R spare columns, t is written there and B behind W, so that one product gives all of
  y: [x t]_T(D+R) [W B]'. Products with R as inner dimension are bound by memory, and this one reads y once less.
- On CUDA s B is one block matrix as drawn, so p and dB are one product each. CPUs multiply block by block: there the
  zeros would cost time.
- The dropout mask is not stored, see dropout.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.kernels import dropout
from pipeline.kernels.card import has_matrix_units, runs_kernels
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.types import DropoutSeed, Fp8Rows

MAX_RANKS = 128  # of our kernel and of one block matrix; beyond that cuBLAS and separate products are faster
BLOCK_MATRIX_DEVICES = ("cuda",)


@dataclass(frozen=True)
class LoraAdapter:
    """The adapter of one layer: y += scale * drop(x) a' b'. `a` (rank, in) and `b` (out, rank) are trained."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float
    dropout: float = 0.0


@dataclass
class SavedProjection:
    """What the backward pass of `StackedLora` needs beside its input. t: (T, R). seed: None if nothing was dropped."""

    t: torch.Tensor
    seed: DropoutSeed | None


class StackedLora:
    """Frozen layers with one input, stacked, and their adapters.

    Args:
        adapters: one for each layer of `frozen`, or None.
        spare_input_columns: whether the caller allocates inputs with spare columns; `add_to` cannot be used then.

    Attributes:
        parameters: a and b of each adapter in turn, the order of `backward_parameters`.
        spare_columns: how many there must be behind each row of the input; 0 for none.
        has_dropout: whether any adapter drops inputs; settable.
        blocks: (outputs, ranks, scaled B) of each product with B; one on CUDA, else one for each adapter.
    """

    def __init__(
        self, frozen: FrozenWeights, adapters: Sequence[LoraAdapter | None], spare_input_columns: bool = False
    ) -> None:
        sizes = frozen.sizes
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        self.frozen = frozen
        self.adapters = [a for a in adapters if a is not None]
        self.parameters = [p for a in self.adapters for p in (a.a, a.b)]
        self.outputs = [slice(e - s, e) for e, s, a in zip(ends, sizes, adapters, strict=True) if a is not None]
        ranks = [len(a.a) for a in self.adapters]
        total = sum(ranks)
        self.ranks = [slice(sum(ranks[:n]), sum(ranks[: n + 1])) for n in range(len(ranks))]
        self.has_dropout = any(a.dropout for a in self.adapters)
        self.dropout_groups = dropout.groups_of(self.ranks, [a.dropout for a in self.adapters])

        like = {"dtype": frozen.dtype, "device": frozen.device}
        self.a, self.scaled_a = (torch.empty(total, frozen.inputs, **like) for _ in range(2))  # (R, D)
        every_layer = len(self.adapters) == len(sizes) > 1
        if every_layer and total <= MAX_RANKS and frozen.device.type in BLOCK_MATRIX_DEVICES:
            block_matrix = torch.zeros(ends[-1], total, **like)  # (O, R)
            self.blocks = [(slice(0, ends[-1]), slice(0, total), block_matrix)]
            self.scaled_b = [block_matrix[out, rank] for out, rank in zip(self.outputs, self.ranks, strict=True)]
        else:
            self.scaled_b = [torch.empty(a.b.shape, **like) for a in self.adapters]
            self.blocks = list(zip(self.outputs, self.ranks, self.scaled_b, strict=True))
        self.spare_columns = frozen.append_columns(total) if spare_input_columns and ranks else 0
        if self.spare_columns:
            behind_w = frozen.extended[:, frozen.inputs :]  # (O, R)
            self.b = [behind_w[out, rank] for out, rank in zip(self.outputs, self.ranks, strict=True)]
        else:
            self.b = [torch.empty(a.b.shape, **like) for a in self.adapters]

    def copies(self) -> list[tuple[torch.Tensor, torch.nn.Parameter, float]]:
        """(copy, parameter, scale) of every copy that must be refreshed after an optimizer step."""
        copies = []
        for adapter, rank, b, scaled_b in zip(self.adapters, self.ranks, self.b, self.scaled_b, strict=True):
            copies += [(self.a[rank], adapter.a, 1.0), (self.scaled_a[rank], adapter.a, adapter.scale)]
            copies += [(b, adapter.b, 1.0), (scaled_b, adapter.b, adapter.scale)]
        return copies

    def forward(
        self, x_TD: torch.Tensor, add_to: torch.Tensor | None = None, seed: DropoutSeed | None = None,
        x_fp8: Fp8Rows | None = None,
    ) -> tuple[torch.Tensor, SavedProjection]:  # fmt: skip
        """y (T, O) with `add_to` (the residual stream) added, and what the backward pass needs.

        seed: of the dropout; None for no dropout. x_fp8: x quantized, if the caller has it.
        """
        if self.has_dropout and seed is not None:
            t_TR = dropout.project(x_TD, self.scaled_a, self.dropout_groups, seed)
        else:
            seed = None
            t_TR = x_TD @ self.scaled_a.t()
        saved = SavedProjection(t_TR, seed)
        return self.output(x_TD, saved, add_to, x_fp8), saved

    def output(
        self, x_TD: torch.Tensor, saved: SavedProjection, add_to: torch.Tensor | None = None,
        x_fp8: Fp8Rows | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """y (T, O), given t: the second half of `forward`, also for recomputation."""
        if self.spare_columns:
            xt = x_TD.as_strided((len(x_TD), self.frozen.extended.shape[1]), x_TD.stride())  # (T, D + R)
            xt[:, self.frozen.inputs :] = saved.t
            return self.frozen.forward_extended(xt)
        add_later = add_to is not None and len(self.b) == len(self.frozen.sizes) == 1 and _in_one_pass(x_TD, self.b[0])
        y_TO = self.frozen.forward(x_TD, None if add_later else add_to, x_fp8)
        for b, out, rank in zip(self.b, self.outputs, self.ranks, strict=True):
            add_low_rank(y_TO[:, out], saved.t[:, rank], b.t(), add_to if add_later else None)
        return y_TO

    def backward_input(
        self, dy_TO: torch.Tensor, saved: SavedProjection, needs_dx: bool = True, dy_fp8: Fp8Rows | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """dx (T, D), None if not needed, and p (T, R)."""
        p_TR = torch.empty_like(saved.t)
        for out, rank, scaled_b in self.blocks:
            torch.mm(dy_TO[:, out], scaled_b, out=p_TR[:, rank])
        if not needs_dx:
            return None, p_TR
        dx_TD = self.frozen.backward(dy_TO, dy_fp8)
        if self.adapters and saved.seed is None:
            add_low_rank(dx_TD, p_TR, self.a)
        elif self.adapters and saved.seed is not None:
            dropout.add_input_gradient(dx_TD, p_TR, self.a, self.dropout_groups, saved.seed)
        return dx_TD, p_TR

    def backward_parameters(
        self, dy_TO: torch.Tensor, x_TD: torch.Tensor, p_TR: torch.Tensor, saved: SavedProjection
    ) -> list[torch.Tensor]:
        """Gradients of `parameters`, in their order and dtype."""
        if not self.adapters:
            return []
        dtype = self.parameters[0].dtype
        if saved.seed is None:
            da_RD = sum_over_tokens(p_TR, x_TD, dtype)
        else:
            da_RD = dropout.weight_gradient(p_TR, x_TD, self.dropout_groups, saved.seed).to(dtype)
        db = [sum_over_tokens(dy_TO[:, out], saved.t[:, rank], dtype) for out, rank, _ in self.blocks]
        if len(db) < len(self.adapters):  # one block matrix: only its diagonal blocks are gradients
            db = [db[0][out, rank].contiguous() for out, rank in zip(self.outputs, self.ranks, strict=True)]
        return [gradient for rank, db_i in zip(self.ranks, db, strict=True) for gradient in (da_RD[rank], db_i)]


def sum_over_tokens(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left' right in `dtype`, (n, m); left (tokens, n) and right (tokens, m), any row stride."""
    if left.is_cuda and left.dtype != dtype == torch.float32:
        return torch.mm(left.t(), right, out_dtype=dtype)  # it sums in float32 anyway
    return (left.t() @ right).to(dtype)


def add_low_rank(y: torch.Tensor, t: torch.Tensor, b: torch.Tensor, add_to: torch.Tensor | None = None) -> None:
    """y += t b + add_to, in place. y, add_to (tokens, out) and t (tokens, rank), any row stride; b (rank, out), any
    strides."""
    if _in_one_pass(y, b.t()):
        from pipeline.kernels import triton_lora

        triton_lora.add_low_rank(y, t, b, add_to)
        return
    y.addmm_(t, b)
    if add_to is not None:
        y += add_to


def _in_one_pass(like: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether a kernel of ours adds products with b (out, rank) to tensors of this type and device. What else is added
    costs one more read then; `addmm` would copy it first."""
    return (
        runs_kernels(like) and has_matrix_units(like.device) and like.dtype != torch.float32 and b.shape[1] <= MAX_RANKS
    )


class LoraFunction(torch.autograd.Function):
    """`StackedLora` for models whose own forward calls it. `parameters` are arguments so that they get gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, lora: StackedLora, seed: DropoutSeed | None, *parameters: torch.Tensor
    ) -> torch.Tensor:
        x_TD = x.reshape(-1, x.shape[-1])
        y_TO, saved = lora.forward(x_TD, seed=seed)
        ctx.save_for_backward(x_TD, saved.t)
        ctx.lora, ctx.seed, ctx.shape = lora, saved.seed, x.shape
        # Not a view: a model may modify it in place, as OLMo's clipping does.
        return torch.ops.aten._unsafe_view(y_TO, [*x.shape[:-1], y_TO.shape[-1]])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x_TD, t_TR = ctx.saved_tensors
        dy_TO = grad.reshape(-1, grad.shape[-1])
        saved = SavedProjection(t_TR, ctx.seed)
        dx_TD, p_TR = ctx.lora.backward_input(dy_TO, saved, ctx.needs_input_grad[0])
        gradients = ctx.lora.backward_parameters(dy_TO, x_TD, p_TR, saved)
        return None if dx_TD is None else dx_TD.view(ctx.shape), None, None, *gradients
