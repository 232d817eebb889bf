"""Examples to ids and labels, with tokenizers small enough to be made here: one of each kind."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.config.schema import Config, Prompt
from pipeline.dataset import stage as data_stage
from pipeline.dataset.example import Example
from pipeline.prompt import stage as token_stage
from pipeline.prompt.doctor import examine, examine_rows
from pipeline.prompt.encode import IGNORE, Encoder, Row
from pipeline.prompt.preview import as_text
from pipeline.prompt.template import Template
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import Tokens, TokenWriter
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.tiny import load_examples

SENTENCES = [
    "Say hello to the world.",
    "### Instruction:\n### Response:\n\n",
    "the cat sat on the mat",
    "안녕하세요 세계",
] * 5
TEXTS = [
    "", " ", "\n", "\n\n x", " lead", "trail ", "two  spaces", "안녕 😀", "</s>", "<s> a </s> b", "a</s>b", "tab\tx",
    "nul\x00", "\u2028", "▁ low line",
]  # fmt: skip
TEMPLATE = Template("t", "Q: {instruction}\nI: {input}\nA:", "Q: {instruction}\nA:")


def byte_level(folder: Path, **config: Any) -> Path:
    """A GPT-like tokenizer: byte-level BPE, every text is covered. <s> is 0, </s> is 1."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in names.items() if v is not None}))
    return folder


def sentence_piece(folder: Path) -> Path:
    """A LLaMA-like tokenizer: BPE with byte fallback and a space in front. <unk> 0, <s> 1, </s> 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=340, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        allow_whitespace_only_pieces=True, split_digits=True, num_threads=1,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {"tokenizers": byte_level(root / "fast"), "sentencepiece": sentence_piece(root / "spm")}


@pytest.fixture(params=["tokenizers", "sentencepiece", "llama"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """A tokenizer of each kind, and LLaMA's own where the real data is."""
    if request.param == "llama":
        return Path(request.getfixturevalue("shared_data")) / "llama_tokenizer"
    return folders[request.param]


def encoder_of(folder: Path, template: Template = TEMPLATE, **prompt: Any) -> Encoder:
    return Encoder(template, Tokenizer(folder), Prompt.model_validate(prompt))


def example(instruction: str = "Say hello.", output: str = "the cat", input: str = "") -> Example:
    return Example.of(instruction, input, output, source="s")


# --- ids and labels


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
        assert (short.ids, short.labels, short.forgot, short.cut) == (same.ids, same.labels, True, False)
        assert not same.forgot
    (still,) = encoder_of(folder, join=join, cutoff=lengths[9] - 1).rows([item])
    assert (still.cut, still.forgot) == (True, True)
    assert still.learnt  # of the whole conversation, no token of the answer was left


def test_rows_without_earlier_turns_are_cut_as_ever(folder: Path) -> None:
    encoder = encoder_of(folder, cutoff=30)
    for item in (example(input="the cat " * 50), long_talk(thread=""), example(output="the cat " * 50)):
        (row,) = encoder.rows([item])
        (full,) = encoder_of(folder, cutoff=4096).rows([item])
        assert (row.ids, row.cut, row.forgot) == (full.ids[:30], True, False)


def test_learnt_leaves_out_the_first_token(folders: dict[str, Path]) -> None:
    (whole,) = encoder_of(folders["tokenizers"], mask_prompt=False).rows([example()])
    assert whole.labels[0] != IGNORE
    assert whole.learnt == len(whole.ids) - 1
    (answer,) = encoder_of(folders["tokenizers"]).rows([example()])
    assert answer.learnt == len(answer.ids) - answer.prompt
    assert Row([5], [5], 0, False, False).learnt == 0


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
    assert (len(row.ids), row.prompt, row.labels, row.learnt) == (4, 4, [IGNORE] * 4, 0)


def test_bos(folders: dict[str, Path], tmp_path: Path) -> None:
    fast, spm = folders["tokenizers"], folders["sentencepiece"]
    assert encoder_of(spm).bos_id == 1  # LLaMA's tokenizer adds it by itself
    assert encoder_of(fast).bos_id is None  # this one does not
    assert encoder_of(spm, bos="none").bos_id is None
    assert encoder_of(fast, bos="</s>").bos_id == 1
    assert encoder_of(spm, bos="</s>").rows([example()])[0].ids[0] == 2
    assert encoder_of(fast, bos="none").rows([example()])[0].ids[0] not in (0, 1)
    with pytest.raises(UserError, match="'<nope>' is not in the vocabulary") as caught:
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
    with pytest.raises(UserError, match="no end token, so the model could never learn to stop"):
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


# --- the tokenizer


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
    with pytest.raises(UserError, match="'</s>' is in the vocabulary already"):
        Tokenizer(folder, ["</s>"])
    with pytest.raises(UserError, match="is in the vocabulary already"):
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


# --- the doctor


def test_what_the_doctor_says_of_a_healthy_tokenizer(folders: dict[str, Path]) -> None:
    notes = examine(encoder_of(folders["sentencepiece"]), 340, [2])
    assert notes[0] == "every row opens with BOS <s> (1) and ends with </s> (2)"
    assert "no padding token" in notes[1]
    assert len(notes) == 2
    assert "opens with BOS none" in examine(encoder_of(folders["tokenizers"]), None, [])[0]


def test_what_the_doctor_repairs_and_notes(folders: dict[str, Path], tmp_path: Path) -> None:
    fast = byte_level(tmp_path, pad_token="</s>")
    assert any("padding and end token share an id" in note for note in examine(encoder_of(fast), None, []))
    assert any("BOS and end token are the same" in n for n in examine(encoder_of(fast, bos="</s>"), None, []))
    repaired = examine(encoder_of(fast), None, [7, 8])
    assert "repaired: the base stops at [7, 8], the export will stop at 1" in repaired
    size = Tokenizer(folders["sentencepiece"]).size
    added = Encoder(TEMPLATE, Tokenizer(folders["sentencepiece"], ["[PAD]"]), Prompt())
    assert f"new token [PAD] gets id {size}: its embedding is trained and saved" in examine(added, size, [])
    lacking = Template("t", "", "", end="<|x|>")
    assert any("the template ends with <|x|>" in note for note in examine(encoder_of(fast, lacking), None, []))


def test_the_doctor_stops_at_ids_beyond_the_embedding(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["sentencepiece"])
    with pytest.raises(UserError, match="ids up to 339, the base's embedding only 339 rows") as caught:
        examine(encoder, 339, [])
    assert "use the tokenizer that belongs to this base" in caught.value.fix


def test_the_doctor_stops_at_a_special_id_outside_of_the_vocabulary(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folders["tokenizers"] / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text('{"eos_token_id": 1, "pad_token_id": 32000}')
    with pytest.raises(UserError, match="pad has id 32000, outside of the vocabulary of"):
        examine(encoder_of(tmp_path), None, [])


def test_the_doctor_stops_at_special_ids_from_plain_text(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(folders["tokenizers"])
    encoder.tokenizer._fast.encode_special_tokens = False  # as tokenizers does unless told otherwise
    with pytest.raises(UserError, match="plain text '<s>' turns into the special id 0"):
        examine(encoder, None, [])
    with pytest.raises(UserError, match="plain text of row 13 gave the special id 1"):
        examine_rows(encoder, encoder.rows([example(), example("</s>"), example()]), first=11)


def test_letters_without_a_token_are_no_smuggled_special_token(tmp_path: Path) -> None:
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
    examine_rows(encoder, rows)
    as_end = encoder_of(byte_level(tmp_path / "other", unk_token="</s>"))
    smuggled = [1, *as_end.rows([example()])[0].ids]
    with pytest.raises(UserError, match="gave the special id 1"):
        examine_rows(as_end, [Row(smuggled, smuggled, 1, cut=False, seam=False)])


def test_the_doctor_stops_at_rows_that_lack_their_ends(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["sentencepiece"])
    good = encoder.rows([example()])[0]
    examine_rows(encoder, [good, Row(good.ids[:-1], good.labels[:-1], good.prompt, cut=True, seam=False)])
    for ids in (good.ids[1:], good.ids[:-1]):
        with pytest.raises(UserError, match="row 1 does not open with BOS 1 and close with 2"):
            examine_rows(encoder, [Row(ids, ids, 1, cut=False, seam=False)])
    twice = [1, *good.ids]
    with pytest.raises(UserError, match="row 2 gave the special id 1"):
        examine_rows(encoder, [good, Row(twice, twice, 1, cut=False, seam=False)])


# --- tokens on disk, and to be read by a person


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
    assert tokens.learnt.tolist() == [row.learnt for row in rows] == [2, 0, 2, 0]
    assert tokens.names.to_pylist() == ["a", "b", "c", "d"]
    for i, row in enumerate(rows):
        ids, labels = tokens.row(i)
        assert (ids.tolist(), labels.tolist()) == (row.ids, row.labels)
        assert ids.dtype == labels.dtype == np.int32


@pytest.mark.parametrize("batches", [0, 1])
def test_an_empty_part(tmp_path: Path, batches: int) -> None:
    writer = TokenWriter(tmp_path / "a.arrow")
    for _ in range(batches):
        writer.write([], [])
    writer.close()
    tokens = Tokens(tmp_path / "a.arrow")
    assert len(tokens) == 0
    assert tokens.lengths.tolist() == tokens.learnt.tolist() == []


def test_preview(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["tokenizers"], bos="<s>")
    rows = encoder.rows([example(), example(output="안녕")])
    text = as_text(encoder, rows, colour=False)
    assert "<s>Q: Say hello.\nA:«the cat</s>»" in text
    assert "«안녕</s>»" in text
    assert text.startswith(
        f"--- row 1: {len(rows[0].ids)} tokens, {rows[0].learnt} carry loss, ends with its end token\n"
    )
    assert "\033[32mthe cat</s>\033[0m" in as_text(encoder, rows, colour=True)
    (cut,) = encoder_of(folders["tokenizers"], cutoff=4).rows([example()])
    assert "cut at the cutoff: no end token" in as_text(encoder, [cut], colour=False)


# --- the stage


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
        assert counts[part]["learnt"] == found.learnt.sum()
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
    with pytest.raises(UserError, match="no token of any training row carries loss") as caught:
        tokens_of(tmp_path, folders["tokenizers"], rows, cutoff=4, too_long=too_long)
    assert caught.value.where == "prompt.cutoff"
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["dataset"]
