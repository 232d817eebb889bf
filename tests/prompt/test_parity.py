"""Token for token what the reference recipes trained on, on the real Alpaca data and LLaMA's own tokenizer.

Special tokens spelt inside a row are the one difference that is meant; no Alpaca row has any.

    SURI_PARITY=all .venv/bin/python -m pytest tests/prompt/test_parity.py     all 52,002 rows, minutes
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

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder, Row
from pipeline.prompt.tokenizer import Tokenizer

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


# What no Alpaca row shows: white space at an answer's end, and special tokens spelt inside a text.


def slow_tokenizer(spm: Encode, ids: dict[str, int], words: set[str]) -> Encode:
    """LLaMA's slow tokenizer of transformers v4.28.1 (tokenization_utils.py `tokenize`): special tokens are cut out of
    the text first; one that was added as a word and not as an AddedToken takes the white space on both sides away."""
    cut = re.compile("(" + "|".join(map(re.escape, sorted(ids, key=len, reverse=True))) + ")")

    def encode(text: str) -> list[int]:
        pieces = [piece for piece in cut.split(text) if piece]
        for n, piece in enumerate(pieces):
            if piece in words:
                if n:
                    pieces[n - 1] = pieces[n - 1].rstrip()
                if n + 1 < len(pieces):
                    pieces[n + 1] = pieces[n + 1].lstrip()
        return [id for p in pieces if p for id in ([ids[p]] if p in ids else spm(p))]

    return encode


SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2, "[PAD]": 32000}
SCRIPTS = {
    # template, settings, BOS, which specials strip: all that the script or nobody says is an AddedToken
    "koalpaca-v1.0": ("koalpaca-v1.0", {"bos": "</s>", "strip_end": True}, 2, set(SPECIAL)),
    "stanford_alpaca until 15 April": ("alpaca", {"bos": "</s>", "strip_end": True}, 2, set(SPECIAL)),
    "stanford_alpaca since": ("alpaca", {}, 1, {"[PAD]"}),
}
OUTPUTS = [
    "plain", "ends with a space ", "ends with lines\n\n", "한국어 답변입니다. ", "한국어\u3000", "tab\t", "\u00a0",
    "\u200b", " \n ", " lead", "줄 바꿈\r\n", "x\u2028", "이모지 😀 ", "a  b", "end\x1f", "끝\u2003\n",
]  # fmt: skip


def script_s(encode: Encode, bos: int, prompt: str, output: str) -> Encoded:
    """Both scripts' `preprocess`: the end token is text, and the prompt's length is counted by itself, [PAD] aside."""
    ids = [bos, *encode(f"{prompt}{output}</s>")][:512]
    masked = sum(id != SPECIAL["[PAD]"] for id in [bos, *encode(prompt)][:512])
    return ids, [IGNORE] * masked + ids[masked:]


@pytest.mark.parametrize("script", SCRIPTS)
def test_white_space_before_the_end_token_is_the_scripts(
    script: str, spm: Encode, forms: dict[str, dict[str, str]], shared_data: Path
) -> None:
    template, more, bos, words = SCRIPTS[script]
    settings = Prompt.model_validate({"template": template, "join": "joint", "cutoff": 512, **more})
    encoder = Encoder(templates.load(template), Tokenizer(shared_data / "llama_tokenizer", ["[PAD]"]), settings)
    slow = slow_tokenizer(spm, SPECIAL, words)
    for instruction, input in (("말해 보세요. ", ""), ("Say it\n", " 입력 ")):
        examples = [Example.of(instruction, input, output, source="nasty") for output in OUTPUTS]
        for example, row in zip(examples, encoder.rows(examples), strict=True):
            form = forms[template]["prompt_input" if input else "prompt_no_input"]
            text = form.format_map({"instruction": example.instruction, "input": example.input})
            assert (row.ids, row.labels) == script_s(slow, bos, text, example.output), repr(example.output)


@pytest.mark.parametrize("join", ["apart", "joint"])
def test_stripping_is_what_makes_the_difference(join: str, shared_data: Path) -> None:
    tokenizer, template = Tokenizer(shared_data / "llama_tokenizer"), templates.load("koalpaca-v1.0")
    example = [Example.of("말해 보세요.", "", "네. \n", source="nasty")]
    ids = {
        strip: Encoder(template, tokenizer, Prompt.model_validate({"join": join, "strip_end": strip}))
        .rows(example)[0]
        .ids
        for strip in (True, False)
    }
    assert ids[False][: len(ids[True]) - 1] == ids[True][:-1]
    assert tokenizer.decode(ids[True]).endswith("네.")
    assert tokenizer.decode(ids[False]).endswith("네. \n")


@pytest.mark.parametrize("spelt", ["a </s> b", "<s>", "한국어<unk>", "x [PAD]"])
def test_spelt_special_tokens_stay_text_here(spelt: str, spm: Encode, shared_data: Path) -> None:
    """The one difference that is meant: there they became the token, and the model learnt to stop in the middle."""
    tokenizer, template = Tokenizer(shared_data / "llama_tokenizer", ["[PAD]"]), templates.load("koalpaca-v1.0")
    encoder = Encoder(template, tokenizer, Prompt(join="joint", bos="</s>", strip_end=True))
    row = encoder.rows([Example.of("말해 보세요.", "", spelt, source="nasty")])[0]
    text = template.prompt("말해 보세요.") + spelt
    assert row.ids == [2, *spm(text), 2]
    assert row.ids != script_s(slow_tokenizer(spm, SPECIAL, set(SPECIAL)), 2, template.prompt("말해 보세요."), spelt)[0]
