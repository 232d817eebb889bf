"""The tokenizer, and the checks of tokenizer and rows before training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from pipeline.config.schema import Prompt
from pipeline.prompt.encode import Encoder, Row
from pipeline.prompt.template import Template
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokenizer_checks import check_rows, check_tokenizer
from pipeline.run.errors import UserError
from tests.helpers.tokenizers import TEMPLATE, byte_level, encoder_of, example

TEXTS = [
    "", " ", "\n", "\n\n x", " lead", "trail ", "two  spaces", "안녕 😀", "</s>", "<s> a </s> b", "a</s>b", "tab\tx",
    "nul\x00", "\u2028", "▁ low line",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_round_trips_and_is_never_special(folder: Path, text: str) -> None:
    tokenizer = Tokenizer(folder)
    first, *rest = tokenizer.encode([text, "x"])
    after = tokenizer.encode_after([text])[0]
    assert len(rest) == 1
    for ids in (first, after):
        assert not set(ids) & set(tokenizer.special_ids)
        assert all(0 <= id < tokenizer.size for id in ids)
    head = tokenizer.encode(["Q: a\nA:"])[0]
    assert tokenizer.decode(first) == text.replace("▁", " " if tokenizer.kind == "sentencepiece" else "▁")
    assert tokenizer.decode(head + after) == "Q: a\nA:" + tokenizer.decode(first)


def test_special_ids_by_their_spelling(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    for name, spelling in (("bos", "<s>"), ("eos", "</s>")):
        id = getattr(tokenizer, f"{name}_id")
        assert tokenizer.token_id(spelling) == id
        assert tokenizer.token(id) == spelling
        assert tokenizer.special_ids[id] == spelling
    assert tokenizer.token_id("<nope>") is None


def test_added_tokens_follow_the_vocabulary(folder: Path) -> None:
    plain, more = Tokenizer(folder), Tokenizer(folder, ["[PAD]", "<|new|>"])
    assert more.added == {"[PAD]": plain.size, "<|new|>": plain.size + 1}
    assert more.size == plain.size + 2
    assert more.pad_id == plain.size
    assert more.token(plain.size + 1) == "<|new|>"
    assert more.special_ids[plain.size] == "[PAD]"
    assert more.decode([*more.encode(["the cat"])[0], plain.size], keep_special=True) == "the cat[PAD]"
    assert more.encode(["[PAD] <|new|>"]) == plain.encode(["[PAD] <|new|>"])
    assert more.hash != plain.hash
    assert more.hash == Tokenizer(folder, ["[PAD]", "<|new|>"]).hash
    with pytest.raises(UserError, match="</s>"):
        Tokenizer(folder, ["</s>"])
    with pytest.raises(UserError, match="<a>"):
        Tokenizer(folder, ["<a>", "<a>"])


def test_added_tokens_avoid_holes_in_the_vocabulary(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 7, "[UNK]": 3}, unk_token="[UNK]"))
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": [7, 0], "bos_token_id": 0, "pad_token_id": -1}')
    tokenizer = Tokenizer(tmp_path, ["<new>"])
    assert tokenizer.added == {"<new>": 8}
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (7, 0, None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no tokenizer.model and no tokenizer.json"),
        ({"tokenizer.model": b"junk"}, "not a sentencepiece model"),
        ({"tokenizer.json": b"junk"}, "not a readable tokenizer.json"),
        ({"tokenizer.json": b""}, "not a readable tokenizer.json"),
    ],
)
def test_folders_without_a_usable_tokenizer(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said) as caught:
        Tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.where
    assert caught.value.fix


def test_notes_on_a_good_tokenizer(folders: dict[str, Path]) -> None:
    notes = check_tokenizer(encoder_of(folders["sentencepiece"]), 340, [2])
    assert notes[0] == "rows start with <s> (1) and end with </s> (2)"
    assert "no padding token" in notes[1]
    assert len(notes) == 2
    assert "no start token" in check_tokenizer(encoder_of(folders["tokenizers"]), None, [])[0]


def test_notes_on_repairs(folders: dict[str, Path], tmp_path: Path) -> None:
    fast = byte_level(tmp_path, pad_token="</s>")
    assert any("the id of the end token" in note for note in check_tokenizer(encoder_of(fast), None, []))
    assert any("start and end token are the same" in n for n in check_tokenizer(encoder_of(fast, bos="</s>"), None, []))
    repaired = check_tokenizer(encoder_of(fast), None, [7, 8])
    assert any("7, 8" in note and "(1), as trained" in note for note in repaired)
    size = Tokenizer(folders["sentencepiece"]).size
    added = Encoder(TEMPLATE, Tokenizer(folders["sentencepiece"], ["[PAD]"]), Prompt())
    assert any(f"[PAD] (id {size})" in note for note in check_tokenizer(added, size, []))
    lacking = Template("t", "", "", end="<|x|>")
    assert any("the template ends with <|x|>" in note for note in check_tokenizer(encoder_of(fast, lacking), None, []))


def test_ids_beyond_the_embedding(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["sentencepiece"])
    with pytest.raises(UserError, match="339") as caught:
        check_tokenizer(encoder, 339, [])
    assert caught.value.where == str(encoder.tokenizer.folder)


def test_a_special_id_outside_the_vocabulary(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folders["tokenizers"] / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text('{"eos_token_id": 1, "pad_token_id": 32000}')
    with pytest.raises(UserError, match="32000"):
        check_tokenizer(encoder_of(tmp_path), None, [])


def test_special_ids_from_plain_text(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(folders["tokenizers"])
    encoder.tokenizer._fast.encode_special_tokens = False  # as tokenizers does unless told otherwise
    with pytest.raises(UserError, match="special id 0"):
        check_tokenizer(encoder, None, [])
    with pytest.raises(UserError, match="row 13 "):
        check_rows(encoder, encoder.rows([example(), example("</s>"), example()]), first=11)


def test_the_unknown_token_is_no_special_token_from_text(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, unk_token="<unk>")
    settings = json.loads((folder / "tokenizer.json").read_text())
    words = settings["model"]["vocab"]
    words["<unk>"] = words.pop(pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\x04")[0][0])
    settings["model"]["unk_token"] = "<unk>"
    token = {"id": words["<unk>"], "content": "<unk>", "special": True}
    settings["added_tokens"].append({**settings["added_tokens"][0], **token})
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    encoder = encoder_of(folder)
    rows = encoder.rows([example(output="a\x04b")])
    assert encoder.tokenizer.unk_id in rows[0].ids
    assert encoder.tokenizer.unk_id in encoder.tokenizer.special_ids
    check_rows(encoder, rows)
    as_end = encoder_of(byte_level(tmp_path / "other", unk_token="</s>"))
    smuggled = [1, *as_end.rows([example()])[0].ids]
    with pytest.raises(UserError, match="special id 1"):
        check_rows(as_end, [Row(smuggled, smuggled, 1, cut=False, seam=False)])


def test_rows_without_bos_or_end(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["sentencepiece"])
    good = encoder.rows([example()])[0]
    check_rows(encoder, [good, Row(good.ids[:-1], good.labels[:-1], good.prompt, cut=True, seam=False)])
    for ids in (good.ids[1:], good.ids[:-1]):
        with pytest.raises(UserError, match="row 1 "):
            check_rows(encoder, [Row(ids, ids, 1, cut=False, seam=False)])
    twice = [1, *good.ids]
    with pytest.raises(UserError, match="row 2 "):
        check_rows(encoder, [good, Row(twice, twice, 1, cut=False, seam=False)])
