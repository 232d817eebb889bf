"""A look at the model once in a while: held-out loss, loss on general text, two sample answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.answers import answer
from pipeline.evaluation.general import LOOK, general_loss, general_windows, seen_by
from pipeline.evaluation.measure import held_out_loss
from pipeline.prompt.encode import Encoder
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.run.progress import say


class Look:
    """What is looked at, read once.

    Raises:
        UserError: the general text cannot be read.
    """

    def __init__(self, model: Any, config: Config, run: Run, encoder: Encoder, val: Tokens) -> None:
        self.model, self.encoder, self.val, self.config = model, encoder, val, config
        self.examples = list(read_examples(run.folder("dataset"), "val", 2))
        self.general = general_windows(config.eval, encoder, seen_by(model, config), LOOK)

    def at(self, step: int) -> dict[str, Any]:
        """The line for metrics.jsonl; also said."""
        line: dict[str, Any] = {"step": step}
        told = []
        if len(self.val):
            rows = range(min(self.config.train.eval_rows, len(self.val)))
            line["val_loss"] = held_out_loss(self.model, self.val, rows)
            told.append(f"held-out loss {line['val_loss']:.3f}")
        if self.general:
            line["general_loss"] = general_loss(self.model, self.general)["loss"]
            told.append(f"general text {line['general_loss']:.3f}")
        if self.examples:
            limit = min(self.config.eval.max_new_tokens, 48)
            said = answer(self.model, self.encoder, self.examples, limit, "sample answers")
            line["samples"] = [{"instruction": a.instruction, "expected": a.expected, "said": a.text} for a in said]
            told.append(_short(line["samples"]))
        if told:
            say(f"train: step {step}: {' | '.join(told)}")
        return line


def losses_of(line: dict[str, Any]) -> dict[str, float]:
    """The losses of a line, as trackers take them."""
    return {name: line[name] for name in ("val_loss", "general_loss") if name in line}


def _short(samples: Sequence[dict[str, str]]) -> str:
    def clip(text: str) -> str:
        flat = " ".join(text.split())
        return flat if len(flat) <= 50 else flat[:47] + "..."

    return " | ".join(f"{clip(s['instruction'])} -> {clip(s['said'])}" for s in samples[:1])
