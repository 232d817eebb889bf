"""Encoding: ids, labels, cutoff, BOS and end, lost turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers

from pipeline.dataset.example import Example
from pipeline.prompt.encode import IGNORE, Row
from pipeline.prompt.template import Template
from pipeline.run.errors import UserError
from tests.helpers.tokenizers import TEMPLATE, byte_level, encoder_of, example


@pytest.mark.parametrize("join", ["joint", "apart"])
@pytest.mark.parametrize("mask", [True, False])
def test_a_row_is_bos_prompt_answer_end(folder: Path, join: str, mask: bool) -> None:
    encoder = encoder_of(folder, join=join, mask_prompt=mask, bos="<s>")
    end = encoder.end_id
    for item in (example(), example(input="the mat"), example(output=" two\n\nlines ")):
        (row,) = encoder.rows([item])
        prompt = encoder.prompt(item.instruction, item.input)
        assert row.ids[0] == encoder.bos_id
        assert row.ids[-1] == end
        assert row.ids.count(end) == 1
        assert row.prompt == len(prompt)
        assert len(row.labels) == len(row.ids)
        masked = row.prompt if mask else 0
        assert row.labels == [IGNORE] * masked + row.ids[masked:]
        assert not row.cut
        if join == "apart":
            assert row.ids[: row.prompt] == prompt
        text = TEMPLATE.prompt(item.instruction, item.input) + item.output
        assert encoder.tokenizer.decode(row.ids) == text
        assert encoder.tokenizer.decode(row.ids, keep_special=True) == f"<s>{text}</s>"


def long_talk(answer: str = "the mat", thread: str = "0" * 16) -> Example:
    turns = [f"User: the cat {i}\nAssistant: sat {i}" for i in range(9)]
    return Example.of("on", "\n".join(turns), answer, source="s", thread=thread)


@pytest.mark.parametrize("join", ["joint", "apart"])
def test_the_oldest_turns_go_first_where_a_conversation_is_too_long(folder: Path, join: str) -> None:
    whole = encoder_of(folder, join=join, cutoff=4096)
    item = long_talk()
    kept = [item.input[item.input.index(f"User: the cat {i}") :] for i in range(9)] + [""]
    lengths = [len(whole.rows([replace(item, input=text)])[0].ids) for text in kept]
    assert lengths == sorted(lengths, reverse=True)
    for number in (1, 4, 9):
        encoder = encoder_of(folder, join=join, cutoff=lengths[number])
        short, same = encoder.rows([item, replace(item, input=kept[number])])
        assert (short.ids, short.labels, short.lost_turns, short.cut) == (same.ids, same.labels, True, False)
        assert not same.lost_turns
    (still,) = encoder_of(folder, join=join, cutoff=lengths[9] - 1).rows([item])
    assert (still.cut, still.lost_turns) == (True, True)
    assert still.labelled  # of the whole conversation, no token of the answer was left


def test_rows_without_earlier_turns_are_cut_as_ever(folder: Path) -> None:
    encoder = encoder_of(folder, cutoff=30)
    for item in (example(input="the cat " * 50), long_talk(thread=""), example(output="the cat " * 50)):
        (row,) = encoder.rows([item])
        (full,) = encoder_of(folder, cutoff=4096).rows([item])
        assert (row.ids, row.cut, row.lost_turns) == (full.ids[:30], True, False)


def test_the_first_token_is_not_labelled(folders: dict[str, Path]) -> None:
    (whole,) = encoder_of(folders["tokenizers"], mask_prompt=False).rows([example()])
    assert whole.labels[0] != IGNORE
    assert whole.labelled == len(whole.ids) - 1
    (answer,) = encoder_of(folders["tokenizers"]).rows([example()])
    assert answer.labelled == len(answer.ids) - answer.prompt
    assert Row([5], [5], 0, False, False).labelled == 0


@pytest.mark.parametrize("join", ["joint", "apart"])
def test_the_cutoff(folder: Path, join: str) -> None:
    item = example(output="the cat sat on the mat")
    (whole,) = encoder_of(folder, join=join).rows([item])
    length = len(whole.ids)
    for cutoff in (length + 1, length):
        (row,) = encoder_of(folder, join=join, cutoff=cutoff).rows([item])
        assert row == whole
    (row,) = encoder_of(folder, join=join, cutoff=length - 1).rows([item])
    assert row.cut
    assert (row.ids, row.labels) == (whole.ids[:-1], whole.labels[:-1])
    (row,) = encoder_of(folder, join=join, cutoff=4).rows([item])
    assert (len(row.ids), row.prompt, row.labels, row.labelled) == (4, 4, [IGNORE] * 4, 0)


def test_bos(folders: dict[str, Path], tmp_path: Path) -> None:
    fast, spm = folders["tokenizers"], folders["sentencepiece"]
    assert encoder_of(spm).bos_id == 1  # LLaMA's tokenizer adds it by itself
    assert encoder_of(fast).bos_id is None  # this one does not
    assert encoder_of(spm, bos="none").bos_id is None
    assert encoder_of(fast, bos="</s>").bos_id == 1
    assert encoder_of(spm, bos="</s>").rows([example()])[0].ids[0] == 2
    assert encoder_of(fast, bos="none").rows([example()])[0].ids[0] not in (0, 1)
    with pytest.raises(UserError, match="<nope>") as caught:
        encoder_of(fast, bos="<nope>")
    assert caught.value.where == "prompt.bos"
    (tmp_path / "tokenizer.model").write_bytes((spm / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert encoder_of(tmp_path).bos_id is None


def test_a_fast_tokenizer_that_adds_bos(folders: dict[str, Path], tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_file(str(folders["tokenizers"] / "tokenizer.json"))
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.enable_truncation(3)
    made.enable_padding(length=50)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}')
    encoder = encoder_of(tmp_path)
    assert encoder.bos_id == 0
    (row,) = encoder.rows([example()])
    assert row.ids.count(0) == 1  # added once, and neither truncated nor padded
    assert encoder.tokenizer.decode(row.ids) == "Q: Say hello.\nA:the cat"


def test_the_end_that_the_template_names(folders: dict[str, Path], tmp_path: Path) -> None:
    fast = folders["tokenizers"]
    assert encoder_of(fast, Template("t", "", "", end="<s>")).end_id == 0
    lacking = encoder_of(fast, Template("t", "", "", end="<|endoftext|>"))
    assert lacking.end_id == 1
    assert "the template ends with <|endoftext|>, which this tokenizer lacks" in lacking.notes[0]
    assert encoder_of(fast, Template("t", "", "", end="the")).end_id == 1  # in the vocabulary, but plain text
    with pytest.raises(UserError, match="end token"):
        encoder_of(byte_level(tmp_path, eos_token=None))


def test_seams(folders: dict[str, Path]) -> None:
    plain = Template("t", "{instruction} {input} ", "{instruction} ")  # a space at the end, as in qlora.py
    rows = [example("a", "the cat"), example("a", "\n")]
    for name, folder in folders.items():
        joint = encoder_of(folder, plain, join="joint")
        assert joint.rows(rows)[0].seam, name
        assert joint.seams(rows) == sum(row.seam for row in joint.rows(rows))
        assert encoder_of(folder, plain, join="apart").seams(rows) == joint.seams(rows)
        assert not any(row.seam for row in encoder_of(folder, plain, join="apart").rows(rows))


def test_no_rows(folder: Path) -> None:
    encoder = encoder_of(folder)
    assert encoder.rows([]) == []
    assert encoder.seams([]) == 0
