"""Questions to several adapters of one base, answered in one batch.

    rows        one: x1     base: x2     two: x3
    base        W x1        W x2         W x3           one pass for all rows
    adapter   + B1 A1 x1                + B2 A2 x3      each row's own

This is peft's mixed-batch inference (`adapter_names`). It exists for LoRA and rsLoRA; not for DoRA, whose norm belongs
to the whole layer, nor for new tokens, IA3 and virtual tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config.adapter_name import BASE
from pipeline.evaluation.answers import text_of
from pipeline.model.generate import greedy
from pipeline.model.load import context_length
from pipeline.model.run_base import RunBase
from pipeline.run.errors import UserError, one_line
from pipeline.run.next_command import next_command
from pipeline.serving.questions import AdapterQuestion
from pipeline.store.folder import Store
from pipeline.store.load import add_adapters, encoder_of_record, verified_record
from pipeline.store.untrusted import inspect


@dataclass(frozen=True)
class Reply:
    """text: without the end token. stopped: it ended with the end token."""

    text: str
    stopped: bool


class MixedModel:
    """A base with several adapters.

    Attributes:
        model: the base, or a PeftModel with all adapters.
        peft_names: peft's name of each adapter, `__base__` for the base.
        encoders: of each adapter, with the template of its training, and of the base.

    Raises:
        UserError: an adapter is not in the store, belongs to another base, or cannot be mixed; or the base cannot.
    """

    def __init__(self, base: RunBase, store: Store, adapters: Sequence[str]) -> None:
        own = base.encoder
        names = [name for name in dict.fromkeys(adapters) if name != BASE]
        self.encoders = {BASE: own}
        if names:
            identity = base.fingerprint()
            for name in names:
                record = verified_record(store, name, identity, own.tokenizer.hash)
                _check_mixable(store, name, record["method"])
                self.encoders[name] = encoder_of_record(own, record, name)
        self.model = base.load()
        self.peft_names = {BASE: "__base__", **{name: f"a{i}" for i, name in enumerate(names)}}
        self.mixes = bool(names)
        if names:
            self.model = add_adapters(self.model, store, names)
            _try_mixing(self.model, names[0])

    def answer(self, questions: Sequence[AdapterQuestion], max_new_tokens: int) -> list[Reply]:
        """Greedy answers, in the order of the questions; a batch has questions to different adapters.

        Raises:
            UserError: a question leaves no room for an answer.
        """
        prompts = [self.encoders[q.adapter].prompt(q.instruction, q.input) for q in questions]
        longest = context_length(self.model.config) or sys.maxsize
        for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True), 1):
            if len(prompt) >= longest:
                what = f"{len(prompt):,} tokens are too long for this model: it sees {longest:,}, its answer included"
                where = f"line {question.line}" if question.line else f"question {number}"
                raise UserError(what, where, "shorten the question")
        # A batch has one end token and one limit, so questions that differ in them are in different batches.
        ends = [
            (self.encoders[q.adapter].end_id, min(max_new_tokens, longest - len(prompt)))
            for q, prompt in zip(questions, prompts, strict=True)
        ]
        replies: dict[int, Reply] = {}
        for end, room in sorted(set(ends)):
            rows = [i for i, pair in enumerate(ends) if pair == (end, room)]
            names = [self.peft_names[questions[i].adapter] for i in rows] if self.mixes else None
            answers = greedy(
                self.model, [prompts[i] for i in rows], end_id=end, max_new_tokens=room, what="answers", adapters=names
            )
            for i, ids in zip(rows, answers, strict=True):
                replies[i] = Reply(*text_of(self.encoders[questions[i].adapter], ids))
        return [replies[i] for i in range(len(questions))]


@torch.inference_mode()
def _try_mixing(model: Any, name: str) -> None:
    """Runs one pass. peft assigns adapters by the first axis of a layer's input, so that axis must be rows; some bases
    flatten rows to tokens (OPT before its fc1), which fails only in a pass of several tokens a row.

    Raises:
        UserError: the pass failed.
    """
    ids = torch.zeros((2, 2), dtype=torch.long, device=model.device)
    try:
        model(input_ids=ids, adapter_names=["a0", "__base__"], use_cache=False)
    except ValueError as error:
        said = one_line(error, 200)
        what = f"adapters of a base of the kind {model.config.model_type} cannot be mixed in one batch: {said}"
        raise UserError(what, "model.base", f"talk to one at a time: `{next_command('chat', ADAPTER=name)}`") from None


def _check_mixable(store: Store, name: str, method: str) -> None:
    if why := mixing_problem(inspect(store.folder(name)), method):
        fix = f"talk to it alone: `{next_command('chat', ADAPTER=name)}`"
        raise UserError(f"the adapter {name} cannot be mixed with others in one batch: {why}", str(store.root), fix)


def mixing_problem(config: dict[str, Any], method: str) -> str:
    """Why an adapter cannot be mixed with others in one batch; empty if it can. config: `adapter_config.json`."""
    if config.get("peft_type") != "LORA":
        return f"it is of the method {method}"
    if config.get("use_dora"):
        return "it is a DoRA"
    if config.get("trainable_token_indices") or config.get("modules_to_save"):
        return "it brings tokens or layers of its own"
    return ""
