"""What a way through the model has to show before a run: that it gives what the plain one gives, and the same twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.kernels.in_order import in_order
from pipeline.model.load import dtype_name
from pipeline.progress import say
from pipeline.training.order import step_rows

if TYPE_CHECKING:
    from pipeline.training.path import Packed, Plain

# What rounding explains, by arithmetic: relative difference of the loss, and of the gradient. With random weights bf16
# comes to 0.1 and fp8 to 0.7 of a 7B model's gradient, which then is small beside what it is the sum of.
ROUNDING = {"fp32": (1e-4, 1e-3), "bf16": (1e-2, 0.3), "fp8": (3e-2, 1.0)}
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
            found.append((loss, [None if w.grad is None else w.grad.float().clone() for w in weights]))
            for weight in weights:
                weight.grad = None
    plain.model.train(was_training)
    (ours, our_grads), (theirs, their_grads) = found
    pairs = [(0 if a is None else a, 0 if b is None else b) for a, b in zip(our_grads, their_grads, strict=True)]
    apart = sum(float(torch.as_tensor(a - b).pow(2).sum()) for a, b in pairs) ** 0.5
    size = sum(float(torch.as_tensor(b).pow(2).sum()) for _, b in pairs) ** 0.5
    return abs(ours - theirs) / max(abs(theirs), 1e-12), apart / max(size, 1e-12)


def is_equal(packed: Packed, plain: Plain, config: Config, weights: Sequence[torch.Tensor], told: bool) -> bool:
    """Whether both ways agree on a few rows of the first step."""
    rows = step_rows(0, len(packed.tokens), config.train.batch_size, config.train.seed)[:PROBE_ROWS]
    try:
        loss, gradient = difference(packed, plain, rows, weights)
    except torch.cuda.OutOfMemoryError:  # the plain path keeps everything; packs may still fit
        for weight in weights:
            weight.grad = None
        torch.cuda.empty_cache()
        say("train: not compared with the plain path, for which the card's memory is too small") if told else None
        return True
    kind = "fp8" if config.model.quantize == "fp8" else dtype_name(config.model)
    fine = loss <= ROUNDING[kind][0] and gradient <= ROUNDING[kind][1]
    said = f"on {len(rows)} rows the fast path's loss is {loss:.1e} and its gradient {gradient:.1e} off the plain one"
    if told:
        say(f"train: {said}" + ("" if fine else ": too much, so the plain path is used"))
    if not fine and kind == "fp8":
        raise UserError(said, "model.quantize", "set model.quantize=none or nf4")
    return fine


def repeats(plain: Plain, row: int, weights: Sequence[torch.Tensor], told: bool) -> bool:
    """Whether each operation of a step has an algorithm on this card that gives the same bits again; says which has
    not. torch has no list of them, but raises.

    Args:
        row: to go through the model.
    """
    try:
        with in_order(strict=True):
            for part in plain.parts([row]):
                loss = plain.loss(part)
                loss.backward() if loss.requires_grad else None
    except torch.cuda.OutOfMemoryError:
        pass  # the first step will say so
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        why = " ".join(str(error).split())[:120]
        say(f"train: a run that is repeated or resumed may differ in its last digits: {why}") if told else None
        return False
    finally:
        for weight in weights:
            weight.grad = None
    return True
