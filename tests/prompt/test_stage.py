"""The tokens stage: rows on disk, their counts, the preview."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.schema import Config
from pipeline.dataset import stage as data_stage
from pipeline.prompt import stage as token_stage
from pipeline.prompt.encode import IGNORE, Row
from pipeline.prompt.preview import as_text
from pipeline.prompt.tokens import Tokens, TokenWriter
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.chat_runs import chat_config, make_chat_base
from tests.helpers.tiny import load_examples, run_to
from tests.helpers.tokenizers import encoder_of, example


def test_tokens_round_trip(tmp_path: Path) -> None:
    rows = [
        Row([1, 5, 6, 2], [IGNORE, IGNORE, 6, 2], 2, False, False),
        Row([1], [1], 0, True, False),
        Row([7, 8, 9], [7, 8, 9], 0, False, False),
        Row([1, 2], [IGNORE, IGNORE], 2, True, False),
    ]
    writer = TokenWriter(tmp_path / "a.arrow")
    writer.write(iter(rows[:2]), iter(["a", "b"]))
    writer.write([], [])
    writer.write(rows[2:], ["c", "d"])
    writer.close()
    tokens = Tokens(tmp_path / "a.arrow")
    assert len(tokens) == 4
    assert tokens.lengths.tolist() == [4, 1, 3, 2]
    assert tokens.labelled.tolist() == [row.labelled for row in rows] == [2, 0, 2, 0]
    assert tokens.names.to_pylist() == ["a", "b", "c", "d"]
    for i, row in enumerate(rows):
        ids, labels = tokens.row(i)
        assert (ids.tolist(), labels.tolist()) == (row.ids, row.labels)
        assert ids.dtype == labels.dtype == np.int32


@pytest.mark.parametrize("batches", [0, 1])
def test_an_empty_split(tmp_path: Path, batches: int) -> None:
    writer = TokenWriter(tmp_path / "a.arrow")
    for _ in range(batches):
        writer.write([], [])
    writer.close()
    tokens = Tokens(tmp_path / "a.arrow")
    assert len(tokens) == 0
    assert tokens.lengths.tolist() == tokens.labelled.tolist() == []


def test_preview(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["tokenizers"], bos="<s>")
    rows = encoder.rows([example(), example(output="안녕")])
    text = as_text(encoder, rows, colour=False)
    assert "<s>Q: Say hello.\nA:«the cat</s>»" in text
    assert "«안녕</s>»" in text
    assert text.startswith(
        f"--- row 1: {len(rows[0].ids)} tokens, {rows[0].labelled} trained, ends with the end token\n"
    )
    assert "\033[32mthe cat</s>\033[0m" in as_text(encoder, rows, colour=True)
    (cut,) = encoder_of(folders["tokenizers"], cutoff=4).rows([example()])
    assert "cut at the cutoff, without an end token" in as_text(encoder, [cut], colour=False)


def tokens_of(tmp_path: Path, folder: Path, rows: list[dict[str, str]], **config: Any) -> Run:
    """Data and tokens stages over these rows."""
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = {"sources": [{"path": str(tmp_path / "rows.json")}], "clean": "none", **config.pop("data", {})}
    made = Config.model_validate({"name": "t", "model": {"base": "x"}, "data": data, "prompt": config})
    run = Run(tmp_path / "run")
    data_stage.build(made, run)
    token_stage.build(made, run, token_stage.Vocabulary(folder), token_stage.key(made, run, "id"))
    assert run.is_current("tokens", token_stage.key(made, run, "id"))
    return run


def test_the_tokens_stage(tmp_path: Path, folders: dict[str, Path]) -> None:
    rows = [{"instruction": f"Say {i}", "output": "the cat " * (1 + 40 * (i == 3))} for i in range(6)]
    run = tokens_of(tmp_path, folders["tokenizers"], rows, template="alpaca-short", cutoff=80, data={"val": 2})
    manifest = run.manifest("tokens")
    assert manifest is not None
    counts = manifest["counts"]
    tokens = {part: Tokens(run.folder("tokens") / f"{part}.arrow") for part in ("train", "val", "holdout")}
    for part, found in tokens.items():
        examples = load_examples(run, part)
        assert found.names.to_pylist() == [e.id for e in examples]
        assert counts[part]["rows"] == len(found) == len(examples)
        assert counts[part]["tokens"] == found.lengths.sum()
        assert counts[part]["learnt"] == found.labelled.sum()
    assert sum(counts[part]["cut"] for part in tokens) == 1
    assert (counts["end_id"], counts["bos_id"], counts["template"]["id"]) == (1, None, "alpaca-short")
    assert "### Response:\n«the cat </s>»" in (run.folder("tokens") / "preview.txt").read_text()


def test_rows_that_lost_turns_are_counted(tmp_path: Path, folders: dict[str, Path]) -> None:
    talk = [{"role": ("user", "assistant")[i % 2], "content": f"the cat {i}"} for i in range(40)]
    run = tokens_of(tmp_path, folders["tokenizers"], [{"messages": talk}], template="alpaca-short", cutoff=120)
    manifest = run.manifest("tokens")
    assert manifest is not None
    train = manifest["counts"]["train"]
    assert (train["rows"], train["no_loss"], train["cut"]) == (20, 0, 0)
    assert 10 < train["forgot"] < 20


def test_rows_too_long_are_rejected_on_request(tmp_path: Path, folders: dict[str, Path]) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "the cat " * 50}]
    run = tokens_of(tmp_path, folders["tokenizers"], rows, template="alpaca-short", cutoff=80, too_long="reject")
    manifest = run.manifest("tokens")
    assert manifest is not None
    train = manifest["counts"]["train"]
    assert (train["rows"], train["rejected"], train["cut"]) == (1, 1, 0)


@pytest.mark.parametrize("too_long", ["cut", "reject"])
def test_no_row_that_carries_loss(tmp_path: Path, folders: dict[str, Path], too_long: str) -> None:
    rows = [{"instruction": "a", "output": "b"}]
    with pytest.raises(UserError, match="no row has a trained token") as caught:
        tokens_of(tmp_path, folders["tokenizers"], rows, cutoff=4, too_long=too_long)
    assert caught.value.where == "prompt.cutoff"
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["dataset"]


def test_answers_that_fit_into_no_row_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_chat_base(tmp_path / "base", "llama")
    long = " ".join(f"word{n}" for n in range(60))
    texts = ("Q1", "A1", "Q2", long, "Q3", "A3")
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    (tmp_path / "long.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    source = f"data.sources=[{{path: {tmp_path / 'long.jsonl'}}}]"
    config = chat_config(tmp_path, base, source, "data.val=0", "prompt.cutoff=120", "prompt.too_long=split")
    run = run_to(config, "tokens", tmp_path)
    counts = run.manifest("tokens")["counts"]["train"]
    assert (counts["rows"], counts["split"], counts["left_out"]) == (2, 1, 1)
    said = " ".join(capsys.readouterr().out.split())
    assert "train: 1 answers are not learnt: with its question each is longer than 120 tokens" in said


def test_refused_conversations_are_told_with_the_first_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_chat_base(tmp_path / "base", "llama")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    refusing = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words') }}{% endif %}{% endfor %}"
    )
    settings["chat_template"] = refusing + settings["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    fine, bad = (
        {
            "messages": [
                {"role": "user", "content": "Say it."},
                {"role": "assistant", "content": f"Here is a {word} one."},
            ]
        }
        for word in ("good", "bad")
    )
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(fine) + "\n" + json.dumps(bad) + "\n")
    more = (f"data.sources=[{{path: {path}}}]", "data.val=0")
    run_to(chat_config(tmp_path, base, *more), "tokens", tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 conversations are rejected: the chat template refuses them" in said
    assert "turn 2 (assistant): no bad words" in said
    path.write_text(json.dumps(bad) + "\n")
    with pytest.raises(UserError, match="refuses every conversation; the first: turn 2") as caught:
        run_to(chat_config(tmp_path, base, *more), "tokens", tmp_path)
    assert caught.value.where == "prompt.template"
