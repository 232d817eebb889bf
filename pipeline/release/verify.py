"""Checks that an export must pass: each stops it with its own name."""

from __future__ import annotations

import heapq
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
from pipeline.prompt.encode import Encoder
from pipeline.run.errors import UserError
from pipeline.run.progress import say

# Mean KL divergence, in nats a token, that rounding alone may cause between adapter and merged weights. int8 rounds
# activations too, which the merged model does not.
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-2, "fp16": 1e-3, "nf4": 1e-4, "int8": 5e-3}
PROBE_ROWS = 4
PROBE_TOKENS = 128
EOS_PROBES = 16
REPORT = "report this with your config"


@dataclass
class Checks:
    """What was checked, with what came out; `fail` stops the export."""

    done: dict[str, str] = field(default_factory=dict)

    def passed(self, name: str, said: str) -> None:
        self.done[name] = said
        say(f"export: {name}: {said}")

    @staticmethod
    def fail(name: str, said: str, fix: str) -> UserError:
        return UserError(f"the export failed its check {name!r}: {said}; nothing was exported", "export", fix)


def adapter_has_learnt(folder: Path, method: Method, checks: Checks) -> None:
    """The saved adapter holds tensors, finite, and not all of them what they were at the start.

    Raises:
        UserError: it does not.
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
        what = "all of it is what it was at the start: nothing was learnt"
        raise checks.fail(name, what, "raise train.lr or train for more steps")
    checks.passed(name, f"{len(tensors)} tensors, {len(updates) - zero} of {len(updates)} updates not as at the start")


@torch.inference_mode()
def log_probabilities(model: Any, encoder: Encoder, examples: Sequence[Example]) -> torch.Tensor:
    """Next-token log-probabilities over a few encoded rows, float32 on the CPU, shape (positions, vocabulary)."""
    device = next(model.parameters()).device
    found = []
    for row in encoder.rows(examples[:PROBE_ROWS]):
        ids = torch.tensor([row.ids[:PROBE_TOKENS]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] :]  # not of virtual tokens in front
        found.append(F.log_softmax(logits.float(), dim=-1).cpu())
    return torch.cat(found)


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Mean KL(p || q) over positions, in nats; both are log-probabilities."""
    # Between equal distributions rounding can leave a number just below zero.
    return abs(float(F.kl_div(q.double(), p.double(), log_target=True, reduction="batchmean")))


def tolerance(*precisions: str) -> tuple[float, str]:
    """The largest of the precisions that took part (of training, of quantising, of the export), and its name.

    fp8 takes no part: the base is put into it while training alone.
    """
    name = max((p for p in precisions if p in TOLERANCE), key=TOLERANCE.__getitem__)
    return TOLERANCE[name], name


def merged_equals_adapter(
    adapter: torch.Tensor, merged: torch.Tensor, base: torch.Tensor, allowed: tuple[float, str], checks: Checks
) -> None:
    """The merged weights say what base + adapter say, and not what the base says.

    Raises:
        UserError: the divergence exceeds what rounding explains, or the adapter changes nothing.
    """
    name = "merged = base + adapter"
    off, learnt = divergence(adapter, merged), divergence(adapter, base)
    said = f"KL {off:.1e} a token (allowed {allowed[0]:.0e} in {allowed[1]}; the base is {learnt:.1e} away)"
    if not off <= allowed[0]:
        raise checks.fail(name, said, "export with export.dtype=fp32, and report this with your config")
    if learnt <= 0:
        raise checks.fail(name, said + ": the adapter changes nothing", "raise train.lr or train for more steps")
    if off > 0.5 * learnt:
        fix = "export with export.dtype=fp32, or train longer"
        raise checks.fail(name, said + ": rounding ate what was learnt", fix)
    checks.passed(name, said)


def weights_have_learnt(tuned: torch.Tensor, base: torch.Tensor, checks: Checks) -> None:
    """A model of which every weight was trained says something, and something else than the base.

    Raises:
        UserError: it does not.
    """
    name = "weights changed"
    learnt = divergence(tuned, base)
    if not torch.isfinite(tuned).all():
        raise checks.fail(name, "it gives NaN or infinite numbers", "train again with a lower train.lr")
    if learnt <= 0:
        what = "the trained model says what the base says: nothing was learnt"
        raise checks.fail(name, what, "raise train.lr or train for more steps")
    checks.passed(name, f"the base is KL {learnt:.1e} a token away")


def change_survives(
    folder: Path, base: Mapping[str, torch.Tensor], dtype: torch.dtype, checks: Checks, name: str
) -> None:
    """Weights that were trained themselves are moved less by rounding them to the export's type r than by training:

        |r(W) - W| / |W - W0|

    Steps of bf16 are 0.4 % of a number, more than a gain or a weight may have moved.

    Args:
        folder: of the adapter, W in float32. base: W0 by the same names. name: of the type.

    Raises:
        UserError: it is more than half as much.
    """
    off, whole = 0.0, 0.0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for tensor in file.keys():  # noqa: SIM118  (no dict)
                before, after = base.get(tensor), file.get_tensor(tensor)
                if before is not None and before.shape == after.shape:
                    after = after.to(before.device).float()
                    off += float((after.to(dtype).float() - after).square().sum(dtype=torch.float64))
                    whole += float((after - before.float()).square().sum(dtype=torch.float64))
    if not whole:
        return  # nothing was learnt, which another check says
    share = (off / whole) ** 0.5
    said = f"rounding to {name} moves the weights by {share:.2g} of what training moved them by"
    if share > 0.5:
        fix = "export with export.dtype=fp32, or train longer"
        raise checks.fail("rounding", said + ": it eats what was learnt", fix)
    checks.passed("rounding", said)


def reload_equals_merged(
    merged: torch.Tensor,
    reloaded: torch.Tensor,
    checks: Checks,
    passed: str = "stock AutoModelForCausalLM gives the merged model's logits",
) -> None:
    """What is loaded from the folder, as its card says, is what was to be exported.

    Raises:
        UserError: it is not.
    """
    name = "reload"
    same = merged.shape == reloaded.shape
    off = divergence(merged, reloaded) if same else float("inf")
    if not off <= 1e-6:
        what = f"the saved weights are not those that were to be exported (KL {off:.1e})"
        raise checks.fail(name, what, "check the disk, then export again")
    checks.passed(name, passed)


def tokenizer_agrees(tokenizer: Any, encoder: Encoder, examples: Sequence[Example], checks: Checks) -> None:
    """The exported tokenizer, reloaded, gives training's ids for prompts, as text and through the chat template.

    Raises:
        UserError: naming the first prompt that differs.
    """
    name = "tokenizer and chat template"
    why, tried = disagreement(tokenizer, encoder, examples)
    if why:
        raise checks.fail(name, why, REPORT)
    checks.passed(name, f"same ids as in training for {tried} prompts")


def answers_stop(measured: MeasuredModel, examples: Iterable[Example], least: float, checks: Checks) -> None:
    """Greedy answers end with the end token. Asked are the rows with the shortest references, so that it stays quick.

    Raises:
        UserError: fewer than the wanted share do.
    """
    name = "answers stop"
    chosen = heapq.nsmallest(EOS_PROBES, examples, key=lambda e: len(e.output))
    longest = max(len(ids) for ids in measured.encoder.tokenizer.encode([e.output for e in chosen]))
    limit = 2 * longest + 32
    answers = measured.answers(chosen, limit, "do answers stop")
    share = sum(a.stopped for a in answers) / len(answers)
    result = f"{share:.0%} of {len(answers)} answers end by themselves within {limit} tokens"
    if share < least:
        fix = "train longer, or check the cutoff (cut rows teach no end); export.min_eos=0 only reports"
        raise checks.fail(name, f"{result}, wanted are {least:.0%}", fix)
    checks.passed(name, result)
