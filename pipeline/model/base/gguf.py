"""Converts a .gguf file, once, into a folder with safetensors and tokenizer that stock transformers loads.

transformers dequantises. It would parse the file three times and list the names of all tensors once a tensor, two
thirds of the time; both results are kept while a file is converted (`_parsed_once`). Three faults are corrected here:
the model stays marked as quantised unless told otherwise; the tokenizer loses the pre-tokenizer that the file names
(compared with llama.cpp: 188 of 4,000 texts differed for SmolLM2, none after the correction); 5.17 takes the token
that opens a turn for the end token.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.model.base.gguf_header import read_header
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import exclusive, need_space, replace_folder, sha256_file
from pipeline.run.progress import bar, say

CONVERTER = 2  # raise when the result of the conversion changes: the name of the cached folder contains it

# Attributes of a tokenizer, and what GGUF calls them.
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}


def convert(file: Path, root: Path) -> Path:
    """The folder under `root` with this file's content, converted at the first call.

    Raises:
        UserError: the file is damaged, transformers cannot read it, or the disk is full.
    """
    try:
        header = read_header(file)
    except ValueError as error:
        raise UserError(f"this GGUF file is damaged: {error}", str(file), "fetch it again") from None
    folder = root / f"{file.stem}-{sha256_file(file)[:12]}-v{CONVERTER}"
    with exclusive(root / ".lock", wait=True):  # two runs may convert the same base
        if not (folder / "config.json").is_file():
            _convert(file, folder, header)
    return folder


def _convert(file: Path, folder: Path, header: dict[str, int | str]) -> None:
    need_space(folder, 8 * file.stat().st_size, f"converting {file.name}")
    say(f"base: converting {file.name} to safetensors; this is done once")
    with bar(total=4, what="base: converting", unit="step") as progress:
        import torch
        from transformers import AutoTokenizer

        progress.update()
        try:
            # transformers draws its own bar over ours
            with contextlib.redirect_stderr(io.StringIO()), _parsed_once():
                model = load_model(file, torch.float32)
                progress.update()
                tokenizer = AutoTokenizer.from_pretrained(**_place(file))
            progress.update()
        except Exception as error:  # of many classes: unknown architectures, broken files
            said = one_line(error)
            raise UserError(
                f"transformers cannot read this GGUF file: {said}", str(file), "give the model as a safetensors folder"
            ) from None
        _correct_tokenizer(tokenizer, header)
        with replace_folder(folder) as new:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
        progress.update()


def load_model(file: Path, dtype: Any, **options: Any) -> Any:
    """The dequantised model of a .gguf file on the CPU, by transformers' own reader; errors are those of transformers.

    Args:
        dtype: of torch. options: further arguments of `from_pretrained`.
    """
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    settings = GgufConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(**_place(file), dtype=dtype, quantization_config=settings, **options)


def _place(file: Path) -> dict[str, Any]:
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """Keeps what gguf's reader and its table of tensor names return; transformers imports both at each call."""
    import gguf

    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in kept.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(gguf, name, function)


def _correct_tokenizer(tokenizer: Any, header: dict[str, int | str]) -> None:
    """Restores the special tokens that the file names, and the pre-tokenizer `smollm` where `tokenizer.ggml.pre` names
    it; says so when it names another one."""
    from tokenizers import pre_tokenizers

    for role, key in SPECIAL.items():
        id = header.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(id, int) and id < len(tokenizer):
            setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(id))
    name = header.get("tokenizer.ggml.pre")
    if name != "smollm":
        say(
            f"base: the tokenizer in the GGUF file ({name or 'without a name'}) was not compared with llama.cpp's; the "
            "original model's tokenizer is safer: name its folder with model.tokenizer"
        )
        return
    digits = pre_tokenizers.Digits(individual_digits=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    # transformers 5.17 gives <|endoftext|> for the 21 bytes without a token; 5.23, as the original tokenizer, nothing.
    tokenizer.backend_tokenizer.model.unk_token = None
