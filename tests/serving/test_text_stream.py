"""Pieces of an answer: together the decoded text, never half a letter, and as early as possible."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.prompt.tokenizer import Tokenizer
from pipeline.serving.engine.text_stream import HALF, TextStream
from tests.helpers.chats import chat_base
from tests.helpers.tokenizers import byte_level, sentence_piece

TEXTS = [
    "안녕하세요 세계",
    "naïve 🙂👩‍👩‍👧 done",
    "  two  spaces\n\n\tx = 1",
    "한글",
    "a",
    "",
    "漢字かな交じり文 ABC",
    "🙂",
]


def byte_fallback(folder: Path) -> Path:
    return chat_base(folder, "gemma")


def stripping(folder: Path) -> Path:
    """As LLaMA's tokenizer.json: the first space of a text is removed."""
    path = byte_fallback(folder) / "tokenizer.json"
    whole = json.loads(path.read_text())
    whole["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    path.write_text(json.dumps(whole))
    return folder


MAKERS: list[Callable[[Path], Path]] = [byte_level, byte_fallback, stripping, sentence_piece]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(request.param(tmp_path_factory.mktemp("tokenizer")))


def pieces_of(tokenizer: Tokenizer, ids: list[int], prefix: str = "") -> list[str]:
    stream = TextStream(tokenizer, prefix)
    return [*(stream.push(id) for id in ids), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text_in_whole_letters(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode([text])[0]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any(HALF in piece for piece in pieces)


def test_a_letter_comes_with_its_last_id(tokenizer: Tokenizer) -> None:
    letters = ["x", "한", "a", "글", "🙂", "b"]
    stream = TextStream(tokenizer)
    for letter in letters:
        *parts, last = tokenizer.encode_after([letter])[0]
        assert [stream.push(id) for id in parts] == [""] * len(parts)
        assert stream.push(last) == letter


@pytest.mark.parametrize("seed", range(40))
def test_any_ids(tokenizer: Tokenizer, seed: int) -> None:
    """Random ids are mostly damaged letters. With byte fallback of tokenizer.json `decode` then loses whole letters
    beside the damaged one, so there the letters are whole."""
    draw = random.Random(seed)
    ids = [draw.randrange(tokenizer.size) for _ in range(60)]
    if tokenizer.kind == "tokenizers" and "ByteFallback" in tokenizer.as_json():
        whole = tokenizer.encode_after(["🙂", "한", "é"])
        choices = [whole[draw.randrange(3)] if tokenizer.token(id).startswith("<0x") else [id] for id in ids]
        ids = [id for choice in choices for id in choice]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_text_after_a_special_id(tokenizer: Tokenizer) -> None:
    special = next(iter(tokenizer.special_ids))
    words = tokenizer.encode(["one two"])[0]
    ids = [*words, special, special, *words, special]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_cut_letter_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_after(["x🙂"])[0][:-1]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces[:-1]) == "x"
    assert set(pieces[-1]) == {HALF}


def test_damage_without_end_is_given_out(tokenizer: Tokenizer) -> None:
    """The number of ids that wait is bounded, so the time per id is too."""
    bytes_ = tokenizer.encode_after(["🙂"])[0]
    stream = TextStream(tokenizer)
    for _ in range(200):
        stream.push(bytes_[1])
        assert len(stream._pending) <= 9
    text = "".join(stream.push(id) for id in bytes_) + stream.finish()
    assert text.endswith("🙂")


@pytest.mark.parametrize(
    ("text", "rest"), [(" answer", "answer"), (" ", ""), ("", ""), ("answer", "answer"), ("  two", " two")]
)
def test_prefix_is_removed_once(text: str, rest: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_level(tmp_path))
    assert "".join(pieces_of(tokenizer, tokenizer.encode([text])[0], " ")) == rest


def test_long_prefix(tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_level(tmp_path))
    prefix = "Answer: "
    for text in ("Answer: yes", "Answer no", "Ans", "Answer: "):
        ids = tokenizer.encode([text])[0]
        assert "".join(pieces_of(tokenizer, ids, prefix)) == text.removeprefix(prefix)
