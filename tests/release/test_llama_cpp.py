"""GGUF files in a real llama.cpp: the same log-likelihoods, greedy answers, token ids and special tokens."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.schema import Prompt
from pipeline.model.generate import greedy
from pipeline.prompt.encode import Encoder
from pipeline.prompt.template import load
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.release.gguf.reader import read_keys, tokenizer_of
from pipeline.release.gguf.supported import IGNORES_MERGES, PRE_TOKENIZERS, check_architecture
from pipeline.release.gguf.vocabulary import vocabulary_of
from pipeline.release.gguf.weights import Weights
from pipeline.release.gguf.writer import write
from tests.helpers import llama_cpp
from tests.helpers.tiny import SHAPE

pytestmark = pytest.mark.llama

SENTENCES = [
    "Say hello to the world, it's 12345 days and we'll see.", "### Instruction:\nthe cat\n\n### Response:\n",
    "안녕하세요 세계, 오늘은 2026년입니다.",
    "  two  spaces\tand   three   ", "naïve café 日本語 🙂 -- (x) [y] {z} 1,000.50",
]  # fmt: skip
EXTRA = [
    "</s> spelt <s>",
    " ",
    "\n\n\n",
    "a" * 50,
    "I'LL DON'T we'Re",
    "   \n  x \r\n\r\n y",
    "1 22 333 4444 55555",
    "é e\u0301",
]
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


def tokenizer_with(folder: Path, pre: str) -> Path:
    """Byte-level BPE trained behind one of the pre-tokenizers, or a sentencepiece model."""
    folder.mkdir()
    if pre == "sentencepiece":
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES * 5), model_writer=model, vocab_size=380, model_type="bpe",
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
            allow_whitespace_only_pieces=True, split_digits=True, num_threads=1,
        )  # fmt: skip
        (folder / "tokenizer.model").write_bytes(model.getvalue())
        return folder
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=pre in IGNORES_MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    settings = json.loads(made.to_str())
    settings["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{**p, "trim_offsets": True} if p["type"] == "ByteLevel" else p for p in PRE_TOKENIZERS[pre]],
    }
    made = tokenizers.Tokenizer.from_str(json.dumps(settings))
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(SENTENCES * 5, trainers.BpeTrainer(
        vocab_size=380, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    made.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def model_with(folder: Path, kind: str, **shape: Any) -> Any:
    """A random model, saved; weights large enough that its answers depend on positions."""
    torch.manual_seed(0)
    values = {**SHAPE, "vocab_size": 384, "bos_token_id": 1, "eos_token_id": 2, **shape}
    values.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3) if "norm" not in name else parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def written(folder: Path, model: Any, encoder: Encoder, kind: str = "f16") -> Path:
    architecture = check_architecture(model.config.to_dict(), "")
    shape = AutoConfig.from_pretrained(folder)
    vocabulary = vocabulary_of(encoder, 384, 0)
    texts = {"general.name": "t", "tokenizer.chat_template": encoder.template.jinja("", "</s>")}
    path = folder / f"t-{kind}.gguf"
    write(path, Weights(folder, shape, architecture), vocabulary, kind, architecture, texts)
    return path


def log_likelihood(model: Any, ids: list[int], first: int) -> float:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    chosen = F.log_softmax(logits, dim=-1)[range(len(ids) - 1), ids[1:]]
    return float(chosen[first - 1 :].sum())


@pytest.mark.parametrize(("pre", "kind", "shape"), [
    ("gpt-2", "llama", {}),
    ("smollm", "llama", {"tie_word_embeddings": True}),
    ("llama-bpe", "llama", {"rope_parameters": LLAMA3, "head_dim": 16}),
    ("qwen2", "qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ("sentencepiece", "mistral", {"sliding_window": None}),
    ("sentencepiece", "llama", {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, "attention_bias": True,
    }),
    ("gpt-2", "llama", {"rope_parameters": YARN, "max_position_embeddings": 256}),
    ("qwen2", "qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e6}, "max_position_embeddings": 256}),
])  # fmt: skip
def test_llama_cpp_computes_the_same(tmp_path: Path, pre: str, kind: str, shape: dict[str, Any]) -> None:
    llama_cpp.folder()
    encoder = Encoder(load("alpaca-short"), Tokenizer(tokenizer_with(tmp_path / "tokenizer", pre)), Prompt())
    model = model_with(tmp_path, kind, **shape)
    path = written(tmp_path, model, encoder)
    texts = [*SENTENCES, *EXTRA, *(encoder.template.prompt(a, b) for a in SENTENCES for b in ("", *SENTENCES))]
    rows = [([i % 380 for i in range(3 + k, 3 + 7 * (k + 9), 7)] * 6, 1 + k) for k in range(4)]
    prompts = [encoder.prompt(text) for text in SENTENCES[:3]]
    given = llama_cpp.ask(path, texts, rows, prompts, encoder.end_id, 12)

    wanted = encoder.tokenizer.encode(texts)
    for text, ids, other in zip(texts, wanted, given["tokens"], strict=True):
        assert other == ids, text
    for (ids, first), total in zip(rows, given["rows"], strict=True):
        count = len(ids) - first
        assert abs(log_likelihood(model, ids, first) - total) / count < 0.01
    mine = greedy(model, prompts, end_id=encoder.end_id, max_new_tokens=12, what="greedy")
    assert given["answers"] == mine
    assert (given["bos"], given["eos"]) == (1, 2)
    assert given["addsBos"] == (encoder.bos_id is not None)
    assert given["template"] == encoder.template.jinja("", "</s>")


@pytest.mark.parametrize("pre", ["sentencepiece", "smollm"])
def test_special_tokens_in_prompts(tmp_path: Path, pre: str) -> None:
    """Where a prompt spells special tokens, as those of chat templates do, our reader is what llama.cpp is."""
    llama_cpp.folder()
    tokenizer = Tokenizer(tokenizer_with(tmp_path / "tokenizer", pre), ("<|user|>", "<|end|>"))
    encoder = Encoder(load("alpaca-short"), tokenizer, Prompt())
    path = written(tmp_path, model_with(tmp_path, "llama"), encoder)
    texts = ["<|user|>\nhello<|end|>\n the cat</s><|user|> x", "a<|end|><|end|>  b ", "<|use|><s>hello", "</s>"]
    encode, start = tokenizer_of(read_keys(path), special=True), encoder._bos_ids()
    for text, ids in zip(texts, llama_cpp.ask(path, texts, special=True)["tokens"], strict=True):
        assert encode(text) == start + ids, text


def test_q8_0(tmp_path: Path) -> None:
    llama_cpp.folder()
    encoder = Encoder(load("alpaca-short"), Tokenizer(tokenizer_with(tmp_path / "tokenizer", "gpt-2")), Prompt())
    model = model_with(tmp_path, "llama")
    rows = [([i % 380 for i in range(3, 300, 7)], 1)]
    given = llama_cpp.ask(written(tmp_path, model, encoder, "q8_0"), rows=rows)["rows"][0]
    assert abs(log_likelihood(model, *rows[0]) - given) / 42 < 0.1  # of random weights of deviation 0.3
