"""What a way through the model has to show before a run: that it gives what the plain one gives, and the same twice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.config.schema import Config
from pipeline.kernels import dropout
from pipeline.kernels.deterministic import deterministic
from pipeline.kernels.lora import StackedLora
from pipeline.kernels.types import DropoutSeed
from pipeline.model.load import dtype_name
from pipeline.run.errors import UserError, one_line
from pipeline.run.progress import say
from pipeline.training.order import step_rows

if TYPE_CHECKING:
    from pipeline.model.packed.model import PackedModel
    from pipeline.prompt.pack import Pack
    from pipeline.training.micro_batches import Packed, Plain

# What rounding explains, by arithmetic: relative difference of the loss, and of the gradient. With random weights bf16
# comes to 0.1 and fp8 to 0.7 of a 7B model's gradient, which then is small beside what it is the sum of.
ROUNDING = {"fp32": (1e-4, 1e-3), "bf16": (1e-2, 0.3), "fp8": (3e-2, 1.0)}
MASKS = 0.05  # see `mask_error`
PROBE_ROWS = 8


def difference(
    packed: Packed, plain: Plain, rows: Sequence[int], weights: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """How far the two ways are apart on some rows: relative difference of the loss, and of the gradient as a whole.

    Dropout is off meanwhile; gradients are left empty.
    """
    found = []
    was_training = plain.model.training
    plain.model.eval()
    with packed.fast.without_dropout():
        for path in (packed, plain):
            loss = 0.0
            for part in path.parts(rows):
                value = path.loss(part)
                if value.requires_grad:
                    value.backward()
                loss += float(value.detach())
            found.append((loss, [None if w.grad is None else w.grad.float() for w in weights]))
            for weight in weights:
                weight.grad = None
    plain.model.train(was_training)
    (ours, our_grads), (theirs, their_grads) = found
    pairs = [(0 if a is None else a, 0 if b is None else b) for a, b in zip(our_grads, their_grads, strict=True)]
    apart = sum(float(torch.as_tensor(a - b).pow(2).sum()) for a, b in pairs) ** 0.5
    size = sum(float(torch.as_tensor(b).pow(2).sum()) for _, b in pairs) ** 0.5
    return abs(ours - theirs) / max(abs(theirs), 1e-12), apart / max(size, 1e-12)


def leaks(packed: Packed, rows: Sequence[int]) -> bool:
    """Whether what a row predicts depends on another row of its pack: exactly, by the gradient of the one at the other.

    Convolutions and recurrent layers reach over a row's edge, and by so little that it could pass for rounding. Asked
    of the last row that learns, which such layers reach, and of the first, which only layers that look ahead would.
    """
    pack = packed.packer.pack(rows)
    own = pack.starts[pack.preambles :]
    learning = np.flatnonzero(np.histogram(pack.where, own)[0])
    return any(_reached(packed.fast, pack, own[n], own[n + 1]) for n in sorted({*learning[:1], *learning[-1:]}))


def _reached(fast: PackedModel, pack: Pack, start: int, end: int) -> bool:
    """Whether own tokens elsewhere have a gradient of what is predicted from `start` to `end`."""
    inside = (pack.where >= start) & (pack.where < end)
    only = dataclasses.replace(pack, weights=np.where(inside, pack.weights, 0).astype(np.float32))
    held: list[torch.Tensor] = []

    def hold(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        held.append(output.detach().requires_grad_())
        return held[-1].clone()  # some models go on in place

    hook = fast.causal_lm.get_input_embeddings().register_forward_hook(hold)
    try:
        (grad,) = torch.autograd.grad(fast.loss_sum(fast.prepare(only)), held)
    finally:
        hook.remove()
    others = np.ones(len(pack.ids), np.bool_)
    others[: pack.starts[pack.preambles]] = others[start:end] = False
    return bool(grad.view(len(pack.ids), -1)[torch.from_numpy(others).to(grad.device)].any())


def masks_apart(fast: PackedModel) -> float:
    """How far the uses of a dropout's mask are from being of one mask: `mask_error` of the worst kind of input. Zero
    without a card, where they are the formula itself."""
    if fast.device.type != "cuda":
        return 0.0
    kinds = {
        (one.a.shape, *((group.count, group.dropout) for group in one.dropout_groups)): one
        for one in fast.linears
        if one.has_dropout
    }
    return float(np.max([mask_error(one) for one in kinds.values()], initial=0.0))


def mask_error(linear: StackedLora, tokens: int = 600) -> float:
    """The largest relative difference between

        sum_k p_mk t_mk = sum_j dx_mj x_mj   for all tokens m,     t = drop(x) A',  dx = drop(p A),  dA = p' drop(x)
        sum_m p_mk t_mk = sum_j dA_kj A_kj   for all ranks k,
        mean_m t_mk = 1                      where all of x is 1 and all of A is 1 / its columns.

    Of random numbers, so a mask of its own in one of the three is 0.3 off where a share of 0.05 is dropped; rounding in
    bf16 comes to 0.01. No number is used up that a run draws.
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
    of_both = p.float() * t.float()
    mean = dropout.project(torch.ones_like(x), torch.full_like(a, 1 / size), groups, seed).float().mean(0)
    pairs = (
        ((dx.float() * x.float()).sum(1), of_both.sum(1)),
        ((da.float() * a.float()).sum(1), of_both.sum(0)),
        (mean, torch.ones_like(mean)),
    )
    return float(np.max([float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs]))  # NaN stays NaN


def is_equal(packed: Packed, plain: Plain, config: Config, weights: Sequence[torch.Tensor], told: bool) -> bool:
    """Whether both ways agree on a few rows of the first step, and the kernels of dropout with each other."""
    rows = step_rows(0, len(packed.tokens), config.train.batch_size, config.train.seed)[:PROBE_ROWS]
    why, loss, gradient = "", math.nan, math.nan
    try:
        if leaks(packed, rows):  # with dropout, whose kernels are tried by it too
            why = "rows of a pack reach each other in this model"
        elif not (apart := masks_apart(packed.fast)) <= MASKS:  # nor NaN
            why = f"dropout's kernels are {apart:.0%} apart from each other"
        loss, gradient = difference(packed, plain, rows, weights)
    except torch.cuda.OutOfMemoryError:  # the plain path keeps everything; packs may still fit
        for weight in weights:
            weight.grad = None
        torch.cuda.empty_cache()
        say("train: not compared with the plain path, for which the card's memory is too small") if told else None
        if not why:
            return True
    kind = "fp8" if config.model.quantize == "fp8" else dtype_name(config.model)
    if not why and not (loss <= ROUNDING[kind][0] and gradient <= ROUNDING[kind][1]):
        why = "too much"
    said = f"on {len(rows)} rows the fast path's loss is {loss:.1e} and its gradient {gradient:.1e} off the plain one"
    if told:
        say(f"train: {said}" + (f": {why}, so the plain path is used" if why else ""))
    if why and kind == "fp8":
        raise UserError(f"{said}: {why}", "model.quantize", "set model.quantize=none or nf4")
    return not why


def repeats(path: Packed | Plain, row: int, weights: Sequence[torch.Tensor], told: bool) -> bool:
    """Whether each operation of a step has an algorithm on this card that gives the same bits again; says which has
    not. torch has no list of them, but raises.

    Args:
        row: to go through the model.
    """
    try:
        with deterministic(strict=True):
            for part in path.parts([row]):
                loss = path.loss(part)
                loss.backward() if loss.requires_grad else None
    except torch.cuda.OutOfMemoryError:
        pass  # the first step will say so
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        why = one_line(error, 120)
        say(f"train: a run that is repeated or resumed may differ in its last digits: {why}") if told else None
        return False
    finally:
        for weight in weights:
            weight.grad = None
    return True
