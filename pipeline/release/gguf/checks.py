"""Checks of a GGUF file against the checkpoint that it was written from.

The model is read back by transformers, which has its own table of names and turns the rows of q_proj and k_proj back
itself; the tokenizer by `reader.py`; llama.cpp itself is the client in the tests.
"""

from __future__ import annotations

import contextlib
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from pipeline.evaluation.measure import row_sums
from pipeline.model.base.gguf import load_model
from pipeline.model.generate import greedy
from pipeline.model.precision import device
from pipeline.prompt.tokens import Tokens
from pipeline.release.gguf.reader import tokenizer_of
from pipeline.release.verify import REPORT, Checks

# Largest difference of the mean negative log-likelihood of a labelled token, in nats. Measured on SmolLM2-135M:
# f16 0.0000, q8_0 0.0003, q4_k_m 0.06 (775 tokens).
TOLERANCE = {"f16": 0.01, "bf16": 0.01, "q8_0": 0.02, "q4_k_m": 0.25}
EXACT = ("f16", "bf16")  # types whose greedy answers must be those of the checkpoint
ROWS, ANSWERS, NEW_TOKENS = 20, 4, 24
TIE = 0.05  # nats between the two most likely tokens, within which rounding may swap them


@dataclass(frozen=True)
class Probe:
    """What is measured on both models. tokens: of a split; its first rows are taken. prompts: ids of each."""

    tokens: Tokens
    prompts: Sequence[Sequence[int]]
    end_id: int

    @property
    def rows(self) -> range:
        return range(min(ROWS, len(self.tokens)))


@dataclass(frozen=True)
class Behaviour:
    """nll: mean of -log p over labelled tokens, in nats. count: of these tokens. answers: new ids of each prompt."""

    nll: float
    count: int
    answers: list[list[int]]


def behaviour(model: Any, probe: Probe, what: str) -> Behaviour:
    """Measures a model. what: its name in the progress bar."""
    sums, counts = row_sums(model, probe.tokens, probe.rows, f"{what}: log-likelihood")
    answers = greedy(
        model, probe.prompts, end_id=probe.end_id, max_new_tokens=NEW_TOKENS, what=f"{what}: answers"
    )  # fmt: skip
    return Behaviour(sum(sums) / max(1, sum(counts)), sum(counts), answers)


def load(path: Path, dtype: torch.dtype, checkpoint: Path) -> Any:
    """The model of the file on the device.

    transformers reads no scaled RoPE from GGUF: for such a model its parameters come from the checkpoint.
    """
    shape, options = AutoConfig.from_pretrained(checkpoint, local_files_only=True), {}
    if shape.rope_parameters["rope_type"] != "default":
        options["config"] = shape
    with contextlib.redirect_stderr(io.StringIO()):  # its own progress bar
        return load_model(path, dtype, **options).to(device()).eval()


def check_model(model: Any, kind: str, wanted: Behaviour, given: Behaviour, probe: Probe, checks: Checks) -> None:
    """Checks that the file's model is the checkpoint's.

    Args:
        kind: of the file. wanted, given: of the checkpoint, of the file.

    Raises:
        UserError: log-likelihoods or, without quantisation, greedy answers differ.
    """
    difference, limit = abs(given.nll - wanted.nll), TOLERANCE[kind]
    equal = sum(a == b for a, b in zip(wanted.answers, given.answers, strict=True))
    result = (
        f"-log p a token {given.nll:.4f}, checkpoint {wanted.nll:.4f} (limit {limit:g} in {kind}; {given.count:,} "
        f"tokens); {equal} of {len(wanted.answers)} greedy answers are equal"
    )
    if not difference <= limit:
        raise checks.fail("GGUF", result, "set export.gguf=f16, and report this with your config")
    ties = 0
    for prompt, a, b in zip(probe.prompts, wanted.answers, given.answers, strict=True):
        if kind in EXACT and a != b:
            if _gap(model, prompt, a, b) > TIE:
                raise checks.fail("GGUF", result, REPORT)
            ties += 1
    checks.passed("GGUF", result + (f", {ties} differ from a tie of two tokens on" if ties else ""))


@torch.inference_mode()
def _gap(model: Any, prompt: Sequence[int], wanted: Sequence[int], given: Sequence[int]) -> float:
    """By how many nats the file's model prefers its own token where two answers first differ."""
    at = next((i for i, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b), None)
    if at is None:
        return float("inf")
    ids = torch.tensor([[*prompt, *given[:at]]], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    return float(logits[given[at]] - logits[wanted[at]])


def check_tokenizer(
    keys: dict[str, Any], pairs: Sequence[tuple[str, list[int]]], special: bool, end_id: int, checks: Checks
) -> None:
    """Checks that the file's tokenizer gives training's ids for prompts, and that it ends answers where training did.

    llama.cpp does not normalise text, so rows that are not in NFC may differ where the tokenizer has a normaliser.

    Args:
        keys: of the file. pairs: prompts as text, and their ids. special: whether they spell special tokens.

    Raises:
        UserError: naming the first prompt with other ids.
    """
    name, encode = "GGUF tokenizer", tokenizer_of(keys, special)
    compared = 0
    for text, ids in pairs:
        if not unicodedata.is_normalized("NFC", text):
            continue
        if encode(text) != ids:
            what = f"llama.cpp would give other ids than training for {text[-60:]!r}"
            raise checks.fail(name, what, f"remove gguf from export.formats, and {REPORT}")
        compared += 1
    if (end := keys["tokenizer.ggml.eos_token_id"]) != end_id:
        raise checks.fail(name, f"its end token is {end}, training's is {end_id}", REPORT)
    left_out = len(pairs) - compared
    note = f"; {left_out} prompts that are not in NFC were left out" if left_out else ""
    checks.passed(name, f"ids and end token are those of training ({compared} prompts){note}")
