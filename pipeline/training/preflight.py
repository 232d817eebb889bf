"""Checks before anything is loaded: what would stop training or the export later."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline.config.rope import longer
from pipeline.dataset.examples import read_examples
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.files import read_json

ROWS = 50  # that are encoded with both tokenizers


def open_tokens(
    folder: Path, length: int | None, scaling: dict[str, Any] | None = None
) -> tuple[Tokens, Tokens]:  # fmt: skip
    """The training rows and the held-out rows.

    Args:
        length: context length of the model, None if it has no limit. scaling: `model.rope_scaling`, which it includes.

    Raises:
        UserError: a row is longer than the context.
    """
    train, val = (Tokens(folder / f"{split}.arrow") for split in ("train", "val"))
    longest = max(int(split.lengths.max()) for split in (train, val) if len(split))
    if length is not None and longest > length:
        what = f"rows have up to {longest:,} tokens, and this model sees {length:,}"
        fix = f"set prompt.cutoff={length}, or lengthen the context: {longer(scaling, length, longest)}"
        raise UserError(what, "prompt.cutoff", fix)
    return train, val


def check_export_tokenizer(dataset: Path, base: Base, encoder: AnyEncoder) -> None:
    """Builds the tokenizer as the export will, and loads it as users will.

    Raises:
        UserError: stock transformers gives other ids than training.
    """
    if base.folder is None:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf_tokenizer.save(hf_tokenizer.build(encoder, None), encoder, folder)
        shutil.copyfile(base.folder / "config.json", folder / "config.json")  # its model type decides the class
        loaded = hf_tokenizer.load(folder)
    reason, _ = hf_tokenizer.disagreement(loaded, encoder, list(read_examples(dataset, "train", ROWS)))
    if reason:
        kind = (read_json(base.folder / "config.json") or {}).get("model_type")
        what = f"stock transformers would encode other ids than training, so nothing could be exported: {reason}"
        fix = (
            f"for model type {kind} AutoTokenizer creates a {type(loaded).__name__}, which may ignore the base's own "
            "tokenizer.json; try another base or another version of transformers"
        )
        raise UserError(what, str(encoder.tokenizer.folder), fix)
