"""Answers in the form that AlpacaEval reads (`alpaca_eval --model_outputs tuned.json --reference_outputs base.json`).

A list of {dataset, instruction, output, generator}, for `load_or_convert_to_dataframe` of alpaca_eval 0.6.6. It
It pairs the two files by `instruction`, its only field for the question: an input stands under the instruction, as its
authors merged the two ("{instruction}\\n\\n{input}", README of tatsu-lab/alpaca_eval, "Differences with AlpacaFarm").
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.comparison.pair import Pair


def merged(instruction: str, input: str) -> str:
    """Both in one text; the instruction alone where there is no input."""
    return f"{instruction}\n\n{input}" if input.strip() else instruction


def outputs(pairs: Sequence[Pair], who: str, generator: str) -> list[dict[str, str]]:
    """The rows of one model. who: `base` or `tuned`. generator: how AlpacaEval's leaderboard calls it."""
    return [
        {
            "dataset": pair.question.set,
            "instruction": merged(pair.question.instruction, pair.question.input),
            "output": (pair.base if who == "base" else pair.tuned).text,
            "generator": generator,
        }
        for pair in pairs
    ]
