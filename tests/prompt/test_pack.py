"""Packs: what is in them, by hand; and that every token is predicted from what it is predicted from in its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt import template as templates
from pipeline.prompt.encode import IGNORE, Encoder
from pipeline.prompt.pack import Pack, Packer
from pipeline.prompt.template import Template
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import Tokens
from tests.helpers.packs import ROWS, A, B, random_tokens, tokens_of, written
from tests.helpers.tiny import make_tokenizer

PROMPTS = [4, 4, 4, 1, 3]
ODD = [
    "\n", "\n\nSay it", "\t", " ", "  two", "안녕하세요", "日本", "😀", "\U0001f469\u200d\U0001f467", "\u0301e",
    "e\u0301", "\u200b", "\ufeff", "\u00a0x", "7", "10 + 1", "#", "###", '"', "</s>", "<s>", ":", "：", "-", "Ω", "z",
    "{input}", "a" * 50,
]  # fmt: skip


def sights(pack: Pack) -> list[tuple[int, ...]]:
    """What each token of a pack sees: its preamble, and its own segment up to itself."""
    seen = []
    for segment, start in enumerate(pack.starts[:-1]):
        before: list[int] = []
        if segment >= pack.preambles:
            for number in range(pack.preambles):
                if pack.groups[number] <= start < pack.groups[number + 1]:
                    before = pack.ids[pack.starts[number] : pack.starts[number + 1]].tolist()
        for at in range(start, pack.starts[segment + 1]):
            seen.append((*before, *pack.ids[start : at + 1].tolist()))
            assert pack.positions[at] == len(seen[-1]) - 1
    return seen


def assert_means(packs: Sequence[Pack], tokens: Tokens, rows: Sequence[int]) -> None:
    """Together the packs predict what the rows predict, each token from the same tokens, as often."""
    wanted: Counter[Any] = Counter()
    for row in rows:
        ids, labels = (part.tolist() for part in tokens.row(row))
        wanted.update((tuple(ids[:n]), labels[n]) for n in range(1, len(ids)) if labels[n] != IGNORE)
    found: Counter[Any] = Counter()
    for pack in packs:
        seen = sights(pack)
        for at, target, weight in zip(pack.where, pack.targets, pack.weights, strict=True):
            found[seen[at], int(target)] += weight
    assert found == wanted
    assert sum(pack.labelled for pack in packs) == tokens.labelled[list(rows)].sum()
    assert sum(pack.rows for pack in packs) == len(rows)
    assert sum(pack.original for pack in packs) == tokens.lengths[list(rows)].sum()


# --- by hand


def test_layout(tmp_path: Path) -> None:
    """Rows 1 and 4 share A, rows 0 and 2 share B; the first own token of both is 10, so that counts twice."""
    tokens = tokens_of(tmp_path, ROWS, PROMPTS)
    pack = Packer(tokens, [B, A], 100).pack(range(5))
    assert pack.ids.tolist() == [1, 2, 9, 1, 2, 3, 4, 20, 21, 22, 23, 10, 11, 10, 7, 8]
    assert pack.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 3, 4, 5, 3, 4, 5, 4, 0, 1]
    assert pack.starts.tolist() == [0, 3, 7, 10, 11, 13, 14, 16]
    assert (pack.preambles, pack.groups.tolist()) == (2, [7, 11, 14])
    entries = list(zip(pack.where.tolist(), pack.targets.tolist(), pack.weights.tolist(), strict=True))
    assert entries == [(7, 21, 1), (8, 22, 1), (11, 11, 1), (14, 8, 1), (2, 23, 1), (6, 10, 2)]
    assert (pack.rows, pack.original, pack.labelled, pack.longest) == (5, 6 + 6 + 5 + 2 + 4, 7, 4)


def test_layout_with_loss_on_the_prompt(tmp_path: Path) -> None:
    """Preambles predict themselves, once for each of their rows; A's end predicts two different tokens."""
    pack = Packer(tokens_of(tmp_path, ROWS, [0] * 5), [A, B], 100).pack(range(5))
    entries = list(zip(pack.where.tolist(), pack.targets.tolist(), pack.weights.tolist(), strict=True))
    assert entries[:4] == [(7, 21, 1), (8, 22, 1), (11, 11, 1), (14, 8, 1)]
    assert entries[4:8] == [(0, 2, 2), (1, 9, 2), (2, 20, 1), (2, 23, 1)]
    assert entries[8:] == [(3, 2, 2), (4, 3, 2), (5, 4, 2), (6, 10, 2)]


def test_best_fit(tmp_path: Path) -> None:
    """12 and 10 open a pack each; the second 10 goes to the first one, then 1 to where it leaves no room."""
    tokens = tokens_of(tmp_path, [list(range(n)) for n in (12, 1, 10, 10)], [0] * 4)
    assert Packer(tokens, [], 21).bins(range(4)) == [[2, 3, 1], [0]]  # the largest first
    assert Packer(tokens, [], 9).bins(range(4)) == [[0], [2], [3], [1]]  # too long for any pack: by itself


def test_a_preamble_is_paid_for_once(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, [[*B, 5, 6], [*B, 5, 6], [*A, 5, 6]], [0] * 3)
    assert Packer(tokens, [A, B], 8).bins(range(3)) == [[0, 1], [2]]
    assert Packer(tokens, [A, B], 7).bins(range(3)) == [[0], [1], [2]]
    assert Packer(tokens, [], 12).bins(range(3)) == [[0, 1], [2]]


def test_what_is_not_shared(tmp_path: Path) -> None:
    """A preamble with one row of the pack, a row that is nothing but the preamble, one that only resembles it."""
    tokens = tokens_of(tmp_path, [[*B, 5], list(B), [1, 2, 3, 5, 6], [*A, 5], [*A, 6]], [0] * 5)
    packer = Packer(tokens, [A, B], 100)
    assert packer.shared.tolist() == [4, 0, 0, 3, 3]
    alone = packer.pack([0, 1, 2, 3])
    assert alone.preambles == 0
    assert alone.starts.tolist() == [0, 5, 9, 14, 18]
    both = packer.pack(range(5))
    assert both.preambles == 1
    assert both.ids.tolist() == [*A, 5, 6, *B, 5, *B, 1, 2, 3, 5, 6]


def test_the_longest_run_is_shared(tmp_path: Path) -> None:
    packer = Packer(tokens_of(tmp_path, [[*B, 5], [*B[:2], 5]], [0] * 2), [B, B[:2], B[:3]], 100)
    assert packer.shared.tolist() == [4, 2]


def test_nothing_labelled(tmp_path: Path) -> None:
    """A row whose only label is its first token, and one without labels: no entries."""
    pack = Packer(tokens_of(tmp_path, [[5], [*B, 6]], [0, 5]), [B], 100).pack([0, 1])
    assert len(pack.where) == pack.labelled == 0
    assert Packer(tokens_of(tmp_path, [[5]], [0]), [], 100).bins([]) == []


# --- invariants


@pytest.mark.parametrize("capacity", [1, 16, 40, 1000])
@pytest.mark.parametrize("leading", [[], [A, B], [B, B[:3], [30]]])
def test_packs_are_the_rows(tmp_path: Path, capacity: int, leading: list[list[int]]) -> None:
    tokens = random_tokens(tmp_path, [A, B])
    packer = Packer(tokens, leading, capacity)
    rows = list(range(3, 50))
    bins = packer.bins(rows)
    assert sorted(row for members in bins for row in members) == rows  # exactly the rows given, each once
    packs = list(packer.packs(rows))
    assert all(len(pack.ids) <= capacity or pack.rows == 1 for pack in packs)
    assert_means(packs, tokens, rows)
    assert_means([packer.pack(rows)], tokens, rows)


def test_packs_depend_on_the_rows_alone(tmp_path: Path) -> None:
    tokens = random_tokens(tmp_path, [A, B])
    shuffled = np.random.default_rng(1).permutation(60).tolist()
    assert Packer(tokens, [A, B], 40).bins(shuffled) == Packer(tokens, [B, A], 40).bins(range(60))


def test_fewer_tokens_than_rows_by_themselves(tmp_path: Path) -> None:
    tokens = random_tokens(tmp_path, [A, B])
    pack = Packer(tokens, [A, B], 1000).pack(range(60))
    kinds = Packer(tokens, [A, B], 1000).preamble_of_row
    assert len(pack.ids) == pack.original - 3 * ((kinds == 0).sum() - 1) - 4 * ((kinds == 1).sum() - 1)


# --- with the encoder


@pytest.fixture(scope="module", params=["tiny", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-like tokenizer, and LLaMA's own where the real data is."""
    if request.param == "llama":
        return Path(request.getfixturevalue("shared_data")) / "llama_tokenizer"
    made: Path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(made)
    return made


def encoder_of(folder: Path, template: Template, **prompt: Any) -> Encoder:
    return Encoder(template, Tokenizer(folder), Prompt.model_validate(prompt))


@pytest.mark.parametrize("template", templates.names())
@pytest.mark.parametrize("join", ["joint", "apart"])
def test_rows_begin_with_the_leading_runs(folder: Path, template: str, join: str) -> None:
    """Whatever an instruction begins with."""
    encoder = encoder_of(folder, templates.load(template), join=join, cutoff=2000, bos="<s>")
    runs = encoder.preambles()
    assert 1 <= len(runs) <= 2  # of the form without input, and of the one with it
    for input, run in (("", runs[0]), ("1 2", runs[-1])):
        rows = encoder.rows([Example.of(text, input, "fine", source="s") for text in ODD])
        assert [text for text, row in zip(ODD, rows, strict=True) if row.ids[: len(run)] != run] == []
        assert run[0] == encoder.bos_id
        said = encoder.tokenizer.decode(run, keep_special=True).removeprefix("<s>")
        opening = encoder.template.prompt("{instruction}", input).split("{instruction}")[0]
        assert opening.startswith(said)
        assert len(opening) - len(said) <= 2  # what the tokenizer may join with what comes next


def test_no_run_before_a_slot_that_comes_first(folder: Path) -> None:
    template = Template("bare", "{instruction}\nIn the light of: {input}\n", "{instruction}\nSay something.\n")
    assert encoder_of(folder, template).preambles() == []
    both = Template("half", "Read this, then answer. {input} {instruction}", "{instruction}: the answer")
    assert len(encoder_of(folder, both).preambles()) == 1


@pytest.mark.parametrize("mask", [True, False])
def test_rows_that_were_cut(folder: Path, tmp_path: Path, mask: bool) -> None:
    """Cut inside the preamble, right behind it, and further on: shared where anything of the row is left."""
    template = templates.load("alpaca")
    run = encoder_of(folder, template).preambles()[0]
    encoded = []
    for cutoff in (len(run) - 1, len(run), len(run) + 1, len(run) + 3, 2000):
        encoder = encoder_of(folder, template, cutoff=cutoff, mask_prompt=mask)
        encoded += encoder.rows([Example.of(text, "", "fine", source="s") for text in ("Go on.", "Stop.")])
    tokens = written(tmp_path, encoded)
    packer = Packer(tokens, [run], 4000)
    assert packer.shared.tolist() == [0] * 4 + [len(run)] * 6
    assert_means(list(packer.packs(range(10))), tokens, range(10))
