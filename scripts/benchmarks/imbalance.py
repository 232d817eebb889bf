"""How evenly the tokens of a step are dealt to ranks:

    python -m scripts.benchmarks.imbalance DATA TOKENIZER [ROWSxRANKS ...]

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. ROWSxRANKS: rows of a step and ranks,
such as 4096x512; without, `BATCH_SIZES` and `WORLDS`. The rows are encoded as a run does
(Alpaca's template, cut at 512), dealt for each step of an epoch, and counted: no model, no GPU. The imbalance of a step
is by how much the rank with the most tokens exceeds the mean; a step takes that much longer than with equal ranks. A
token of a preamble counts once for each pack, as it is computed; here a rank's rows are one pack.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline.command import guarded
from pipeline.config.schema import Train
from pipeline.prompt.pack import Packer
from pipeline.run.errors import UserError
from pipeline.training.rank_rows import deal, imbalance
from pipeline.training.schedule import step_rows, steps_per_epoch
from scripts.benchmarks.bench_train import encoded

WORLDS = (2, 4, 8, 16, 32, 64, 128)
BATCH_SIZES = (128, 512)


def measure(packer: Packer, batch_size: int, world: int) -> tuple[np.ndarray, np.ndarray]:
    """For each step of an epoch: the imbalance in tokens that are computed for rows alone, and in those of whole packs,
    each with its preambles."""
    settings = Train(batch_size=batch_size)
    count = len(packer.tokens)
    costs = packer.tokens.lengths - packer.shared
    whole = steps_per_epoch(count, settings) - bool(count % batch_size)  # the rest of an epoch is a smaller step
    own, packed = [], []
    for step in range(whole):
        rows = step_rows(step, count, settings)
        own.append(imbalance(rows, costs, world))
        sizes = np.array([len(packer.pack(part).ids) for part in deal(rows, costs, world)])
        packed.append(float(sizes.max() / sizes.mean() - 1))
    return np.array(own), np.array(packed)


def main() -> None:
    words = sys.argv[1:]
    pairs = [tuple(map(int, word.split("x"))) for word in words[2:] if re.fullmatch(r"[1-9]\d*x[1-9]\d*", word)]
    if len(words) < 2 or len(pairs) != len(words[2:]) or not Path(words[0]).is_file() or not Path(words[1]).is_dir():
        raise UserError("no data and tokenizer's folder", "DATA TOKENIZER [ROWSxRANKS ...]", "see docs/scaling.md")
    with tempfile.TemporaryDirectory() as folder:
        tokens, preambles = encoded(words[0], words[1], Path(folder))
        packer = Packer(tokens, preambles, 1 << 40)
        print(
            f"{len(tokens):,} rows, {tokens.lengths.mean():.1f} tokens each, {packer.shared.mean():.1f} of them shared"
        )
        print("| rows a step | ranks | steps | mean | worst step | mean of packs | worst step of packs |")
        print("|---:|---:|---:|---:|---:|---:|---:|")
        for batch_size, world in pairs or itertools.product(BATCH_SIZES, WORLDS):
            own, packed = measure(packer, batch_size, world)
            cells = [f"{x:.2%}" for x in (own.mean(), own.max(), packed.mean(), packed.max())]
            print(f"| {batch_size} | {world} | {len(own)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
