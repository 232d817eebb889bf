"""Tokenizers of both kinds, small enough to be trained in a test, and encoders with them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt.encode import Encoder
from pipeline.prompt.template import Template
from pipeline.prompt.tokenizer import Tokenizer

SENTENCES = [
    "Say hello to the world.",
    "### Instruction:\n### Response:\n\n",
    "the cat sat on the mat",
    "안녕하세요 세계",
] * 5
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


def encoder_of(folder: Path, template: Template = TEMPLATE, **prompt: Any) -> Encoder:
    return Encoder(template, Tokenizer(folder), Prompt.model_validate(prompt))


def example(instruction: str = "Say hello.", output: str = "the cat", input: str = "") -> Example:
    return Example.of(instruction, input, output, source="s")
