"""Elastic weight consolidation: importances of the trained weights, estimated on general data before the first step.

The importances are the diagonal of the Fisher information:

    F_i = 1/T * sum over rows, in them over labelled positions t: E_{y ~ p(. | x_<t)} (d log p(y | x_<t) / d w_i)^2

T: labelled positions of all rows. F is per token, so sum_i F_i (w_i - w0_i)^2 / 2 is KL(start || now) in nats per token
on that data, up to third order and without the terms outside the diagonal. `train.ewc: 1` thus weighs a nat of
divergence there like a nat of the task's loss.

Labels are drawn from the model at its start. Then the scores of different positions have mean zero and are
uncorrelated, so one backward pass per row, squared, is an unbiased estimate of the sum over its positions. With the
data's labels ("empirical Fisher") this is not true if the model does not fit the data (Kunstner, Hennig, Balles 2019,
"Limitations of the empirical Fisher approximation"). Gradients are squared row by row, not summed over a batch first.

LoRA. B = 0 at the start, so the gradient and the Fisher information of A are zero, and EWC on A and B would not hold A.
The model sees the change s B A of the frozen W, so that is penalised, with the information of W. Hooks on the layer
give the gradient g' x of W for each row (g: gradient of the layer's output, x: its input), also for a quantised W.
A full matrix per W would need 26 GB for a 7B model; kept are its row sums R and column sums C (10 MB), and
F_oi = R_o C_i / sum(R), the rank-one matrix with those sums, as in Adafactor (Shazeer and Stern 2018, section 3). The
penalty then follows from A and B alone (`penalty.py`). It equals that of the whole diagonal if squared changes are the
same along rows or along columns of W; docs/forgetting.md has measurements for others.

Other trained tensors have their exact diagonal. Behind a factor that starts at zero (lower half of a bottleneck
adapter) it is zero too; the run prints how many such tensors EWC does not hold.
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

from pipeline.config.schema import Source, Train
from pipeline.dataset.examples import read_examples
from pipeline.dataset.read.source import labels as source_names
from pipeline.model.loss import losses
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.general_text import WINDOW, cut_windows, path_of, read_passages
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, sha256_json
from pipeline.run.progress import bar, say
from pipeline.training.penalty import LoraTerm, Penalty, WeightTerm, lora_layers, terms_of
from pipeline.training.processes import sum_over_ranks, wait_for_all

ROWS = 32  # of general data, with a forward and a backward pass each
FP16_FACTOR = 256.0  # of the gradients of a row in fp16, most of which are small, as in loss_scale.py
FILE = "fisher.safetensors"

Row = tuple[np.ndarray, np.ndarray]  # ids and labels, int, shape (length,)
Terms = Mapping[str, LoraTerm | WeightTerm]


def load_penalties(
    train: Train, model: Any, weights: Mapping[str, torch.nn.Parameter], rows: Sequence[Row], folder: Path,
    stage_key: Mapping[str, Any], accelerator: Any,
) -> list[Penalty]:  # fmt: skip
    """The penalties of `train.l2_sp` and `train.ewc`, none by default.

    To be called before a checkpoint is restored: the present weights are the start. They are a function of base and
    seed, so a resumed run has the same start.

    Args:
        rows: general data for EWC, see `text_rows` and `rehearsal_rows`. folder: of the run, for importances.
        stage_key: of the training stage; importances belong to it, except for the strength and other training settings.
    """
    if not (train.l2_sp or train.ewc):
        return []
    terms = terms_of(model, weights)
    penalties = [Penalty(terms, train.l2_sp)] if train.l2_sp else []
    if train.ewc:
        key = {name: value for name, value in stage_key.items() if name not in ("train", "version")}
        key |= {"seed": train.seed, "rows": ROWS}
        importances = load_or_compute(folder, sha256_json(key), model, terms, rows, accelerator, train.seed)
        penalties.append(Penalty(with_importances(terms, importances), train.ewc))
    return penalties


def text_rows(path: str, measured_path: str, encoder: AnyEncoder, longest: int) -> list[Row]:
    """General data from a text: its first `ROWS` windows as ids and labels.

    Args:
        path: `train.ewc_data`. measured_path: `eval.general`. longest: tokens of a window.

    Raises:
        UserError: a text cannot be read, or both have passages in common.
    """
    passages = read_passages(path_of(path), "train.ewc_data")
    measured = {p.text.strip() for p in read_passages(path_of(measured_path))}
    if both := sum(p.text.strip() in measured for p in passages):
        what = f"{both} of its passages are also in the text that forgetting is measured on (eval.general)"
        raise UserError(what, f"train.ewc_data, {path}", "use another text, or the measurement says nothing")
    return [(w.ids, w.ids) for w in cut_windows(passages, encoder, ROWS, min(WINDOW, longest))]


def rehearsal_rows(sources: Sequence[Source], dataset: Path, tokens: Tokens) -> list[Row]:
    """General data from the training rows of sources marked `rehearsal`: up to `ROWS` of them, chosen by content hash,
    as ids and labels.

    Args:
        dataset: folder of the data stage. tokens: of the training rows.

    Raises:
        UserError: there are none.
    """
    names = source_names(sources)
    general = {name for name, source in zip(names, sources, strict=True) if source.rehearsal}
    wanted = {e.id for e in read_examples(dataset, "train") if e.source in general}
    number = {name: n for n, name in enumerate(tokens.names_of(range(len(tokens)))) if name in wanted}
    rows = [tokens.row(number[name]) for name in sorted(number) if tokens.labelled[number[name]]]
    if not rows:
        fix = "name a text with train.ewc_data, or mark a source `rehearsal: true`"
        raise UserError("EWC without general data: no training row comes from a rehearsal source", "train.ewc", fix)
    return [(ids.astype(np.int64), labels.astype(np.int64)) for ids, labels in rows[:ROWS]]


def with_importances(terms: Terms, importances: Mapping[str, torch.Tensor]) -> dict[str, LoraTerm | WeightTerm]:
    """The terms with their importances, as `fisher` returns them."""
    weighted: dict[str, LoraTerm | WeightTerm] = {}
    for name, term in terms.items():
        if isinstance(term, LoraTerm):
            rows, columns = importances[f"{name}|rows"], importances[f"{name}|columns"]
            weighted[name] = replace(term, rows=rows / rows.sum().clamp(min=1e-30), columns=columns)
        else:
            weighted[name] = replace(term, importance=importances[name])
    return weighted


def fisher(model: Any, terms: Terms, rows: Sequence[Row], accelerator: Any, seed: int) -> dict[str, torch.Tensor]:
    """Importances of all terms, float32, on the model's device: `NAME`, or `NAME|rows` and `NAME|columns` for LoRA.

    Ranks take rows in turn and get the same result. Weights, gradients and mode of the model do not change.

    Raises:
        UserError: a gradient is not finite, as in fp16 one may overflow.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    sums = zero_sums(terms)
    layers = {name: module for name, module in lora_layers(model) if name in terms}
    factor = FP16_FACTOR if accelerator.mixed_precision == "fp16" else 1.0
    hooks = [module.register_forward_hook(_collect(name, sums, factor)) for name, module in layers.items()]
    singles = [(name, term.weight) for name, term in terms.items() if isinstance(term, WeightTerm)]
    trained = [p for p in model.parameters() if p.requires_grad]
    was_training = model.training
    model.eval()
    scored = torch.zeros((), device=accelerator.device)
    verbose = accelerator.is_main_process
    try:
        for n in bar(range(rank, len(rows), world), what="Fisher information", disable=not verbose):
            ids, labels = rows[n]
            with accelerator.autocast():
                scored += _backward(model, ids, labels, (seed << 20) + n, factor)
            for name, weight in singles:
                if weight.grad is not None:
                    sums[name] += (weight.grad.float() / factor).square()
            for weight in trained:
                weight.grad = None
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    scored = sum_over_ranks(accelerator, scored).clamp(min=1)
    importances = {name: sum_over_ranks(accelerator, value) / scored for name, value in sums.items()}
    if not all(bool(value.isfinite().all()) for value in importances.values()):
        what = "the gradients of the general data are not finite"
        raise UserError(what, "train.ewc", "set model.dtype=bf16 or fp32, or leave train.ewc out")
    return importances


def zero_sums(terms: Terms) -> dict[str, torch.Tensor]:
    """Zeros in the form of `fisher`'s result."""
    sums = {}
    for name, term in terms.items():
        if isinstance(term, LoraTerm):
            sums[f"{name}|rows"] = torch.zeros(term.b.shape[0], device=term.b.device)
            sums[f"{name}|columns"] = torch.zeros(term.a.shape[1], device=term.a.device)
        else:
            sums[name] = torch.zeros(term.weight.shape, device=term.weight.device)
    return sums


def _collect(name: str, sums: dict[str, torch.Tensor], factor: float) -> Any:
    """A forward hook that adds row and column sums of the squared gradient of the layer's W to `sums`. factor: that the
    gradient comes multiplied with."""

    def forward(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0].detach()

        def backward(grad: torch.Tensor) -> None:
            g = grad.reshape(-1, grad.shape[-1]).float() / factor
            square = (g.t() @ x.reshape(-1, x.shape[-1]).float()).square_()
            sums[f"{name}|rows"] += square.sum(dim=1)
            sums[f"{name}|columns"] += square.sum(dim=0)

        if output.requires_grad:
            output.register_hook(backward)

    return forward


def _backward(model: Any, ids: np.ndarray, labels: np.ndarray, seed: int, factor: float = 1.0) -> int:
    """Backward pass of `factor` times the sum of log p over labels drawn from the model; returns their number."""
    device = next(model.parameters()).device
    where = torch.from_numpy(np.flatnonzero(labels[1:] != IGNORE)).to(device)
    if not len(where):
        return 0
    logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None].to(device), use_cache=False).logits[0]
    logits = logits[-len(ids) :][where]  # prompt tuning puts virtual tokens in front
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.multinomial(logits.detach().float().softmax(dim=-1), 1, generator=generator)[:, 0]
    (losses(logits, drawn).sum() * factor).backward()
    return len(where)


def without_information(terms: Terms, importances: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the terms whose information is zero everywhere, so that EWC does not hold them."""
    return [name for name in terms if not importances.get(name, importances.get(f"{name}|rows", torch.zeros(1))).any()]


def load_or_compute(
    folder: Path, key: str, model: Any, terms: Terms, rows: Sequence[Row],
    accelerator: Any, seed: int,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """The importances in the run folder if they have the same key; otherwise computes and saves them.

    A resumed run uses those of its start: computed again on a GPU, they may differ in the last bits.
    """
    path = folder / FILE
    importances = _load(path, key, accelerator.device)
    wait_for_all(accelerator)  # no rank may write before all have read
    if importances is not None:
        return importances
    importances = fisher(model, terms, rows, accelerator, seed)
    if accelerator.is_main_process:
        with disk_errors(folder):
            temporary = path.with_name(f".{FILE}.tmp")
            save_file({n: t.cpu().contiguous() for n, t in importances.items()}, temporary, metadata={"key": key})
            temporary.replace(path)
        none = without_information(terms, importances)
        note = f"; {len(none)} have none, such as {none[0]}: EWC does not hold them" if none else ""
        say(f"train: EWC: Fisher information of {len(terms)} weights from {len(rows)} rows of general data{note}")
    wait_for_all(accelerator)
    return importances


def _load(path: Path, key: str, device: torch.device) -> dict[str, torch.Tensor] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:  # damaged: it is computed again
        return None
