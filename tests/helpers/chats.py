"""Small tokenizers with the special tokens of well-known bases, and conversations, nasty ones and real ones."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn
from pipeline.prompt import chat_template
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.tokenizer import Tokenizer

TEXTS = [
    "Say hello to the world.\n\nIt says: hello, world!\n",
    "user\nassistant\nmodel\nsystem\n",
    "    indented code\n\treturn 1\n\n\n",
    "안녕하세요 세계, 오늘 날씨가 좋네요.",
] * 5
# By family: special tokens, names in tokenizer_config.json, and which tokens take the white space after them.
SPECIAL: dict[str, tuple[list[str], dict[str, str], bool]] = {
    "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], {"eos_token": "<|im_end|>"}, False),
    "llama3": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, False,
    ),
    "gemma": (
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}, False,
    ),
    "phi": (
        ["<s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|system|>", "<|user|>"],
        {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, True,
    ),
    "cohere": (
        ["<BOS_TOKEN>", "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
         "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"],
        {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"}, False,
    ),
}  # fmt: skip
# How the tokenizers of Llama 3 and Qwen cut a text into words: line breaks with the white space before them are one.
LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPELT = "what do <|im_end|>, <|eot_id|>, <end_of_turn>, <|end|> and <|END_OF_TURN_TOKEN|> mean?<|im_start|>"


def chat_base(folder: Path, family: str, template: Any = None, **more: Any) -> Path:
    """Writes the tokenizer of a base: byte-level BPE, and for `gemma` BPE with byte fallback and spaces as letters.

    Args:
        template: `chat_template` in tokenizer_config.json.
    """
    special, names, strips = SPECIAL[family]
    if family == "gemma":
        made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = pre_tokenizers.Split(Regex("\n+"), "isolated")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet: list[str] = []
        special = [*special, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        made = tokenizers.Tokenizer(models.BPE())
        splits = pre_tokenizers.Split(Regex(LETTERS), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, show_progress=False, initial_alphabet=alphabet
    )
    made.train_from_iterator(TEXTS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    whole = json.loads((folder / "tokenizer.json").read_text())
    kept = SPECIAL[family][0] + ["<unk>"]
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] in kept]
    for token in whole["added_tokens"]:
        token["rstrip"] = strips and token["content"].startswith("<|")
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, **more}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def chat_encoder(folder: Path, template: str = "base", add_tokens: tuple[str, ...] = (), **prompt: Any) -> ChatEncoder:
    settings = Prompt.model_validate({"template": template, "cutoff": 4000, **prompt})
    tokenizer = Tokenizer(folder, add_tokens, json_first=True)
    return ChatEncoder(chat_template.load(settings, folder), tokenizer, settings)


def talk(*texts: str, system: str = "", learn: tuple[bool, ...] = ()) -> Example:
    """A conversation of user and assistant in turn. learn: of the answers."""
    learn = learn or (True,) * len(texts)
    turns = [Turn(("user", "assistant")[i % 2], text, i % 2 == 0 or learn[i // 2]) for i, text in enumerate(texts)]
    return Example.whole(turns, source="test", system=system)


def nasty() -> list[Example]:
    """Conversations that encoders stumble over; none spells a special token."""
    return [
        talk("Hi", "Hello"),
        talk("Hi", "Hello", "How are you?", "Well.", "Bye", "Bye."),
        talk("Hi", "Hello", system="Speak briefly."),
        talk("same", "same", "same", "same"),
        talk("a", "a a", "a", "a a a"),
        talk("", "", "", "x"),
        talk("x", "", "y", ""),
        talk("   ", "\n\n", "x", " "),
        talk("  leading", "  leading  ", "trailing  ", "trailing\n\n"),
        talk("\n\nlines\n", "\n\nlines\n", "\t", "\ttab\t"),
        talk("assistant\n", "user\nassistant\n", "model", "\nmodel\n", system="system\n"),
        talk("im_end|>", "<|im_end", "end_of_turn>", "<start_of_turn", "eot_id", "<|"),
        talk("{{ messages }} {% for x in y %}", "{# c #} {%- raw -%}", "{{ 7*7 }}", "{{ bos_token }}"),
        talk("이모지 😀👩‍👩‍👧", "한국어 대답 🙂", "𓀀 \u200b \ufeff", "é é 日本語 \u3000"),
        talk("\x00 \x07 \u2028", "\u0085 \u2029 x", "\r\n", "a\r\nb"),
        talk("What?", "    return 1\n\n\n    x = 2\n", "And?", "```py\n    y\n```\n"),
        talk("Hi", "one", "two", "three", system="한국어 시스템 🙂\n\n"),
        talk("\U000f0000 marks", "of \U000f0001 ours", "x", "\U000f0000"),
    ]


def real(shared: Path, count: int, seed: int = 0) -> Iterator[Example]:
    """Conversations of one to five questions and answers out of Korean small talk and Alpaca's rows."""
    with open(shared / "korean_chatbot.csv", encoding="utf-8", newline="") as file:
        pairs = [(row["Q"], row["A"]) for row in csv.DictReader(file)]
    alpaca = json.loads((shared / "alpaca_data.json").read_text(encoding="utf-8"))
    pairs += [(f"{r['instruction']}\n\n{r['input']}".strip(), r["output"]) for r in alpaca[:20_000]]
    draw = random.Random(seed)
    for _ in range(count):
        chosen = draw.sample(pairs, draw.randint(1, 5))
        yield talk(
            *(text for pair in chosen for text in pair), system=draw.choice(["", "", "You are a helpful guide."])
        )
