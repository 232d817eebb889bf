"""Finds training rows that hold a question of a benchmark.

A question is searched for by its n-grams of three words (six letters in scripts such as Hangul) that few other
questions have. Where a row has enough of them at about the same distances, the question is compared with that place:

    question  about how long does it take Earth to make a complete revolution around the Sun?
    row             how long does it take earth to make one complete orbit around the sun? It takes ...
    common    12 of 15 words, and 7.5 of 9 by weight; the weight of a COMMON word is a quarter

The score is the smaller share, here 0.8. A short question must occur as a whole, and an unspecific text ("Which of
these is true?", "The heart has") counts only together with one of its answers.

Measured with the 19,407 questions of ARC, HellaSwag (1,000), MMLU and TruthfulQA: 94.6 % of them are searched for by
themselves, 5.2 % only with an answer, and 0.2 % not at all.

- Recall, each question inserted into a row: 100 % of the first kind, unchanged, in other case and punctuation, with
  choices, across fields, in a quiz or a long row. Of the second kind 100 % with their choices, 97 % with only the right
  answer, 0 % without answers. With one word replaced 98.8 % of long questions, with two 86 %; of short ones few.
- Precision: 11 of the 52,002 Alpaca rows are found, and reading confirmed all 11; but THRESHOLD_STATED, ENOUGH and
  SHORT were chosen after reading hits in these rows, so this is not an estimate for other data. On 24,987 texts that
  no constant was chosen on (LAMBADA, both instruction sets of self-instruct, MMLU against the others and back): no hit.
- Known false positives: a long question that differs in one name ("in India", "in Brazil"), and other questions about
  the same long passage. Between the halves of MMLU 299 of 384 hits are inexact; nearly all of the 60 that were read are
  such questions, so precision is low on rows made from another subset of the same benchmark.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.read.benchmark import BenchmarkQuestion
from pipeline.dataset.select import text_units
from pipeline.dataset.select.ngram_index import Flags, NgramIndex, Numbers, lcs_mask
from pipeline.dataset.select.ragged import first_of_groups
from pipeline.dataset.select.text_units import Hashes
from pipeline.run.width import excerpt

Match = tuple[int, int, float]  # row, entry, score

# Pairs: for words, and for scripts whose unit is a letter.
NGRAM = (3, 6)
"""Units in an n-gram: a question of ten words with two changed still has at least two such n-grams."""
LONG = (10, 20)
"""Units of a long question, `CONTENT` of them not COMMON, which is also found if it is changed a little. A changed word
makes a shorter one another question: "What is the most popular sport in Japan?"."""
CONTENT = 5
THRESHOLD, THRESHOLD_STATED = 0.8, 0.85
"""Least score of a long question; the second for text without a question mark (HellaSwag, the incomplete sentences of
MMLU), which is more similar to ordinary prose."""
SHORT = (4, 9)
"""Units of a short text with a question mark that is searched for by itself, two of them not COMMON ..."""
STATED = (8, 10)
"""... and of one without, three of them not COMMON: "The Voting Rights Act of 1965" is not a question."""
SEEN = 0.2
"""Share of its n-grams that must match before a long question is compared unit by unit."""
SLACK = 8
"""Most units that may be inserted or missing in a question."""
ENOUGH = 3
"""Units that are not COMMON in a text and an answer together, so that the pair is specific."""
GAP = 3
"""Most units between a short text and the answer after it, such as `A.` or `Answer:`."""
SAME_TEXT = 64
"""Most questions with one short text that are distinguished by their answers."""
METHOD = {
    "words_in_a_run": NGRAM[0],
    "letters_in_a_run": NGRAM[1],
    "least_score": THRESHOLD,
    "of_statements": THRESHOLD_STATED,
}
"""The settings of the search in the report."""

_COMMON = """
    a about according after all also always among an and any are as at be because been being best between both but by
    called can choose could correct correctly describe described describes did do does done during each either
    example examples except explain explains false find following follows for from give given had has have he her his
    how i if in incorrect into is it its known least less likely made make many may me more most much must my name no
    not of often on one only or other our out pick question refer refers s same select she should so some statement
    statements such t term than that the their them then there these they this those to true two type types under up us
    use used using usually was we were what when where which while who whom whose why will with would you your
"""
COMMON = frozenset(_COMMON.split())
ASKED = re.compile(r"[?？؟][^\w?]*$")
DIGIT = re.compile(r"\d")
PLAIN, WORD, NUMBER = 0, 1, 2
WEIGHT = np.array([0.25, 1.0, 2.0])  # of COMMON words, others, and numbers: other numbers make another question


@dataclass(frozen=True, slots=True)
class Hit:
    """A question (its position in the list that the index was made of), and the share of it that the row holds."""

    question: int
    score: float

    def reason(self, questions: Sequence[BenchmarkQuestion]) -> str:
        """What a report says of the rejected row."""
        found = questions[self.question]
        return f"holds {self.score:.0%} of a question of {found.benchmark} ({found.place}): {excerpt(found.text, 200)}"


@dataclass(slots=True)
class Coverage:
    """How many of a benchmark's questions are searched for by themselves, only with an answer, or not at all."""

    benchmark: str
    questions: int = 0
    alone: int = 0
    with_answer: int = 0
    unchecked: int = 0


@dataclass(frozen=True, slots=True)
class _Entries:
    """Texts to search for, as a ragged array: entry `e` is `units[starts[e]:starts[e + 1]]`."""

    units: Hashes
    kinds: NDArray[np.uint8]  # of each unit: PLAIN, WORD, NUMBER
    starts: Numbers  # (entries + 1,)
    question: Numbers
    benchmark: Numbers
    letters: Flags
    least: NDArray[np.float64]  # score that is needed; 0 if the text must occur as a whole
    answers: dict[int, list[tuple[bytes, bool]]]  # hashes of each choice; whether text and choice have ENOUGH units


class _Text:
    """A question as units, and how it is searched for."""

    def __init__(self, question: BenchmarkQuestion) -> None:
        text = question.text
        self.units = text_units.units(text)
        self.kinds = bytes(map(_kind, self.units))
        self.letters = not text.isascii() and text_units.mostly_letters(self.units)
        size, content = len(self.units), _content(self.units)
        asked = ASKED.search(text) is not None
        self.least = 0.0
        if size >= LONG[self.letters] and content >= CONTENT:
            self.least = THRESHOLD if asked else THRESHOLD_STATED
        short = asked and size >= SHORT[self.letters] and content >= 2
        self.alone = self.least > 0 or short or (size >= STATED[self.letters] and content >= ENOUGH)
        self.choices: list[tuple[bytes, bool]] = []
        if not self.alone and size >= NGRAM[self.letters]:
            choices = [units for units in map(text_units.units, question.choices) if units]
            if content + sum(map(_content, choices)) >= ENOUGH:
                self.choices = [(text_units.hashes(c).tobytes(), content + _content(c) >= ENOUGH) for c in choices]


class QuestionIndex:
    """Questions, prepared to search many rows at once. Mostly arrays: cheap to send to another process."""

    def __init__(self, entries: _Entries, coverage: list[Coverage]) -> None:
        self.coverage = coverage
        self._entries = entries
        self._ngrams = [
            NgramIndex(entries.units, entries.starts, length, entries.letters == bool(k), entries.least > 0)
            for k, length in enumerate(NGRAM)
        ]
        self._counts = np.bincount(np.concatenate([n.text for n in self._ngrams]), minlength=len(entries.question))
        self._slack = np.clip(np.diff(entries.starts) // 4, 2, SLACK)
        common_phrase = ~np.any([ngrams.informative for ngrams in self._ngrams], axis=0)
        entries.kinds[common_phrase] = PLAIN

    @classmethod
    def of(cls, questions: Sequence[BenchmarkQuestion]) -> QuestionIndex:
        """Prepares the questions of all benchmarks; of equal texts of one benchmark only the first."""
        coverage: dict[str, Coverage] = {}
        numbers: dict[str, int] = {}
        seen: dict[int, int] = {}
        units, kinds, starts = array("Q"), bytearray(), array("q", [0])
        owner, benchmark, letters, least = array("q"), array("q"), bytearray(), array("d")
        answers: dict[int, list[tuple[bytes, bool]]] = {}
        for index, question in enumerate(questions):
            number = numbers.setdefault(question.benchmark, len(numbers))
            count = coverage.setdefault(question.benchmark, Coverage(question.benchmark))
            text = _Text(question)
            hashed = text_units.hashes(text.units).tobytes()
            key = int.from_bytes(hashlib.blake2b(hashed, digest_size=8).digest(), "little") + (number << 64)
            times = seen[key] = seen.get(key, 0) + 1
            usable = text.alone or (bool(text.choices) and times <= SAME_TEXT)
            count.questions += 1
            count.alone += text.alone
            count.with_answer += usable and not text.alone
            count.unchecked += not usable
            if not usable or (text.alone and times > 1):
                continue
            if not text.alone:
                answers[len(owner)] = text.choices
            units.frombytes(hashed)
            kinds += text.kinds
            starts.append(len(units))
            owner.append(index)
            benchmark.append(number)
            letters.append(text.letters)
            least.append(text.least)
        del seen  # before the n-grams are sorted, which needs most memory
        entries = _Entries(
            np.frombuffer(units, np.uint64), np.frombuffer(kinds, np.uint8), np.frombuffer(starts, np.int64),
            np.frombuffer(owner, np.int64), np.frombuffer(benchmark, np.int64), np.frombuffer(letters, np.bool_),
            np.frombuffer(least, np.float64), answers,
        )  # fmt: skip
        return cls(entries, list(coverage.values()))

    def find(self, rows: Sequence[Hashes]) -> list[list[Hit]]:
        """For each row, given as the hashes of its units, the best question of each benchmark, best score first.

        Of questions with the same score the longest comes first, since it may contain the others, then the earliest.
        """
        starts = np.concatenate([[0], np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))])
        flat = np.concatenate([np.zeros(0, np.uint64), *rows])
        best: dict[tuple[int, int], tuple[float, int, int]] = {}
        for ngrams in self._ngrams:
            row, entry, at = ngrams.find(flat, starts)
            long = self._entries.least[entry] > 0
            for search, mask in ((self._exact, ~long), (self._approximate, long)):
                for where, which, score in search(flat, starts, row[mask], entry[mask], at[mask]):
                    size = int(self._entries.starts[which + 1] - self._entries.starts[which])
                    rank = (-score, -size, int(self._entries.question[which]))
                    key = (where, int(self._entries.benchmark[which]))
                    best[key] = min(rank, best.get(key, rank))
        hits: list[list[Hit]] = [[] for _ in rows]
        for (where, _), (score, _, question) in sorted(best.items(), key=lambda item: item[1]):
            hits[where].append(Hit(question, -score))
        return hits

    def _exact(self, flat: Hashes, starts: Numbers, row: Numbers, entry: Numbers, at: Numbers) -> Iterator[Match]:
        """Entries that occur in the row as a whole, followed by an answer if they need one."""
        own = self._entries.starts
        begin, size = starts[row] + at, own[entry + 1] - own[entry]
        equal = np.flatnonzero((at >= 0) & (begin + size <= starts[row + 1]))
        for k in range(int(size.max(initial=0))):
            place = np.minimum(k, size[equal] - 1)
            equal = equal[flat[begin[equal] + place] == self._entries.units[own[entry[equal]] + place]]
        for i in equal.tolist():
            choices = self._entries.answers.get(int(entry[i]))
            if choices is None or _answered(flat[begin[i] + size[i] : starts[row[i] + 1]], choices):
                yield int(row[i]), int(entry[i]), 1.0

    def _approximate(self, flat: Hashes, starts: Numbers, row: Numbers, entry: Numbers, at: Numbers) -> Iterator[Match]:
        """Entries with enough n-grams near each other and enough common units around them."""
        if not len(row):
            return
        own, slack, count = self._entries.starts, self._slack, len(self._slack)
        low = int(at.min())
        wide = int(at.max()) - low + SLACK + 1
        line = np.sort((row * count + entry) * wide + (at - low))  # one number line, a section for each row and entry
        pair = line // wide
        near = np.searchsorted(line, line + slack[pair % count], "right") - np.arange(len(line))
        first = first_of_groups(pair)
        most = np.maximum.reduceat(near, first)
        top = np.flatnonzero(near == np.repeat(most, np.diff(np.append(first, len(line)))))
        top = top[np.unique(pair[top], return_index=True)[1]]  # the first of the densest places
        top = top[near[top] >= np.maximum(2, self._counts[pair[top] % count] * SEEN)]
        for p, offset in zip(pair[top].tolist(), (line[top] % wide + low).tolist(), strict=True):
            where, which = divmod(p, count)
            begin, end = starts[where] + max(offset - 2, 0), starts[where + 1]
            section = flat[begin : min(end, starts[where] + offset + own[which + 1] - own[which] + slack[which] + 2)]
            score = self._score(which, section)
            if score >= self._entries.least[which]:
                yield where, which, score

    def _score(self, entry: int, section: Hashes) -> float:
        own = slice(self._entries.starts[entry], self._entries.starts[entry + 1])
        least, weight = self._entries.least[entry], WEIGHT[self._entries.kinds[own]]
        common = lcs_mask(self._entries.units[own].tolist(), section.tolist(), least)
        return float(min(common.mean(), weight[common].sum() / weight.sum()))


def _answered(rest: Hashes, choices: list[tuple[bytes, bool]]) -> bool:
    """Whether an answer follows directly, or more than half of them are near."""
    reach = sum(len(choice) // 8 + 2 * GAP for choice, _ in choices)
    window = rest[:reach].tobytes()
    places = [_place(window, choice) for choice, _ in choices]
    if any(0 <= place <= GAP and enough for place, (_, enough) in zip(places, choices, strict=True)):
        return True
    return len(places) > 1 and 2 * sum(place >= 0 for place in places) > len(places)


def _place(window: bytes, choice: bytes) -> int:
    """Where a choice begins, counted in hashes of eight bytes; -1 if it does not occur."""
    at = window.find(choice)
    while at % 8 and at >= 0:
        at = window.find(choice, at + 1)
    return at // 8


def _content(units: Sequence[str]) -> int:
    return sum(unit not in COMMON for unit in units)


def _kind(unit: str) -> int:
    return PLAIN if unit in COMMON else NUMBER if DIGIT.search(unit) else WORD
