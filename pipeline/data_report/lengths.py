"""How long rows and answers are: histograms and quantiles, in tokens, or in characters where nothing was tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pages.charts import round_up
from pipeline.prompt.tokens import Tokens

Numbers = NDArray[np.int64]

BARS = 60  # most bars of a histogram
QUANTILES = (5, 25, 50, 75, 95)


@dataclass
class SplitLengths:
    """Lengths of the rows of a split, in the order of its file, in characters or tokens.

    Attributes:
        sources: number of each row's source. whole, answer: lengths of the row and of its answer.
    """

    name: str
    ids: list[str] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)

    def add(self, id: str, source: int, whole: int, answer: int) -> None:
        self.ids.append(id)
        self.sources.append(source)
        self.whole.append(whole)
        self.answer.append(answer)

    def measure(self, tokens: Tokens) -> None:
        """Replaces characters by tokens, and drops rows that the tokens stage left out."""
        encoded: list[int] = []
        kept = tokens.without_parts()
        names = tokens.names_of(kept)
        row = 0
        for name in names:
            while self.ids[row] != name:
                row += 1
            encoded.append(row)
            row += 1
        self.ids = names
        self.sources = [self.sources[i] for i in encoded]
        self.whole, self.answer = tokens.lengths[kept].tolist(), tokens.labelled[kept].tolist()


def lengths(splits: Sequence[SplitLengths], sources: Sequence[str], cutoff: int | None) -> dict[str, Any]:
    """Histograms over all splits, and quantiles by split and source. `cutoff` is None for characters."""
    whole = np.array([n for split in splits for n in split.whole], np.int64)
    answer = np.array([n for split in splits for n in split.answer], np.int64)
    groups = []
    for split in splits:
        owner = np.array(split.sources, np.int64)
        for number in np.unique(owner).tolist():
            mine = owner == number
            groups.append(
                {
                    "part": split.name,
                    "source": sources[number],
                    "rows": int(mine.sum()),
                    "row": quantiles(np.array(split.whole, np.int64)[mine]),
                    "answer": quantiles(np.array(split.answer, np.int64)[mine]),
                }
            )
    return {
        "unit": "characters" if cutoff is None else "tokens",
        "cutoff": cutoff,
        "row": histogram(whole, cutoff),
        "answer": histogram(answer, cutoff),
        "groups": groups,
    }


def histogram(values: Numbers, cutoff: int | None = None) -> dict[str, Any]:
    """Counts in bars of equal, round width; `over` counts what lies beyond the last bar.

    The bars end with the cutoff where rows come near it, otherwise where all but the longest 0.5 % of rows end, or
    earlier if those are of another kind than the rest.
    """
    if not len(values):
        return {"width": 1, "counts": [], "over": 0, "rows": 0, "sum": 0, "quantiles": {}, "longest": 0}
    longest = int(values.max())
    near_all, most = np.quantile(values, (0.995, 0.75))
    edge = longest if cutoff is not None and longest >= 0.6 * cutoff else int(min(near_all, 10 * most + 10))
    width = int(round_up(max(edge / BARS, 1)))
    bars = min(max(edge, 1) // width + 1, -(-(longest + 1) // width))
    counts = np.bincount(np.minimum(values // width, bars), minlength=bars + 1)
    return {
        "width": width, "counts": counts[:bars].tolist(), "over": int(counts[bars]), "rows": len(values),
        "sum": int(values.sum()), "quantiles": quantiles(values), "longest": longest,
    }  # fmt: skip


def quantiles(values: Numbers) -> dict[str, float]:
    """5th to 95th percentile, `p5` to `p95`."""
    percentiles = np.percentile(values, QUANTILES) if len(values) else [0] * len(QUANTILES)
    return {f"p{q}": round(float(v), 1) for q, v in zip(QUANTILES, percentiles, strict=True)}
