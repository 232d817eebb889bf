"""Checks before a run: that packs give the loss and gradients of padded rows, and that steps are deterministic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.kernels import dropout
from pipeline.kernels.deterministic import deterministic
from pipeline.kernels.lora import StackedLora
from pipeline.kernels.types import DropoutSeed
from pipeline.model.sharded import is_sharded, whole
from pipeline.run.errors import UserError, one_line
from pipeline.run.progress import say
from pipeline.run.width import small
from pipeline.training.loss_scale import LossScale

if TYPE_CHECKING:
    from pipeline.model.packed.model import PackedModel
    from pipeline.prompt.pack import Pack
    from pipeline.training.micro_batches import MicroBatches, PackedMicroBatches, PaddedMicroBatches

# Largest relative difference of the loss and of the gradient that rounding explains. With random weights bf16 comes to
# 0.1 and fp8 to 0.7 of a 7B model's gradient, which then is small compared with the terms it is the sum of.
ROUNDING = {"fp32": (1e-4, 1e-3), "fp16": (2e-3, 0.1), "bf16": (1e-2, 0.3), "fp8": (3e-2, 1.0)}
MAX_MASK_ERROR = 0.05  # see `mask_error`
ROWS = 8  # that are compared


def difference(
    packed: PackedMicroBatches, padded: PaddedMicroBatches, rows: Sequence[int], weights: Sequence[torch.Tensor],
    scaling: LossScale | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Relative difference of both paths' loss, and of their gradient over all weights, on some rows without dropout.

    Gradients are left empty. With scaling they are compared at the largest scale of a few that overflows on no path.
    """
    scaling = scaling or LossScale(None)
    for is_last in scaling.trials(int(padded.tokens.labelled[rows].sum())):
        result = _difference(packed, padded, rows, weights, scaling)
        if is_last or math.isfinite(result[1]):
            break
    return result


def _difference(
    packed: PackedMicroBatches, padded: PaddedMicroBatches, rows: Sequence[int], weights: Sequence[torch.Tensor],
    scaling: LossScale,
) -> tuple[float, float]:  # fmt: skip
    results = []
    was_training = padded.model.training
    padded.model.eval()
    with packed.fast.without_dropout():
        for path in (packed, padded):
            loss = 0.0
            for micro_batch in path.split(rows, 0):  # with noise on embeddings, which both draw alike
                loss += float(scaling.backward(path.loss(micro_batch)))
            results.append((loss, [None if w.grad is None else w.grad.float() for w in weights]))
            for weight in weights:
                weight.grad = None
    padded.model.train(was_training)
    (packed_loss, packed_grads), (padded_loss, padded_grads) = results
    pairs = [(0 if a is None else a, 0 if b is None else b) for a, b in zip(packed_grads, padded_grads, strict=True)]
    distance = sum(float(whole(torch.as_tensor(a - b).pow(2).sum())) for a, b in pairs) ** 0.5
    size = sum(float(whole(torch.as_tensor(b).pow(2).sum())) for _, b in pairs) ** 0.5
    return abs(packed_loss - padded_loss) / max(abs(padded_loss), 1e-12), distance / max(size, 1e-12)


def leaks(packed: PackedMicroBatches, rows: Sequence[int]) -> bool:
    """Whether a row's loss depends on another row of its pack: whether it has any gradient at the other's embeddings.

    Convolutions and recurrent layers read over the start of a row, with an effect that could pass for rounding. Checked
    for the last row with labels, which such layers affect, and for the first, which only layers that look ahead affect.
    """
    pack = packed.packer.pack(rows)
    starts = pack.starts[pack.preambles :]
    labelled = np.flatnonzero(np.histogram(pack.where, starts)[0])
    return any(
        _leaks_into(packed.fast, pack, starts[n], starts[n + 1]) for n in sorted({*labelled[:1], *labelled[-1:]})
    )


def _leaks_into(fast: PackedModel, pack: Pack, start: int, end: int) -> bool:
    """Whether the loss at positions from `start` to `end` has a gradient at own tokens elsewhere."""
    inside = (pack.where >= start) & (pack.where < end)
    only = dataclasses.replace(pack, weights=np.where(inside, pack.weights, 0).astype(np.float32))
    embeddings: list[torch.Tensor] = []

    def keep(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1].clone()  # some models change them in place

    hook = fast.causal_lm.get_input_embeddings().register_forward_hook(keep)
    try:
        (grad,) = torch.autograd.grad(fast.loss_sum(fast.prepare(only)), embeddings, fast.gradient_scale)
    finally:
        hook.remove()
    others = np.ones(len(pack.ids), np.bool_)
    others[: pack.starts[pack.preambles]] = others[start:end] = False
    return bool(grad.view(len(pack.ids), -1)[torch.from_numpy(others).to(grad.device)].any())


def largest_mask_error(fast: PackedModel) -> float:
    """The largest `mask_error` of the model's layers, one layer of each shape; 0 on CPUs, which have no kernels."""
    if fast.device.type != "cuda":
        return 0.0
    kinds = {
        (one.a.shape, *((group.count, group.dropout) for group in one.dropout_groups)): one
        for one in fast.linears
        if isinstance(one, StackedLora) and one.has_dropout
    }
    return float(np.max([mask_error(one) for one in kinds.values()], initial=0.0))


def mask_error(linear: StackedLora, tokens: int = 600) -> float:
    """Whether forward pass, input gradient and weight gradient of dropout use the same mask: the largest relative
    difference between the two sides of

        sum_k p_mk t_mk = sum_j dx_mj x_mj   for all tokens m,     t = drop(x) A',  dx = drop(p A),  dA = p' drop(x)
        sum_m p_mk t_mk = sum_j dA_kj A_kj   for all ranks k,
        mean_m t_mk = 1                      where all of x is 1 and all of A is 1 / its columns.

    With random numbers and dropout 0.05, another mask in one of the three gives 0.3, rounding in bf16 0.01. The random
    state of the run is not changed.
    """
    frozen, groups, (ranks, size) = linear.frozen, linear.dropout_groups, linear.a.shape
    seed, draw = DropoutSeed(torch.tensor([11], device=frozen.device)), torch.Generator(frozen.device).manual_seed(0)
    x, p, a = (
        torch.randn(shape, generator=draw, device=frozen.device).to(frozen.dtype)
        for shape in ((tokens, size), (tokens, ranks), (ranks, size))
    )
    t, dx = dropout.project(x, a, groups, seed), torch.zeros_like(x)
    dropout.add_input_gradient(dx, p, a, groups, seed)
    da = dropout.weight_gradient(p, x, groups, seed)
    products = p.float() * t.float()
    mean = dropout.project(torch.ones_like(x), torch.full_like(a, 1 / size), groups, seed).float().mean(0)
    pairs = (
        ((dx.float() * x.float()).sum(1), products.sum(1)),
        ((da.float() * a.float()).sum(1), products.sum(0)),
        (mean, torch.ones_like(mean)),
    )
    return float(np.max([float((left - right).norm() / right.norm()) for left, right in pairs]))  # keeps NaN


def is_equal(
    packed: PackedMicroBatches, padded: PaddedMicroBatches, rows: Sequence[int], weights: Sequence[torch.Tensor],
    precision: str, verbose: bool, scaling: LossScale | None = None,
) -> bool:  # fmt: skip
    """Whether both paths agree on some rows up to rounding, rows of a pack are separate, and dropout uses one mask.

    Args:
        precision: a key of `ROUNDING`. scaling: of the run's gradients, in fp16.

    Raises:
        UserError: they differ with an fp8 base, which the plain path cannot compute.
    """
    reason, loss, gradient = "", math.nan, math.nan
    try:
        if leaks(packed, rows):  # with dropout, so that its kernels run too
            reason = "rows of a pack affect each other in this model"
        elif not (error := largest_mask_error(packed.fast)) <= MAX_MASK_ERROR:  # or NaN
            reason = f"dropout's kernels differ by {error:.0%} from each other"
        loss, gradient = difference(packed, padded, rows, weights, scaling)
    except torch.cuda.OutOfMemoryError:  # the plain path keeps everything; packs may still fit
        if is_sharded(packed.fast.causal_lm):  # the other ranks wait in this pass
            raise
        for weight in weights:
            weight.grad = None
        torch.cuda.empty_cache()
        say("train: check skipped: the reference needs more memory than the card has") if verbose else None
        if not reason:
            return True
    if not reason and not (loss <= ROUNDING[precision][0] and gradient <= ROUNDING[precision][1]):
        allowed = ROUNDING[precision]
        reason = f"more than rounding explains (allowed: {small(allowed[0])} and {small(allowed[1])})"
    result = f"loss {small(loss)}, gradient {small(gradient)}, {len(rows)} rows"
    if verbose and not reason:
        say(f"train: check passed: the fast path equals the reference ({result})")
    elif verbose:
        say(f"train: check failed: the fast path differs from the reference ({result}): {reason}; "
            "the plain path is used")  # fmt: skip
    if reason and precision == "fp8":
        what = f"the fast path differs from the reference ({result}): {reason}"
        raise UserError(what, "model.quantize", "set model.quantize=none or nf4")
    return not reason


def is_deterministic(path: MicroBatches, row: int, weights: Sequence[torch.Tensor], verbose: bool) -> bool:
    """Whether each operation of a step has a deterministic algorithm on this device; prints the first that has none.
    torch has no list of them, but raises an error during a pass.

    Args:
        row: number of the row for the pass.
    """
    try:
        with deterministic(strict=True):
            for micro_batch in path.split([row]):
                loss = path.loss(micro_batch)
                loss.backward() if loss.requires_grad else None
    except torch.cuda.OutOfMemoryError:
        pass  # handled in the first step
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        say(
            f"train: not deterministic: a repeated or resumed run may differ slightly ({one_line(error, 120)})"
        ) if verbose else None
        return False
    finally:
        for weight in weights:
            weight.grad = None
    return True
