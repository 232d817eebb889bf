"""What would stop training or the export, looked for before anything is loaded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.model.load import base_shape, context_length
from pipeline.prompt.encode import Encoder
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run

ROWS = 50  # that are read


def open_tokens(config: Config, run: Run, base: Base) -> tuple[Tokens, Tokens]:
    """The rows to train on, and those held out.

    Raises:
        UserError: a row is longer than what the model sees.
    """
    train, val = (Tokens(run.folder("tokens") / f"{part}.arrow") for part in ("train", "val"))
    sees = context_length(base_shape(config.model, base), config.adapter)
    longest = max(int(part.lengths.max()) for part in (train, val) if len(part))
    if sees is not None and longest > sees:
        what = f"rows have up to {longest:,} tokens, and this model sees {sees:,}"
        raise UserError(what, "prompt.cutoff", f"set prompt.cutoff={sees}, or name a base that sees more")
    return train, val


def preflight(run: Run, base: Base, encoder: Encoder) -> None:
    """Makes the tokenizer as the export will, and loads it as users will.

    Raises:
        UserError: stock transformers gives other ids than training.
    """
    if base.folder is None:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf_tokenizer.save(hf_tokenizer.build(encoder, None), encoder, folder)
        shutil.copyfile(base.folder / "config.json", folder / "config.json")  # its model type chooses the class
        loaded = hf_tokenizer.load(folder)
    why, _ = hf_tokenizer.disagreement(loaded, encoder, list(read_examples(run.folder("dataset"), "train", ROWS)))
    if why:
        kind = (read_json(base.folder / "config.json") or {}).get("model_type")
        what = f"stock transformers would not read this tokenizer as training does, so nothing could be exported: {why}"
        fix = (
            f"for model type {kind} AutoTokenizer makes a {type(loaded).__name__}, which may build itself anew where "
            "the base has a tokenizer of its own; try another base or another version of transformers"
        )
        raise UserError(what, str(encoder.tokenizer.folder), fix)
