"""Checks a tokenizer's files before they are parsed: their sizes, and the types of the fields that are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.json_file import (  # fmt: skip
    Kind,
    is_flag,
    is_id,
    is_number,
    is_object,
    is_text,
    is_texts,
    is_token,
    is_whole,
    read_object,
)

FIX = "fetch the tokenizer's files again, or name another folder with model.tokenizer"
# Parsed by `tokenizers`, which limits its depth. Gemma's has 33 MB.
LARGEST_TOKENIZER = 256_000_000
LARGEST_TEMPLATE = 1_000_000
LARGEST_VOCABULARY = 64_000_000

TOKENS: dict[str, Kind] = dict.fromkeys(
    [f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")], is_token
)
IDS: dict[str, Kind] = dict.fromkeys([f"{name}_token_id" for name in ("bos", "eos", "pad", "unk")], is_id)


def _is_tokens(value: Any) -> bool:
    parts = list(value.values()) if isinstance(value, dict) else value
    return value is None or (isinstance(parts, list) and all(is_token(v) and v is not None for v in parts))


def _is_template(value: Any) -> bool:
    """One text, or several under names (`[{"name": ..., "template": ...}]`)."""
    parts = value if isinstance(value, list) else [{"template": value}]
    texts: list[Any] = [v.get("template") if isinstance(v, dict) else 0 for v in parts]
    return all(v is None or (isinstance(v, str) and len(v) <= LARGEST_TEMPLATE) for v in texts)


def _is_vocabulary(value: Any) -> bool:
    return isinstance(value, dict) and all(is_whole(v) for v in value.values())


def _is_decoder(value: Any) -> bool:
    """{"0": {"content": "<s>", ...}, ...}."""
    entries = value.items() if isinstance(value, dict) else ()
    whole = all(k.isascii() and k.isdigit() and len(k) < 10 and isinstance(v, dict) and is_token(v) for k, v in entries)
    return is_object(value) and whole


FIELDS: dict[str, dict[str, Kind]] = {
    "config.json": IDS,
    "special_tokens_map.json": {**TOKENS, "additional_special_tokens": _is_tokens},
    "tokenizer_config.json": {
        **TOKENS, "additional_special_tokens": _is_tokens, "extra_special_tokens": _is_tokens,
        "added_tokens_decoder": _is_decoder, "add_bos_token": is_flag, "add_eos_token": is_flag,
        "model_max_length": is_number, "tokenizer_class": is_text, "padding_side": is_text,
        "truncation_side": is_text, "chat_template": _is_template, "model_input_names": is_texts,
    },
    "chat_template.json": {"chat_template": _is_template},
}  # fmt: skip
SIZES = {
    "tokenizer.json": LARGEST_TOKENIZER, "tokenizer.model": LARGEST_TOKENIZER, "chat_template.jinja": LARGEST_TEMPLATE,
    "vocab.json": LARGEST_VOCABULARY, "merges.txt": LARGEST_VOCABULARY, "added_tokens.json": LARGEST_VOCABULARY,
}  # fmt: skip


def check(folder: Path) -> None:
    """Checks every file of a tokenizer in the folder.

    Raises:
        UserError: naming the first that is too large, no plain file, damaged, or has a field of another type.
    """
    for name, limit in SIZES.items():
        path = folder / name
        if path.exists() and not path.is_file():
            raise UserError(f"{name} is not a plain file", str(folder), FIX)
        if path.is_file() and path.stat().st_size > limit:
            raise UserError(f"{name} is larger than {limit:,} bytes", str(folder), FIX)
    template = folder / "chat_template.jinja"
    if template.is_file():
        try:
            template.read_text(encoding="utf-8")
        except ValueError:
            raise UserError(f"{template.name} is not UTF-8", str(folder), FIX) from None
    for name, fields in FIELDS.items():
        if (folder / name).exists():
            read_object(folder / name, fields, FIX)
    added = folder / "added_tokens.json"
    if added.exists():
        vocabulary = read_object(added, {}, FIX, LARGEST_VOCABULARY)
        if not _is_vocabulary(vocabulary):
            raise UserError(f"{added.name} is invalid: the id of a token is not a whole number", str(folder), FIX)
