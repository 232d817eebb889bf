"""Checks of an export. One that fails stops it and is named in the error; answers that do not end mark it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from pipeline.dataset.example import Example
from pipeline.evaluation.measure import MeasuredModel
from pipeline.model.adapter import WEIGHTS
from pipeline.model.hf_tokenizer import disagreement
from pipeline.model.methods import Method
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.progress import say
from pipeline.run.width import small

# Largest mean KL divergence, in nats a token, that rounding may cause between base + adapter and the merged model. int8
# also rounds activations, which the merged model does not.
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-2, "fp16": 1e-3, "nf4": 1e-4, "int8": 5e-3}
PROBE_ROWS = 4
PROBE_TOKENS = 128
EOS_PROBES = 16
FEWEST_PROBES = 4  # answers at the end of training that the export is compared with
REPORT = "report this with your config"


@dataclass
class Checks:
    """Results of the checks so far, by name.

    unfinished: empty, or how many answers end by themselves where they are fewer than `export.min_eos` asks for. That
    is a fact about the training: the export is written and marked.
    """

    done: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, Any] = field(default_factory=dict)

    def passed(self, name: str, result: str, subject: str = "check") -> None:
        """Records a result, and prints it as `SUBJECT passed: RESULT`."""
        self.done[name] = result
        say(f"export: {subject} passed: {result}")

    @staticmethod
    def fail(name: str, result: str, fix: str) -> UserError:
        """The error to raise."""
        return UserError(f"the export failed its check {name!r}: {result}. Nothing was exported", "export", fix)


def adapter_has_learnt(folder: Path, method: Method, checks: Checks) -> None:
    """Checks that the saved adapter has tensors, that they are finite and that training changed some.

    Raises:
        UserError: they fail.
    """
    name = "adapter not empty"
    path = folder / WEIGHTS
    try:
        tensors = load_file(path) if path.is_file() else {}
    except SafetensorError as error:
        raise checks.fail(name, f"{path} is damaged ({error})", "remove the folder, then train again") from None
    if not tensors:
        raise checks.fail(name, f"{path} holds no trained tensors", "remove the folder, then train again")
    if any(not torch.isfinite(t).all() for t in tensors.values()):
        raise checks.fail(name, "it holds NaN or infinite numbers", "train again with a lower train.lr")
    updates = method.updates(tensors, folder)
    zero = sum(not t.any() for t in updates.values())
    if zero == len(updates):
        what = "training changed no layer of the adapter (nothing was learnt)"
        raise checks.fail(name, what, "raise train.lr or train for more steps")
    changed = f"all {len(updates)}" if not zero else f"{len(updates) - zero} of {len(updates)}"
    checks.passed(name, f"{changed} adapter layers changed")


@torch.inference_mode()
def log_probabilities(model: Any, encoder: AnyEncoder, examples: Sequence[Example]) -> torch.Tensor:
    """Log-probabilities of the next token on a few encoded rows; float32 on the CPU, shape (positions, vocabulary)."""
    device = next(model.parameters()).device
    parts = []
    for row in encoder.rows(examples[:PROBE_ROWS]):
        if row.problem:
            continue
        ids = torch.tensor([row.ids[:PROBE_TOKENS]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] :]  # without virtual tokens
        parts.append(F.log_softmax(logits.float(), dim=-1).cpu())
    return torch.cat(parts)


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Mean KL(p || q) over positions, in nats; both are log-probabilities."""
    # abs: rounding can give a small negative number for equal distributions.
    return abs(float(F.kl_div(q.double(), p.double(), log_target=True, reduction="batchmean")))


def tolerance(*precisions: str) -> tuple[float, str]:
    """The largest tolerance among the types of base, quantisation and export, and the name of that type.

    fp8 is not among them, since only training uses it.
    """
    name = max((p for p in precisions if p in TOLERANCE), key=TOLERANCE.__getitem__)
    return TOLERANCE[name], name


def merged_equals_adapter(
    adapter: torch.Tensor, merged: torch.Tensor, base: torch.Tensor, allowed: tuple[float, str], checks: Checks,
    note: str = "", is_required: bool = True,
) -> None:  # fmt: skip
    """Checks that the merged model equals base + adapter up to rounding, and differs from the base.

    Args:
        adapter, merged, base: log-probabilities. allowed: of `tolerance`. note: how they were computed, if not usual.
        is_required: a larger difference is an error; otherwise a warning, for a merge that cannot be exact.

    Raises:
        UserError: the divergence is above the tolerance, or the adapter changes nothing.
    """
    name = "merged = base + adapter"
    error, change = divergence(adapter, merged), divergence(adapter, base)
    result = (
        f"difference {small(error, 2)}, limit {small(allowed[0])} in {allowed[1]} (KL a token; the base differs by "
        f"{small(change, 2)}){note}"
    )
    if not is_required and allowed[0] < error < math.inf and change > 0:
        checks.done[name] = result + ". Above the limit: the model does not answer exactly as trained"
        say(f"export: WARNING: {result}. Set export.merge_into=dequantized to get what was trained")
        return
    if not error <= allowed[0]:
        raise checks.fail(name, result, "set export.dtype=fp32, and report this with your config")
    if change <= 0:
        raise checks.fail(name, result + ". The adapter changes nothing", "raise train.lr or train for more steps")
    if error > 0.5 * change and is_required:
        fix = "set export.dtype=fp32, or train longer"
        raise checks.fail(name, result + ". Rounding removes what was learnt", fix)
    checks.passed(name, result, "merge")


def weights_have_learnt(tuned: torch.Tensor, base: torch.Tensor, checks: Checks) -> None:
    """Checks that the tuned model's log-probabilities are finite and differ from the base's.

    Raises:
        UserError: they fail.
    """
    name = "weights changed"
    change = divergence(tuned, base)
    if not torch.isfinite(tuned).all():
        raise checks.fail(name, "it gives NaN or infinite numbers", "train again with a lower train.lr")
    if change <= 0:
        what = "the trained model equals the base: nothing was learnt"
        raise checks.fail(name, what, "raise train.lr or train for more steps")
    checks.passed(name, f"training changed the model (KL {small(change, 2)} a token from the base)")


def change_survives(
    folder: Path, base: Mapping[str, torch.Tensor], dtype: torch.dtype, checks: Checks, name: str
) -> None:
    """Checks that rounding to the export's type, r, changes trained weights by at most half as much as training did:

        |r(W) - W| / |W - W0| <= 0.5

    A step of bf16 is 0.4 % of a number, which can be more than training changed it.

    Args:
        folder: of the adapter, W in float32. base: W0 by the same names. name: of the type.

    Raises:
        UserError: it changes them by more.
    """
    error, change = 0.0, 0.0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for tensor in file.keys():  # noqa: SIM118  (no dict)
                before, after = base.get(tensor), file.get_tensor(tensor)
                if before is not None and before.shape == after.shape:
                    after = after.to(before.device).float()
                    error += float((after.to(dtype).float() - after).square().sum(dtype=torch.float64))
                    change += float((after - before.float()).square().sum(dtype=torch.float64))
    if not change:
        return  # nothing was learnt: reported by another check
    share = (error / change) ** 0.5
    result = f"rounding to {name} moves the weights by {share:.2g} of what training moved them by"
    if share > 0.5:
        fix = "set export.dtype=fp32, or train longer"
        raise checks.fail("rounding", result + ". That removes what was learnt", fix)
    checks.passed("rounding", result)


def reload_equals_merged(
    merged: torch.Tensor,
    reloaded: torch.Tensor,
    checks: Checks,
    passed: str = "stock transformers loads the export and gives the same logits",
) -> None:
    """Checks that the model loaded from the export's folder equals the model that was saved.

    Args:
        merged, reloaded: log-probabilities. passed: result when it passes.

    Raises:
        UserError: it does not.
    """
    name = "reload"
    error = divergence(merged, reloaded) if merged.shape == reloaded.shape else float("inf")
    if not error <= 1e-6:
        what = f"the export, loaded again, differs from the model that was saved (KL {small(error, 2)} a token)"
        raise checks.fail(name, what, "check the disk, then export again")
    checks.passed(name, passed)


def tensors_as_merged(changed: Sequence[str], count: int, checks: Checks, how: str) -> None:
    """Checks that the export holds, loaded again, the bits that the merge computed.

    Args:
        changed: names of tensors that differ. count: of all tensors. how: what loaded them.

    Raises:
        UserError: some differ.
    """
    if changed:
        what = (
            f"{len(changed)} of {count} tensors of the export, loaded again, are not those that were merged, such as "
        )
        raise checks.fail("reload", what + changed[0], "check the disk, then export again")
    checks.passed("reload", f"{how}: all {count} tensors are, bit by bit, those that were merged")


def tokenizer_agrees(tokenizer: Any, encoder: AnyEncoder, examples: Sequence[Example], checks: Checks) -> None:
    """Checks that the reloaded tokenizer gives training's ids for prompts, as text and by its chat template.

    Raises:
        UserError: naming the first prompt with other ids.
    """
    name = "tokenizer and chat template"
    why, tried = disagreement(tokenizer, encoder, examples)
    if why:
        raise checks.fail(name, why, REPORT)
    checks.passed(name, f"tokenizer and chat template give the ids of training ({tried} prompts)")


def end_token(folder: Path, encoder: AnyEncoder, checks: Checks) -> None:
    """Checks that generation from a merged export stops at the end token of the training.

    Raises:
        UserError: generation_config.json or config.json names another one.
    """
    name, wanted = "end token", encoder.end_id
    for file in ("generation_config.json", "config.json"):
        settings = read_json(folder / file)
        if isinstance(settings, dict) and (end := settings.get("eos_token_id")) != wanted:
            raise checks.fail(name, f"{file} stops at {end}, training's end token is {wanted}", REPORT)
    checks.passed(name, f"the export stops at {encoder.tokenizer.token(wanted)}, as trained")


def answers_stop(
    measured: MeasuredModel, examples: Iterable[Example], least: float, checks: Checks, in_training: Mapping[str, int]
) -> None:
    """Measures how many greedy answers end with the end token, on the rows with the shortest references.

    Fewer than `least` make the export unfinished (`Checks.unfinished`), unless they did end after training: then the
    export is at fault.

    Args:
        least: share of the answers that should. in_training: `count` and `of` of the probe at the end of training.

    Raises:
        UserError: they ended in training and do not in the export.
    """
    name = "answers stop"
    chosen = heapq.nsmallest(EOS_PROBES, examples, key=lambda e: len(e.output))
    longest = max(len(ids) for ids in measured.encoder.tokenizer.encode([e.output for e in chosen]))
    limit = 2 * longest + 32
    answers = measured.answers(chosen, limit, "do answers end")
    stopped = sum(a.stopped for a in answers)
    result = f"{stopped} of {len(answers)} answers end by themselves within {limit} tokens"
    if stopped / len(answers) >= least:
        checks.passed(name, result)
        return
    count, of = in_training.get("count", 0), in_training.get("of", 0)
    if of >= FEWEST_PROBES and count / of >= least and 2 * stopped / len(answers) < count / of:
        raise checks.fail(name, f"{result}, but {count} of {of} did at the end of training", REPORT)
    checks.done[name] = f"{result} (unfinished: export.min_eos asks for {least:.0%})"
    checks.unfinished = {"stopped": stopped, "of": len(answers), "limit": limit, "wanted": least}
