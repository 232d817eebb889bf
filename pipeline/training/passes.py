"""The same number of passes on every rank, for models whose passes are messages of all ranks.

    rank 0   [pack][pack][pack]
    rank 1   [pack][pack][ - ]        - : one short row, whose loss is multiplied with 0

Ranks split their rows into different numbers of micro-batches; some have none in a step with fewer rows than ranks.
Every rank knows the rows of all ranks, so it computes the largest number without a message.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.prompt.tokens import Tokens
from pipeline.training.micro_batches import MicroBatch, MicroBatches
from pipeline.training.rank_rows import deal

Pass = tuple[MicroBatch, float]  # and what its loss is multiplied with


class EvenPasses:
    """The passes of a rank.

    Args:
        path: that splits rows. tokens: of the training rows. rank, world: of this process.
    """

    def __init__(self, path: MicroBatches, tokens: Tokens, rank: int, world: int) -> None:
        self.path, self.rank, self.world = path, rank, world
        lengths = np.where(tokens.labelled[:] > 0, tokens.lengths, np.iinfo(np.int64).max)
        self.filler = int(lengths.argmin())  # the shortest row that is computed at all

    def of_step(self, rows: Sequence[int], step: int) -> list[Pass]:
        """The passes of this rank for a step, as many as any rank has. rows: of all ranks."""
        dealt = deal(rows, self.path.costs, self.world) if self.world > 1 else [list(rows)]
        most = max(self.path.count(part) for part in dealt)
        passes: list[Pass] = [(part, 1.0) for part in self.path.split(dealt[self.rank], step)]
        passes = [one if one[0].has_targets else (self._filler(), 0.0) for one in passes]
        return passes + [(self._filler(), 0.0) for _ in range(most - len(passes))]

    def _filler(self) -> MicroBatch:
        return self.path.split([self.filler])[0]
