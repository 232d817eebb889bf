"""General text: the built-in one, files of one's own, and windows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.schema import Prompt
from pipeline.evaluation.general import general_windows
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder
from pipeline.prompt.general_text import BUILT_IN, Passage, cut_windows, file_hash, read_passages
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError
from tests.helpers.tiny import make_config


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(templates.load("alpaca-short"), Tokenizer(base), Prompt())


def test_built_in_text_is_long_and_varied() -> None:
    passages = read_passages(BUILT_IN)
    assert sum(len(p.text.split()) for p in passages) >= 6000
    assert len({p.kind for p in passages}) >= 8
    assert len({p.text for p in passages}) == len(passages)
    korean = [p for p in passages if any("가" <= c <= "힣" for c in p.text[:20])]
    assert len(korean) >= 8
    sentences = [s.strip() for p in passages for s in p.text.split(".") if len(s) > 30]
    assert len(set(sentences)) == len(sentences)


def test_files_of_both_kinds(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b"
    plain.write_text("\ufeffOne passage.\r\n\n  Another.  \n", encoding="utf-8")
    assert read_passages(plain) == [Passage("One passage."), Passage("Another.")]
    lines.write_text('{"text": "a\\nb", "kind": "code"}\n\n{"text": "c"}\n', encoding="utf-8")
    assert read_passages(lines) == [Passage("a\nb", "code"), Passage("c")]


@pytest.mark.parametrize(
    ("name", "data", "said", "where"),
    [
        ("x.jsonl", b'{"text": "a"}\n\n{"txt": "b"}\n', r"`text` is missing.*'txt'", "x.jsonl:3"),
        ("x.jsonl", b'{"text": "a"}\n{"text": 3}\n', "`text` is missing, empty or not a text", "x.jsonl:2"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b"\n', "not a JSON object", "x.jsonl:2"),
        ("x.jsonl", b"plain text\n", "not a JSON object", "x.jsonl:1"),
        ("x.txt", b"a\nb\n\xff\n", "not UTF-8", "x.txt:3"),
        ("x.txt", b" \n\n", "is empty", "x.txt"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, name: str, data: bytes, said: str, where: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said) as caught:
        read_passages(tmp_path / name)
    assert caught.value.where.endswith(where)


def test_a_missing_file_names_its_key(tmp_path: Path) -> None:
    for work in (lambda: read_passages(tmp_path / "no"), lambda: file_hash(str(tmp_path / "no"))):
        with pytest.raises(UserError, match="no such file") as caught:
            work()
        assert caught.value.where == "eval.general"


def test_windows_score_each_token_once(encoder: Encoder) -> None:
    """With BOS in front every token of the text is scored; without one, all but the first of each window."""
    passages = [Passage("The first passage is the longest of these three."), Passage("A short one."), Passage("x" * 40)]
    ids = encoder.tokenizer.encode([p.text for p in passages])
    for bos in (None, 1):
        fake: Any = SimpleNamespace(bos_id=bos, tokenizer=encoder.tokenizer)
        found = cut_windows(passages, fake, most=100, size=8)
        first = 0 if bos is None else 1
        assert max(len(w.ids) for w in found) == 8
        assert sorted(t for w in found for t in w.ids[first:].tolist()) == sorted(t for i in ids for t in i)
        assert sum(w.scored for w in found) == sum(map(len, ids)) - (len(found) if bos is None else 0)


def test_every_passage_has_its_turn(encoder: Encoder) -> None:
    passages = [Passage("one two three four " * 20, "long")] + [Passage("five six seven", "short")] * 3
    kinds = [w.kind for w in cut_windows(passages, encoder, most=6, size=16)]
    assert kinds == ["long", "short", "short", "short", "long", "long"]
    spread = cut_windows([Passage(f"{n} of many") for n in range(100)], encoder, most=4, size=16)
    whole = cut_windows([Passage(f"{n} of many") for n in range(100)], encoder, most=100, size=16)
    assert [w.ids.tolist() for w in spread] == [whole[n].ids.tolist() for n in (0, 25, 50, 75)]


def test_no_window_is_longer_than_the_model(base: Path, encoder: Encoder, tmp_path: Path) -> None:
    assert max(len(w.ids) for w in general_windows(make_config(tmp_path, base).eval, encoder, 20)) == 20
