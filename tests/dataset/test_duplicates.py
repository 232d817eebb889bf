"""Near-duplicates: exact small cases, and planted rows at a known Jaccard."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.chunk import _own_units
from pipeline.dataset.example import Example
from pipeline.dataset.select.duplicates import HASHES, near, repeated, rows_per_band, shingles, signatures
from pipeline.dataset.select.text_units import hashes, mostly_letters, ngrams, normalise, units
from pipeline.dataset.signature_files import SignatureFiles
from pipeline.demo.families import generate

Row = tuple[str, str, str]
SHINGLE = 3


def compare(
    rows: list[Row], threshold: float = 0.8, threads: list[int] | None = None, length: int = SHINGLE
) -> list[tuple[int, int, float]]:
    found = [units("\n".join(r)) for r in rows]
    whole = [shingles(u, hashes(u), length) for u in found]
    own = [_own_units(Example.of(*r, source="s")) for r in rows]
    half = len(rows) // 2
    parts = [signatures(whole[:half], own[:half], threshold), signatures(whole[half:], own[half:], threshold)]
    everyone = np.ones(len(rows), np.bool_)
    with tempfile.TemporaryDirectory() as folder:
        files = SignatureFiles(Path(folder, "rows"))
        for part in parts:
            files.add(part)
        joined = files.mapped()
        files.close()
    assert joined is not None
    return list(near(joined, threshold, everyone, np.array(threads or [0] * len(rows), np.uint64)))


def jaccard(a: Row, b: Row) -> float:
    """The definition, in sets."""
    sets = []
    for row in (a, b):
        found = units("\n".join(row))
        sets.append({tuple(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def alike(rows: list[Row], rng: random.Random) -> list[tuple[int, Row]]:
    """Copies of rows with a few words replaced, dropped or added: (original, copy)."""
    words = sorted({w for row in rows for text in row for w in text.split()})
    found = []
    for i, row in enumerate(rows):
        texts = [text.split() for text in row]
        for _ in range(rng.choice([1, 1, 2, 3, 5, 8])):
            text = rng.choice([t for t in texts if t])
            at = rng.randrange(len(text))
            change = rng.random()
            if change < 0.5:
                text[at] = rng.choice(words)
            elif change < 0.75:
                del text[at]
            else:
                text.insert(at, rng.choice(words))
        found.append((i, (" ".join(texts[0]), " ".join(texts[1]), " ".join(texts[2]))))
    return found


def story(rng: random.Random, korean: bool) -> Row:
    syllables = [chr(0xAC00 + rng.randrange(11172)) for _ in range(300)] if korean else []

    def text(count: int) -> str:
        if korean:
            return " ".join("".join(rng.choice(syllables) for _ in range(3)) for _ in range(count))
        return " ".join("".join(rng.choice("aeioubdfgklmnprst") for _ in range(5)) for _ in range(count))

    return text(rng.randrange(8, 20)), "", text(rng.randrange(10, 60))


@pytest.mark.parametrize("korean", [False, True])
def test_planted_rows_are_found_and_nothing_else(korean: bool) -> None:
    rng = random.Random(7)
    rows = [story(rng, korean) for _ in range(400)]
    planted = alike(rows, rng)
    found = {i: (j, value) for i, j, value in compare(rows + [copy for _, copy in planted])}
    due = {len(rows) + k for k, (i, copy) in enumerate(planted) if jaccard(rows[i], copy) >= 0.8}
    assert len(due) > 100
    assert len(due & found.keys()) / len(due) >= 0.98
    assert len(due & found.keys()) / len(found) >= 0.98
    for k in sorted(due & found.keys())[:50]:
        i, copy = planted[k - len(rows)]
        assert found[k] == (i, pytest.approx(jaccard(rows[i], copy)))


def test_bands_find_what_they_promise() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        length = rows_per_band(threshold)
        assert 1 - (1 - threshold**length) ** (HASHES // length) >= 0.998


def test_the_first_is_kept_and_only_kept_rows_count() -> None:
    words = [f"w{i}" for i in range(40)]

    def text(start: int) -> Row:
        return " ".join(words[start : start + 30]), "", "x"

    # a ~ b ~ c, but a and c are not alike: b goes for a, c stays, since nothing kept is like it.
    a, b, c = text(0), text(4), text(8)
    assert jaccard(a, b) > 0.7 > jaccard(a, c)
    assert [(i, j) for i, j, _ in compare([a, b, c], 0.7)] == [(1, 0)]
    assert [(i, j) for i, j, _ in compare([b, a, c], 0.7)] == [(1, 0), (2, 0)]


def test_one_passage_with_many_questions_is_many_rows() -> None:
    passage = " ".join(f"word{i}" for i in range(300))
    asked = [("Who wrote this passage?", passage, "Mark Twain"), ("When did it happen, and where?", passage, "1884")]
    assert jaccard(*asked) > 0.9
    assert compare(asked) == []
    assert [(i, j) for i, j, _ in compare([asked[0], ("Who wrote the passage?", passage, "Mark Twain")])] == [(1, 0)]


def test_sets_of_words() -> None:
    rows = [("Name the colours of the sky", "", "red blue"), ("Of the sky name the colours", "", "blue red")]
    assert compare(rows) == []
    assert compare(rows, length=1) == [(1, 0, 1.0)]
    korean = [("하늘의 색을 말해 줘", "", "파랑"), ("말해 줘 파랑", "", "하늘의 색을")]
    assert compare(korean, 0.9, length=1) == []  # three letters at least


def test_many_inputs_under_one_long_instruction_are_many_rows() -> None:
    long = " ".join(f"word{i}" for i in range(150))
    inputs = [(f"{long}.", f"A{i} sentence b{i} about c{i} and d{i}", "positive") for i in range(5)]
    assert jaccard(*inputs[:2]) > 0.8
    assert compare(inputs) == []
    system = [(f"{long}.\n\nWhat is a{i} of b{i}?", "", f"It is c{i} or d{i}") for i in range(5)]
    assert jaccard(*system[:2]) > 0.8
    assert compare(system) == []
    assert [(i, j) for i, j, _ in compare([inputs[0], (f"{long}!", inputs[0][1] + " x", "positive")])] == [(1, 0)]


def test_turns_of_one_conversation_are_not_compared() -> None:
    rows = [("a b c d e f g h", "", "i j k l"), ("a b c d e f g h", "", "i j k l")]
    assert compare(rows, threads=[5, 5]) == []
    assert compare(rows, threads=[5, 6]) == [(1, 0, 1.0)]
    assert compare(rows, threads=[5, 0]) == [(1, 0, 1.0)]


def test_rows_without_words_are_alike_only_when_equal() -> None:
    rows = [("+ -", "", "*"), ("+ -", "", "*"), ("= =", "", "/"), ("!", "", "?")]
    assert [(i, j) for i, j, _ in compare(rows)] == [(1, 0)]


def test_made_families_are_not_alike() -> None:
    rows = [(r["instruction"], r["input"], r["output"]) for r in generate(660, 42)]
    assert compare(rows) == []


def test_units() -> None:
    assert units("Hello, World! It's 3 o'clock.") == ["hello", "world", "it", "s", "3", "o", "clock"]
    assert units("안녕 World ２") == ["안", "녕", "world", "2"]
    assert units("ﬁne CAFE\u0301") == ["fine", "café"]
    assert units("+-*/ =") == ["+-*/", "="]
    assert units(" ") == []
    assert mostly_letters(units("파이썬 함수 print"))
    assert not mostly_letters(units("the print of 책"))


def test_equal_after_normalisation() -> None:
    assert normalise("  Cafe\u0301\n IS\topen ") == normalise("café is open")
    keys = hashes(["a", "b", "a", "c", "b"])
    assert repeated(keys).tolist() == [0, 1, 0, 3, 1]


def test_runs() -> None:
    values = hashes(list("abcab"))
    found = ngrams(values, 2)
    assert len(found) == 4
    assert found[0] == found[3]
    assert len(set(found.tolist())) == 3
    assert len(ngrams(values, 9)) == 1
    assert len(ngrams(values[:0], 3)) == 0
    assert ngrams(hashes(list("ab")), 2)[0] != ngrams(hashes(list("ba")), 2)[0]
