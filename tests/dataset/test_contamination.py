"""Contamination: planted questions are found, whatever is around them; rows that only resemble one are not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.schema import Benchmark
from pipeline.dataset.read.benchmark import BenchmarkQuestion as Question
from pipeline.dataset.read.benchmark import read_all
from pipeline.dataset.select import text_units
from pipeline.dataset.select.contamination import SAME_TEXT, Coverage, Hit, QuestionIndex
from pipeline.dataset.select.ngram_index import FEW, lcs_mask

LONG = "About how long does it take Earth to make a complete revolution around the Sun?"
SHORT = "Why is the sky blue?"
GENERIC = "Which of these is true?"
STATED = "The heart has"
KOREAN = "조선 시대에 한글을 만든 임금은 누구이며 그 까닭은 무엇인가?"


def index(*texts: str | Question) -> QuestionIndex:
    return QuestionIndex.of([text if isinstance(text, Question) else Question("b", text, "f:1") for text in texts])


def found(made: QuestionIndex, *rows: str) -> list[list[Hit]]:
    return made.find([text_units.hashes(text_units.units(row)) for row in rows])


def test_a_question_is_found_in_any_wrapping() -> None:
    rows = [
        f"{LONG}\n\nOne year.",
        f"Answer the following question.\nQuestion: {LONG}\nOne year.",
        f"{LONG}\nA. a day\nB. a year\n\nB",
        LONG.upper().replace(" ", "  \n").replace("?", " !"),
        f"Write a quiz.\n\n1. What is rain?\n2. {LONG}\n3. What is snow?",
        "About how long does it take Earth\nto make a complete revolution\naround the Sun?",
    ]
    assert found(index(LONG), *rows) == [[Hit(0, 1.0)]] * len(rows)
    assert found(index(KOREAN), f"다음 질문에 답하세요.\n{KOREAN.replace(' ', '')}\n세종") == [[Hit(0, 1.0)]]


def test_score_of_a_changed_question_is_the_smaller_share() -> None:
    row = "How long does it take earth to make one complete orbit around the sun? It takes a year."
    [[hit]] = found(index(LONG), row)  # 12 of 15 words; 7.5 of 9 by weight
    assert hit.score == pytest.approx(0.8)
    assert found(index(LONG), row.replace("complete ", "")) == [[]]


def test_text_that_asks_nothing_must_match_better() -> None:
    stated = "When price elasticity of demand is greater than 1, demand is"
    row = "Describe it. If the price elasticity of demand is greater than 1 then the quantity demanded reacts strongly."
    assert found(index(stated), row, stated + " elastic") == [[], [Hit(0, 1.0)]]


def test_a_short_question_must_be_there_in_one_piece() -> None:
    japan = "What is the most popular sport in Japan?"
    rows = [
        "What is the most popular sport in India? Cricket.",
        "why is the sky so blue",
        f"{SHORT} Light is scattered.",
    ]
    assert found(index(japan, SHORT), *rows) == [[], [], [Hit(1, 1.0)]]


def test_a_text_that_says_little_counts_only_with_an_answer() -> None:
    asked = Question(
        "b", GENERIC, "f:1", ("Whales are warm mammals", "Whales are cold fish", "Sharks are warm mammals")
    )
    begun = Question("b", STATED, "f:2", ("four separate chambers", "two lobes"))
    rows = [
        f"{GENERIC}\n\nAll men are mortal.",
        f"{GENERIC}\n\nAnswer: Whales are warm mammals.",
        f"{GENERIC} Options:\n(1) Sharks are warm mammals (2) Whales are cold fish",
        "The heart has always been a symbol of love.",
        "Complete: the heart has\n\nfour separate chambers",
    ]
    assert found(index(asked, begun), *rows) == [[], [Hit(0, 1.0)], [Hit(0, 1.0)], [], [Hit(1, 1.0)]]


def test_coverage_adds_up_and_names_what_cannot_be_found() -> None:
    choices = ("Whales are warm mammals", "Whales are cold fish")
    made = index(
        LONG, LONG, Question("b", GENERIC, "f:3", choices), Question("b", GENERIC, "f:4"), Question("c", "x", "")
    )
    assert made.coverage == [Coverage("b", 4, 2, 1, 1), Coverage("c", 1, 0, 0, 1)]
    many = QuestionIndex.of([Question("b", GENERIC, "", (f"whales weigh {n} tonnes",)) for n in range(SAME_TEXT + 3)])
    assert many.coverage == [Coverage("b", SAME_TEXT + 3, 0, SAME_TEXT, 3)]


def test_one_hit_a_benchmark_best_then_longest_then_earliest() -> None:
    longer = LONG.replace("?", " as seen from a distant star?")
    made = index(LONG, longer, Question("c", LONG, "f:3"), Question("c", LONG, "f:4"))
    assert found(made, longer) == [[Hit(1, 1.0), Hit(2, 1.0)]]


def test_words_of_a_phrase_that_many_questions_share_have_little_weight() -> None:
    phrase = (
        "Given the following customer review of a household product decide whether its writer was satisfied or angry:"
    )
    subjects = [
        f"{a} {b}" for a in ("kettle", "toaster", "lamp") for b in ("broke", "shines", "leaks", "hums", "smells")
    ]
    assert len(subjects) > FEW
    row = f"{phrase} blanket scratches?"
    assert found(index(f"{phrase} kettle broke?"), row)[0]  # alone, the phrase is most of the question
    assert found(index(*(f"{phrase} {subject}?" for subject in subjects)), row) == [[]]
    assert found(index(*(f"{phrase} {subject}?" for subject in subjects)), f"{phrase} lamp hums?") == [[Hit(13, 1.0)]]


def test_words_of_a_question_scattered_over_a_long_row_are_no_hit() -> None:
    words = [f"w{n}" for n in range(40_000)]
    units = text_units.units(LONG)
    for n, start in enumerate(range(0, len(units) - 2, 2)):
        words[1000 * n : 1000 * n + 3] = units[start : start + 3]
    scattered = " ".join(words)
    assert found(index(LONG), scattered, f"{scattered} {LONG}") == [[], [Hit(0, 1.0)]]


def test_rows_do_not_run_into_each_other_and_may_be_empty() -> None:
    first, second = LONG[:40], LONG[40:]
    assert found(index(LONG), first, second, "", LONG) == [[], [], [], [Hit(0, 1.0)]]
    assert index(LONG).find([]) == []
    assert found(QuestionIndex.of([]), LONG) == [[]]


def test_chunks_and_pickling_make_no_difference() -> None:
    made = index(LONG, SHORT, KOREAN, Question("b", GENERIC, "", ("Whales are warm mammals", "Whales are cold fish")))
    rows = [f"{text} and so on" for text in (LONG, "nothing", KOREAN, SHORT, f"{GENERIC} Whales are cold fish")]
    whole = found(pickle.loads(pickle.dumps(made)), *rows)
    assert [len(hits) for hits in whole] == [1, 0, 1, 1, 1]
    assert whole == [hits for row in rows for hits in found(made, row)]


def test_in_order_finds_a_longest_common_subsequence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        one, other = rng.integers(0, 5, 9).tolist(), rng.integers(0, 5, 12).tolist()
        table = np.zeros((10, 13), int)
        for i in range(9):
            for j in range(12):
                longer = table[i, j] + 1 if one[i] == other[j] else 0
                table[i + 1, j + 1] = max(longer, table[i, j + 1], table[i + 1, j])
        there = lcs_mask(one, other, 0.0)
        assert there.sum() == table[9, 12]
        rest = iter(other)
        assert all(unit in rest for unit in np.array(one)[there].tolist())  # a subsequence of the other
    assert not lcs_mask([1, 2, 3, 4], [1, 2], 0.75).any()


def test_planted_in_the_real_data(shared_data: Path) -> None:
    eval_data = shared_data / "eval"
    names = ("arc_easy.jsonl", "arc_challenge.jsonl", "hellaswag_1000.jsonl", "TruthfulQA.csv", "mmlu/*_test.csv")
    questions = read_all([Benchmark(path=str(eval_data / name)) for name in names])
    made = QuestionIndex.of(questions)
    assert sum(count.questions for count in made.coverage) == len(questions) == 19_407
    assert sum(count.alone for count in made.coverage) > 0.94 * len(questions)
    assert sum(count.unchecked for count in made.coverage) < 0.005 * len(questions)
    sample = questions[::19]
    rows = []
    for number, asked in enumerate(sample):
        answer = asked.choices[0]
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDEFGH", asked.choices, strict=False))
        rows.append(
            (
                f"{asked.text}\n\n{answer}",
                f"Answer the following question.\nQuestion: {asked.text.upper()}\n{answer}",
                f"{asked.text}\n{listed}\n{answer}",
            )[number % 3]
        )
    hits = found(made, *rows)
    right = [
        any(questions[h.question].benchmark == q.benchmark for h in row) for q, row in zip(sample, hits, strict=True)
    ]
    assert np.mean(right) >= 0.98  # of all, those that cannot be found included

    first, last = 11_000, 14_500
    clean = json.loads((shared_data / "alpaca_data.json").read_text(encoding="utf-8"))[first:last]
    texts = ["\n".join((row["instruction"], row["input"], row["output"])) for row in clean]
    # "What is your favorite color?", "Why is the sky blue?" and "Who invented the light bulb?", word for word.
    assert [first + number for number, row in enumerate(found(made, *texts)) if row] == [11_408, 13_420, 14_252]
