"""The update of the weights at the end of a step, from the gradients of all its micro-batches.

gradients ─> summed over ranks ─> unscaled (fp16) ─> penalties ─> clipped ─> optimizer
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config.schema import Train
from pipeline.model.sharded import whole
from pipeline.run.errors import UserError
from pipeline.training import checkpoint
from pipeline.training.optimizer import take_step
from pipeline.training.penalty import add_gradients
from pipeline.training.processes import any_rank, sum_over_ranks
from pipeline.training.schedule import learning_rate
from pipeline.training.session import Session


@dataclass(frozen=True)
class Update:
    """What came of a step.

    Attributes:
        loss: mean over the labelled tokens of the step. norm: of the gradients, before clipping. rate: learning rate.
        penalty, scale: lines of metrics.jsonl on penalties and the loss scale.
        is_skipped: gradients overflowed in fp16, and no weight changed.
    """

    loss: torch.Tensor
    norm: torch.Tensor
    rate: float
    penalty: dict[str, Any]
    scale: dict[str, Any]
    is_skipped: bool


def update(session: Session, step: int, rows: list[int], loss: torch.Tensor, labelled: int) -> Update:
    """Updates the weights by their gradients.

    Args:
        step: number of steps before this one. rows: of the step. loss: this rank's sum over its labelled tokens.
        labelled: labelled tokens of all ranks.

    Raises:
        UserError: loss or gradients are not finite, or overflow in fp16 at any scale.
    """
    accelerator, scaling, settings = session.accelerator, session.scaling, session.config.train
    weights = list(session.weights.values())
    session.exchange.wait()
    if not labelled:  # gradients are zeros or None, by the path, and AdamW would tell them apart
        session.optimizer.zero_grad(set_to_none=True)
    scaling.unscale(weights)
    penalty = add_gradients(session.penalties)
    norm = clip(weights, settings.clip or math.inf)
    rate, scale = learning_rate(step - scaling.skipped, session.total, settings), scaling.metric()
    is_skipped = scaling.factor is not None and any_rank(accelerator, scaling.overflows(norm))
    if is_skipped:
        session.optimizer.zero_grad(set_to_none=True)
    else:
        take_step(session.optimizer, rate)
        session.path.after_step()
    scaling.update(is_skipped)
    loss = sum_over_ranks(accelerator, loss) / max(1, labelled)
    # The first wait for the card in this step; nothing has been saved since it began.
    if scaling.is_exhausted:
        raise _no_scale(step, float(loss), scaling.in_a_row, _where(session, rows))
    if not (is_skipped or (torch.isfinite(loss) and torch.isfinite(norm))):
        raise _not_finite(step, float(loss), float(norm), _where(session, rows), settings)
    return Update(loss, norm, rate, penalty, scale, is_skipped)


def clip(weights: list[torch.nn.Parameter], largest: float) -> torch.Tensor:
    """Scales gradients to at most this norm of them all; returns the norm before, of whole gradients also where they
    are sharded."""
    norm = whole(torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(weights, largest, norm)
    return norm


def _not_finite(step: int, loss: float, norm: float, where: str, settings: Train) -> UserError:
    what = f"step {step + 1}: loss {loss}, gradient norm {norm}: training cannot go on. {where}"
    others = [f"train.{name}" for name in ("l2_sp", "ewc", "neftune") if getattr(settings, name)]
    return UserError(what, "train", f"lower {' or '.join(['train.lr', *others])}, or raise train.warmup")


def _no_scale(step: int, loss: float, skipped: int, where: str) -> UserError:
    """Gradients overflow in fp16 at every scale. skipped: steps in a row."""
    why = f"gradients overflow in fp16 at any loss scale, {skipped} steps in a row"
    what = f"step {step + 1}: loss {loss}, {why}. {where}"
    fix = "set model.dtype=fp32, or bf16 on an Ampere card or newer; if the loss rose before, lower train.lr"
    return UserError(what, "train", fix)


def _where(session: Session, rows: list[int]) -> str:
    """The newest checkpoint and the rows of a step that failed."""
    saved, names = checkpoint.steps(session.root), session.tokens.names_of(rows)
    newest = f"The newest checkpoint is that of step {saved[-1]}" if saved else "There is no checkpoint yet"
    return f"{newest}. The step's rows: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
