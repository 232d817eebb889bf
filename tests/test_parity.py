"""Token for token what the reference recipes trained on, on the real Alpaca data and LLaMA's own tokenizer.

    SURI_PARITY=all .venv/bin/python -m pytest tests/test_parity.py     all 52,002 rows, minutes
Without it: every 40th row, the longest rows, and rows with odd white space.
The reference side is written here from the published scripts, on sentencepiece alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from pipeline.config import Prompt
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder, Row
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.record import Example

ALL = os.environ.get("SURI_PARITY") == "all"
EVERY = 40
LONG = 1800  # letters of instruction, input and output: about 450 tokens, so that rows on both sides of 512 are there
ODD = re.compile(r"^\s|\s$|\t|\r|  \S|\n\n\n|[\u0080-\u00a0\u2000-\u200f\u2028\u3000\ufeff]")
EOS, IGNORE = 2, -100

Encoded = tuple[list[int], list[int]]
Encode = Callable[[str], list[int]]
Reference = Callable[[Encode, str, str], Encoded]


def stanford(bos: int) -> Reference:
    """stanford_alpaca train.py `preprocess` (and KoAlpaca's copy): joint, prompt masked, cut at 512 with its EOS."""

    def encode(spm: Encode, prompt: str, output: str) -> Encoded:
        ids = ([bos, *spm(prompt + output), EOS])[:512]
        masked = len([bos, *spm(prompt)][:512])
        return ids, [IGNORE] * masked + ids[masked:]

    return encode


def alpaca_lora(train_on_inputs: bool) -> Reference:
    """alpaca-lora finetune.py `generate_and_tokenize_prompt`: cut at 256 first, EOS only where there is room."""

    def encode(spm: Encode, prompt: str, output: str) -> Encoded:
        ids = ([1, *spm(prompt + output)])[:256]
        if len(ids) < 256 and ids[-1] != EOS:
            ids.append(EOS)
        if train_on_inputs:
            return ids, list(ids)
        masked = len([1, *spm(prompt)][:256])
        return ids, [IGNORE] * masked + ids[masked:]

    return encode


RECIPES: dict[str, tuple[str, dict[str, Any], Reference]] = {
    "stanford_alpaca": ("alpaca", {"cutoff": 512}, stanford(bos=1)),
    "alpaca-lora": ("alpaca-lora", {"cutoff": 256, "mask_prompt": False}, alpaca_lora(train_on_inputs=True)),
    "alpaca-lora, answers only": ("alpaca-lora", {"cutoff": 256}, alpaca_lora(train_on_inputs=False)),
    "alpaca-lora, short": ("alpaca-short", {"cutoff": 256, "mask_prompt": False}, alpaca_lora(train_on_inputs=True)),
    "koalpaca-v1.0, its BOS": ("koalpaca-v1.0", {"cutoff": 512, "bos": "</s>"}, stanford(bos=2)),
    "koalpaca-v1.0, right BOS": ("koalpaca-v1.0", {"cutoff": 512}, stanford(bos=1)),
}


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[dict[str, str]]:
    """Rows of alpaca_data.json, all of them or those most likely to show a difference."""
    data: list[dict[str, str]] = json.loads((shared_data / "alpaca_data.json").read_text(encoding="utf-8"))
    if ALL:
        return data
    texts = ["".join((row["instruction"], row["input"], row["output"])) for row in data]
    odd = {i for i, row in enumerate(data) if any(ODD.search(value) for value in row.values())}
    long = {i for i, text in enumerate(texts) if len(text) > LONG}
    chosen = set(range(0, len(data), EVERY)) | long | set(sorted(odd)[:: max(1, len(odd) // 400)])
    return [data[i] for i in sorted(chosen)]


@pytest.fixture(scope="module")
def spm(shared_data: Path) -> Encode:
    model = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / "llama_tokenizer" / "tokenizer.model"))
    known: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        if text not in known:
            known[text] = model.encode(text)
        return known[text]

    return encode if not ALL else model.encode


@pytest.fixture(scope="module")
def forms(shared_data: Path) -> dict[str, dict[str, str]]:
    """The published templates, from their own record and not from this project's files."""
    found: dict[str, dict[str, str]] = json.loads(
        (shared_data / "reference_templates.json").read_text(encoding="utf-8")
    )
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_ids_and_labels_are_the_reference_s(
    recipe: str, rows: list[dict[str, str]], spm: Encode, forms: dict[str, dict[str, str]], shared_data: Path
) -> None:
    template, settings, reference = RECIPES[recipe]
    prompt = Prompt.model_validate({"template": template, "join": "joint", **settings})
    encoder = Encoder(templates.load(template), Tokenizer(shared_data / "llama_tokenizer"), prompt)
    examples = [Example.of(r["instruction"], r["input"], r["output"], source="alpaca") for r in rows]
    form = forms[template]
    different, cut = [], 0
    for i, (row, found) in enumerate(zip(rows, encoder.rows(examples), strict=True)):
        text = form["prompt_input" if row["input"] else "prompt_no_input"].format_map(row)
        ids, labels = reference(spm, text, row["output"])
        cut += ids[-1] != EOS
        if found.ids != ids or found.labels != labels:
            different.append(i)
        assert found.cut == (ids[-1] != EOS)
    print(f"{recipe}: {len(rows):,} rows, {cut:,} cut, {len(different):,} different")
    assert different == []
    assert ALL or 0 < cut < len(rows)  # the choice of rows reaches both sides of the cutoff


def test_the_rules_of_the_references_on_short_ids() -> None:
    """The reference functions themselves, on ids small enough to check by eye."""

    def spell(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    assert stanford(1)(spell, "ab", "c") == ([1, 97, 98, 99, 2], [IGNORE, IGNORE, IGNORE, 99, 2])
    assert alpaca_lora(True)(spell, "ab", "c") == ([1, 97, 98, 99, 2], [1, 97, 98, 99, 2])
    assert alpaca_lora(False)(spell, "a" * 253, "bc")[0][-2:] == [98, 99]  # 256 ids, no room for EOS
    assert alpaca_lora(False)(spell, "a" * 253, "b")[0][-2:] == [98, 2]
    ids, labels = stanford(2)(spell, "a" * 600, "b")
    assert (len(ids), ids[0], set(labels)) == (512, 2, {IGNORE})


def test_joined_apart_the_prompt_is_never_changed(rows: list[dict[str, str]], spm: Encode, shared_data: Path) -> None:
    """`join: apart` differs from the references only at the seam, and decodes to the same text."""
    tokenizer = Tokenizer(shared_data / "llama_tokenizer")
    template = templates.load("alpaca")
    apart = Encoder(template, tokenizer, Prompt(join="apart", cutoff=100_000))
    examples = [Example.of(r["instruction"], r["input"], r["output"], source="alpaca") for r in rows[::10]]
    encoded: list[Row] = apart.rows(examples)
    for example, row in zip(examples, encoded, strict=True):
        prompt = template.prompt(example.instruction, example.input)
        assert row.ids[: row.prompt] == [1, *spm(prompt)]
        assert not row.seam
        assert tokenizer.decode(row.ids) == prompt + example.output
