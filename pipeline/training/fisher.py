"""Fisher information of what is trained, diagonal, estimated on general data before the first step: EWC's importances.

    F_i = 1/T * sum over rows, in them over labelled positions t: E_{y ~ p(. | x_<t)} (d log p(y | x_<t) / d w_i)^2

T: labelled positions of all rows. F counts a token, so sum_i F_i (w_i - w0_i)^2 / 2 is, up to third order and without
the terms beside the diagonal, KL(start || now) in nats a token on that data; so `train.ewc: 1` weighs a nat of
divergence there as much as a nat of the task's loss.

Labels are drawn from the model at its start, not taken from the data. Drawn, the scores of different positions have
mean zero and do not correlate, so one backward pass a row, squared, is an unbiased estimate of the sum over its
positions. With the data's labels ("empirical Fisher") that does not hold wherever the model does not fit the data
(Kunstner, Hennig, Balles 2019, "Limitations of the empirical Fisher approximation"). Gradients are squared row by row:
the square of the sum over a batch would be something else.

LoRA. At its start B = 0, hence the gradient of A is zero, and so would be A's Fisher information: A could go anywhere,
for ever. What the model sees is the change s B A of the frozen W, so that is held, with the information of W. Row by
row the gradient of W is g' x (g: gradient of the layer's output, x: its input), which hooks on the layer give also for
frozen and quantised W. A matrix of importances beside each W would be as large as the base in float32, 26 GB for 7B;
kept are its row sums R and column sums C, and F_oi = R_o C_i / sum(R): the rank-one matrix with those sums, Adafactor's
(Shazeer and Stern 2018, section 3). That is 10 MB for 7B, and lets the penalty be computed from A and B alone
(`penalty.py`). It gives the whole diagonal's penalty exactly for changes whose squares are alike along rows or columns
of W; how near it comes for others was measured (docs/forgetting.md).

Tensors that are trained themselves have their exact diagonal. Where one stands behind a factor that starts at zero (the
lower half of a bottleneck adapter), its information is zero too; `fisher` says how many tensors EWC does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.model.loss import losses
from pipeline.prompt.encode import IGNORE
from pipeline.run.files import disk_errors
from pipeline.run.progress import bar, say
from pipeline.training.penalty import Product, Single, layers_of

ROWS = 32  # of general data: a forward and a backward pass each
FILE = "fisher.safetensors"

Row = tuple[np.ndarray, np.ndarray]  # ids and labels, int, shape (length,)


def with_fisher(
    parts: Mapping[str, Product | Single], found: Mapping[str, torch.Tensor]
) -> dict[str, Product | Single]:
    """The same parts with their importances, as `fisher` returns them."""
    made: dict[str, Product | Single] = {}
    for name, part in parts.items():
        if isinstance(part, Product):
            rows, columns = found[f"{name}|rows"], found[f"{name}|columns"]
            made[name] = replace(part, rows=rows / rows.sum().clamp(min=1e-30), columns=columns)
        else:
            made[name] = replace(part, importance=found[name])
    return made


def fisher(
    model: Any, parts: Mapping[str, Product | Single], rows: Sequence[Row], accelerator: Any, seed: int
) -> dict[str, torch.Tensor]:
    """Importances of all parts, float32, on the model's device: `NAME`, or `NAME|rows` and `NAME|columns` for LoRA.

    Ranks take rows in turn and end with the same numbers. Weights, gradients and mode of the model stay as they were.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    sums = _zeros(model, parts)
    layers = {name: module for name, module in layers_of(model) if name in parts}
    hooks = [module.register_forward_hook(_collect(name, sums)) for name, module in layers.items()]
    singles = [(name, part.weight) for name, part in parts.items() if isinstance(part, Single)]
    trained = [p for p in model.parameters() if p.requires_grad]
    was_training = model.training
    model.eval()
    scored = torch.zeros((), device=accelerator.device)
    told = accelerator.is_main_process
    try:
        for n in bar(range(rank, len(rows), world), what="Fisher information", disable=not told):
            ids, labels = rows[n]
            with accelerator.autocast():
                scored += _backward(model, ids, labels, (seed << 20) + n)
            for name, weight in singles:
                if weight.grad is not None:
                    sums[name] += weight.grad.float().square()
            for weight in trained:
                weight.grad = None
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    scored = accelerator.reduce(scored, "sum").clamp(min=1)
    return {name: accelerator.reduce(value, "sum") / scored for name, value in sums.items()}


def _zeros(model: Any, parts: Mapping[str, Product | Single]) -> dict[str, torch.Tensor]:
    sums = {}
    for name, part in parts.items():
        if isinstance(part, Product):
            sums[f"{name}|rows"] = torch.zeros(part.b.shape[0], device=part.b.device)
            sums[f"{name}|columns"] = torch.zeros(part.a.shape[1], device=part.a.device)
        else:
            sums[name] = torch.zeros(part.weight.shape, device=part.weight.device)
    return sums


def _collect(name: str, sums: dict[str, torch.Tensor]) -> Any:
    """A forward hook that adds row and column sums of the squared gradient of the layer's W."""

    def forward(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0].detach()

        def backward(grad: torch.Tensor) -> None:
            g = grad.reshape(-1, grad.shape[-1]).float()
            square = (g.t() @ x.reshape(-1, x.shape[-1]).float()).square_()
            sums[f"{name}|rows"] += square.sum(dim=1)
            sums[f"{name}|columns"] += square.sum(dim=0)

        if output.requires_grad:
            output.register_hook(backward)

    return forward


def _backward(model: Any, ids: np.ndarray, labels: np.ndarray, seed: int) -> int:
    """Gradients of the sum of log p over labels drawn from the model itself; returns how many there are."""
    device = next(model.parameters()).device
    where = torch.from_numpy(np.flatnonzero(labels[1:] != IGNORE)).to(device)
    if not len(where):
        return 0
    logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None].to(device), use_cache=False).logits[0]
    logits = logits[-len(ids) :][where]  # prompt tuning puts virtual tokens in front
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.multinomial(logits.detach().float().softmax(dim=-1), 1, generator=generator)[:, 0]
    losses(logits, drawn).sum().backward()
    return len(where)


def silent(parts: Mapping[str, Product | Single], found: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the parts whose information is zero everywhere: EWC lets them go anywhere."""
    return [name for name in parts if not found.get(name, found.get(f"{name}|rows", torch.zeros(1))).any()]


def load_or_make(
    folder: Path, key: str, model: Any, parts: Mapping[str, Product | Single], rows: Sequence[Row],
    accelerator: Any, seed: int,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """The importances of an earlier start with the same key, or new ones, which are kept in the run folder.

    A resumed run must not draw them again: on a GPU sums need not come out the same to the last bit.
    """
    path = folder / FILE
    found = _load(path, key, accelerator.device)
    accelerator.wait_for_everyone()  # no rank may write before all have looked
    if found is not None:
        return found
    found = fisher(model, parts, rows, accelerator, seed)
    if accelerator.is_main_process:
        with disk_errors(folder):
            temporary = path.with_name(f".{FILE}.tmp")
            save_file({n: t.cpu().contiguous() for n, t in found.items()}, temporary, metadata={"key": key})
            temporary.replace(path)
        none = silent(parts, found)
        said = f"train: Fisher information of {len(parts)} weights from {len(rows)} rows of general data"
        say(said + (f"; {len(none)} have none, such as {none[0]}: EWC does not hold them" if none else ""))
    accelerator.wait_for_everyone()
    return found


def _load(path: Path, key: str, device: torch.device) -> dict[str, torch.Tensor] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:  # damaged: it can be made again
        return None
