"""Evaluation while training: held-out loss, loss on general text, and sample answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Eval
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.answers import answer
from pipeline.evaluation.general import LOOK, general_loss, general_windows
from pipeline.evaluation.measure import held_out_loss
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.tokens import Tokens
from pipeline.run.progress import say
from pipeline.run.width import WIDTH, clipped

SAMPLES = 2  # held-out rows that are answered
SAMPLE_TOKENS = 48


class PeriodicEval:
    """What is measured, read once.

    Args:
        val: held-out rows. rows: how many of them. dataset: folder of the data stage. longest: tokens of a window.

    Attributes:
        labelled_rows: number of the measured rows that have a labelled token; with 0 the held-out loss is NaN.

    Raises:
        UserError: the general text cannot be read.
    """

    def __init__(
        self, model: Any, encoder: AnyEncoder, val: Tokens, rows: int, dataset: Path, settings: Eval, longest: int
    ) -> None:
        self.model, self.encoder, self.val, self.rows = model, encoder, val, range(min(rows, len(val)))
        self.labelled_rows = int((val.labelled[: len(self.rows)] > 0).sum())
        self.examples = list(read_examples(dataset, "val", SAMPLES))
        self.windows = general_windows(settings, encoder, longest, LOOK)
        self.max_new_tokens = min(settings.max_new_tokens, SAMPLE_TOKENS)

    def measure(self, step: int) -> dict[str, Any]:
        """The line for metrics.jsonl; prints a summary."""
        line: dict[str, Any] = {"step": step}
        summary = []
        if len(self.val):
            line["val_loss"] = held_out_loss(self.model, self.val, self.rows)
            summary.append(f"held-out loss {line['val_loss']:.3f}")
        if self.windows:
            line["general_loss"] = general_loss(self.model, self.windows)["loss"]
            summary.append(f"general text loss {line['general_loss']:.3f}")
        if self.examples:
            answers = answer(self.model, self.encoder, self.examples, self.max_new_tokens, "sample answers")
            line["samples"] = [{"instruction": a.instruction, "expected": a.expected, "said": a.text} for a in answers]
        if summary:
            say(f"train: step {step}: {', '.join(summary)}")
        if self.examples:
            asked, answered = (clipped(text, WIDTH - 9) for text in (answers[0].instruction, answers[0].text))
            say(f"       > {asked}\n         {answered}")
        return line


def losses_of(line: dict[str, Any]) -> dict[str, float]:
    """The losses of a line, for trackers."""
    return {name: line[name] for name in ("val_loss", "general_loss") if name in line}
