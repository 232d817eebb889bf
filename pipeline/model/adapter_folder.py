"""Completes an adapter's folder so that it loads from any working directory: reference of the base, tokenizer, chat
template and card. The same run gives the same bytes: no times, and sets are sorted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.config.schema import Model
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base, kind_of
from pipeline.model.card import CARD, adapter_card
from pipeline.model.methods.method import SETTINGS
from pipeline.model.run_base import RunBase
from pipeline.run.errors import one_line
from pipeline.run.files import read_json, write_json, write_text
from pipeline.run.progress import say

# Files of the card and of tokenizers of all kinds; our own loader needs none of them.
COMPANIONS = (
    CARD, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
SETS = ("target_modules", "exclude_modules", "feedforward_modules")  # peft writes them in the order of hashes


def base_reference(model: Model, base: Base) -> str:
    """The base as any working directory can load it: a hub id or an absolute path; empty for random weights. Of a base
    with `model.rope_scaling` the folder with that scaling: its hub id would load another model."""
    if kind_of(model) == "hub" and not model.rope_scaling:
        return model.base
    return os.path.abspath(base.folder) if base.folder else ""


def complete(folder: Path, name: str, base: RunBase, longest: int | None) -> None:
    """Adds to a saved adapter what other programs need to load it.

    Args:
        name: of the run. longest: context length of the model; None where its config does not say.
    """
    name_base(folder, base.model, base.files)
    try:
        tokenizer = hf_tokenizer.build(base.encoder, longest)
    except Exception as error:  # of many classes; the adapter is kept without a tokenizer
        say(f"adapter: stored without its tokenizer, which transformers cannot build: {one_line(error)}")
    else:
        hf_tokenizer.save(tokenizer, base.encoder, folder)
    write_text(folder / CARD, adapter_card(name, base.adapter, base.model, base.files, base.encoder))


def name_base(folder: Path, model: Model, base: Base) -> None:
    """Writes the base's reference and the hub's commit into adapter_config.json, where there is one."""
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings, dict):
        return
    settings["base_model_name_or_path"] = base_reference(model, base) or None
    if "peft_type" in settings:
        settings["revision"] = base.commit or None
    for key in SETS:
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    write_json(folder / SETTINGS, dict(sorted(settings.items())))


def copy_companions(source: Path, folder: Path) -> None:
    """Copies tokenizer and card from one adapter's folder into another."""
    for name in COMPANIONS:
        if (source / name).is_file() and not (source / name).is_symlink():
            shutil.copyfile(source / name, folder / name)
