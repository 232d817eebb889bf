"""A .gguf file becomes, once, a folder with safetensors and tokenizer that stock transformers loads.

transformers does the dequantising. Three things it gets wrong are mended here: the model stays marked as quantised
unless asked otherwise; a tokenizer loses the pre-tokenizer that the file names (checked against llama.cpp: 188 of
4,000 texts differed for SmolLM2, none after); and 5.17 takes the token that opens a turn for the one that ends it.
"""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import Any

from pipeline.model.gguf_header import damage
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import exclusive, need_space, replace_folder, sha256_file
from pipeline.run.progress import bar, say

CONVERTER = 2  # raise when the conversion's result changes: cached folders of older versions are then left alone

# Attributes of a tokenizer, and what GGUF calls them.
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}


def convert(file: Path, root: Path) -> Path:
    """Returns the folder for this file's content under `root`, converting when it is not there.

    Raises:
        UserError: the file is damaged, transformers cannot read it, or the disk is full.
    """
    if wrong := damage(file):
        raise UserError(f"this GGUF file is damaged: {wrong}", str(file), "fetch it again")
    folder = root / f"{file.stem}-{sha256_file(file)[:12]}-v{CONVERTER}"
    with exclusive(root / ".lock", wait=True):  # two runs may want the same base
        if not (folder / "config.json").is_file():
            _convert(file, folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    need_space(folder, 8 * file.stat().st_size, f"converting {file.name}")
    say(f"base: converting {file.name} to safetensors, once")
    with bar(total=4, what="converting base", unit="step") as progress:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        progress.update()
        place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # transformers draws a bar of its own here, over ours
                model = AutoModelForCausalLM.from_pretrained(
                    **place, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
                )
            progress.update()
            tokenizer = AutoTokenizer.from_pretrained(**place)
            progress.update()
        except Exception as error:  # unknown architectures, broken files: each its own kind
            said = one_line(error)
            raise UserError(
                f"transformers cannot read this GGUF file: {said}", str(file), "give the model as a safetensors folder"
            ) from None
        _mend_tokenizer(tokenizer, file)
        with replace_folder(folder) as new:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
        progress.update()


def _mend_tokenizer(tokenizer: Any, file: Path) -> None:
    """Puts back the special tokens that the file names, and the digit splitting that its `tokenizer.ggml.pre` stands
    for; says when it is another one."""
    from tokenizers import pre_tokenizers

    with open(file, "rb") as handle:
        head = handle.read(64 * 2**20)
    for role, key in SPECIAL.items():
        id = _value(head, f"tokenizer.ggml.{key}_token_id")
        if isinstance(id, int) and id < len(tokenizer):
            setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(id))
    name = _value(head, "tokenizer.ggml.pre")
    if name != "smollm":
        say(
            f"base: the tokenizer ({name or 'no name given'}) is used as transformers reads it; it was not compared "
            "with llama.cpp's own, and the model's original tokenizer is safer (model.tokenizer)"
        )
        return
    digits = pre_tokenizers.Digits(individual_digits=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    # transformers 5.17 gives <|endoftext|> for the 21 bytes without a token; 5.23, as the original tokenizer, nothing.
    tokenizer.backend_tokenizer.model.unk_token = None


def _value(head: bytes, key: str) -> str | int | None:
    """What a GGUF file's header says under `key`, where that is a string or a uint32; None otherwise.

    Read by hand: gguf's own reader spends seconds on the vocabulary that stands beside it. A key has its length in
    front (uint64); after it come the type (uint32; 4 = uint32, 8 = string), and the value, a string again with its
    length, little-endian (GGUF specification, version 3).
    """
    # With its length, or tokenizer.ggml.pre would also be found in tokenizer.ggml.prefix_token_id.
    name = struct.pack("<Q", len(key)) + key.encode()
    at = head.find(name) + len(name)
    if at < len(name) or len(head) < at + 12:
        return None
    kind, number = struct.unpack_from("<II", head, at)
    if kind == 8:
        (length,) = struct.unpack_from("<Q", head, at + 4)
        return head[at + 12 : at + 12 + length].decode("utf-8", "replace")
    return int(number) if kind == 4 else None
