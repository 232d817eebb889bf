"""A .gguf file becomes, once, a folder with safetensors and tokenizer that stock transformers loads.

transformers does the dequantising. Two things it gets wrong are mended here: the model stays marked as quantised
unless asked otherwise, and a tokenizer loses the pre-tokenizer that the file names (checked against llama.cpp: 188 of
4,000 texts differed for SmolLM2, none after).
"""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import exclusive, need_space, replace_folder, sha256_file
from pipeline.progress import bar, say

CONVERTER = 1  # raise when the conversion's result changes: cached folders of older versions are then left alone


def convert(file: Path, root: Path) -> Path:
    """Returns the folder for this file's content under `root`, converting when it is not there.

    Raises:
        UserError: transformers cannot read the file, or the disk is full.
    """
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
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"transformers cannot read this GGUF file: {said}", str(file), "give the model as a safetensors folder"
            ) from None
        _mend_tokenizer(tokenizer, file)
        with replace_folder(folder) as new:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
        progress.update()


def _mend_tokenizer(tokenizer: Any, file: Path) -> None:
    """Puts back the digit splitting that the file's `tokenizer.ggml.pre` stands for; says when it is another one."""
    from tokenizers import pre_tokenizers

    name = _pre_tokenizer(file)
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


def _pre_tokenizer(file: Path) -> str:
    """The string behind `tokenizer.ggml.pre` in the file's header; empty when it has none.

    Read by hand: gguf's own reader spends seconds on the vocabulary that stands beside it. After the key come the
    type (uint32, 8 = string), the length (uint64) and the bytes, little-endian (GGUF specification, version 3).
    """
    with open(file, "rb") as handle:
        head = handle.read(64 * 2**20)
    # With its length in front, or it would also be found in tokenizer.ggml.prefix_token_id.
    key = struct.pack("<Q", 18) + b"tokenizer.ggml.pre"
    at = head.find(key) + len(key)
    if at < len(key) or len(head) < at + 12:
        return ""
    kind, length = struct.unpack_from("<IQ", head, at)
    return head[at + 12 : at + 12 + length].decode("utf-8", "replace") if kind == 8 else ""
