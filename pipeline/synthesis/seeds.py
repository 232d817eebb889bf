"""Seed tasks: read, checked, and chosen for each prompt.

For item n the seeds with the smallest hash of (synthesis.seed, n, seed) are shown (rendezvous hashing: Thaler and
Ravishankar 1998). A seed is shown in no item that was asked for before the seed was there: its first item is noted in
the journal. So the prompts of earlier items stay as they are, and their replies are used, when seeds are added.

    seeds A B C, items 0 1 2 3 asked for        D is added: its first item is 4
    item   0 1 2 3   4 5 6 ...
    shows  of A B C  of A B C D
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pipeline.config.data import Source
from pipeline.config.synthesis import Synthesis
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.row import Rejected, check
from pipeline.dataset.read.source import files_of, read
from pipeline.run.errors import UserError
from pipeline.run.object_store import DataFile

KEY = "synthesis.seeds"
FIX = "each seed needs instruction and output, and may have an input (data/seed_tasks.en.jsonl)"


def read_seeds(settings: Synthesis) -> list[Example]:
    """The seed tasks of all files, in order; equal ones once.

    Raises:
        UserError: no file is named, one cannot be read, a seed has an error (with its line), or there are fewer seeds
            than a prompt shows.
    """
    if not settings.seeds:
        raise UserError("no seed tasks are named", KEY, "name a file such as data/seed_tasks.en.jsonl")
    seeds: dict[str, Example] = {}
    wrong: list[Rejected] = []
    for path in settings.seeds:
        source = Source(path=path)
        with _of_seeds():
            for raw in read(source, settings.seed):
                for row in to_alpaca(raw, source):
                    seed = check(row, source)
                    if isinstance(seed, Example) and not seed.output.strip():
                        seed = Rejected("output-empty", "output is empty", row.place, path, row.value)
                    if isinstance(seed, Example):
                        seeds.setdefault(seed.id, seed)
                    else:
                        wrong.append(seed)
    if wrong:
        rest = len(wrong) - 1
        more = f"; {rest:,} more {'has' if rest == 1 else 'have'} errors" if rest else ""
        raise UserError(f"a seed task cannot be used: {wrong[0].reason}{more}", wrong[0].place, FIX)
    if len(seeds) < settings.seeds_per_prompt:
        what = f"{len(seeds)} different seed tasks, and each prompt is to show {settings.seeds_per_prompt}"
        raise UserError(what, "synthesis.seeds_per_prompt", "lower it, or add seeds")
    return list(seeds.values())


def seed_files(settings: Synthesis) -> list[DataFile]:
    """The files of the seeds, for the key of the stage.

    Raises:
        UserError: one does not exist.
    """
    with _of_seeds():
        return [file for path in settings.seeds for file in files_of(Source(path=path))]


@contextmanager
def _of_seeds() -> Iterator[None]:
    """Names `synthesis.seeds` in errors about a source."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, KEY if error.where == "data.sources" else error.where, error.fix) from None


class SeedChoice:
    """The seeds that each item shows.

    Args:
        first_items: the first item that may show a seed, by the seed's id; 0 where it is not named.
    """

    def __init__(self, settings: Synthesis, seeds: Sequence[Example], first_items: Mapping[str, int]) -> None:
        self.start, self.count = settings.seed, settings.seeds_per_prompt
        self._seeds = [(first_items.get(seed.id, 0), seed) for seed in seeds]

    def of(self, number: int) -> list[Example]:
        """The seeds of an item; where too few were there for it, the next ones as well."""
        there = [seed for first, seed in self._seeds if first <= number]
        if len(there) < self.count:
            there = [seed for _, seed in sorted(self._seeds, key=lambda pair: pair[0])[: self.count]]
        return heapq.nsmallest(self.count, there, key=lambda seed: (rank(self.start, number, seed.id), seed.id))


def rank(start: int, number: int, name: str) -> int:
    """A hash of 64 bits: the place of a seed in the order of an item."""
    digest = hashlib.blake2b(f"{start}:{number}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
