"""The model that a finished run exported."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Config, Export, Model
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command


def export_dtype(export: Export, model: Model) -> str:
    """`bf16`, `fp16` or `fp32`: the type of the merged weights."""
    return dtype_name(model) if export.dtype == "auto" else export.dtype


def export_kind(folder: Path) -> str:
    """`merged`, `adapter` or `nothing`: what the export in `folder` holds, see `MethodSpec.export`."""
    record = read_json(folder / "suri.json")
    return str(record.get("holds", "merged")) if isinstance(record, dict) else "merged"


def export_encoder(config: Config, run: Run) -> tuple[AnyEncoder, dict[str, Any]]:
    """The encoder of a run's export, and the export's record.

    Raises:
        UserError: there is no record, or the export was trained with another template than the config's.
    """
    folder = run.folder("export")
    record = read_json(folder / "suri.json")
    if not isinstance(record, dict):
        fix = f"`{next_command('export')}`"
        raise UserError("no suri.json in the folder: it was not exported here", str(folder), fix)
    # tokenizer.model does not contain the new tokens, a saved tokenizer.json does.
    added = () if not (folder / "tokenizer.model").is_file() else config.model.add_tokens
    encoder = encoder_of(config.prompt, folder, added)
    template = record.get("template")
    trained, now = template.get("hash") if isinstance(template, dict) else None, encoder.template.hash
    if trained != now:
        what = f"the checkpoint was trained with the template {trained}, the config names {now}"
        raise UserError(what, str(folder), "put the template back, or train again")
    encoder.end_id = record.get("end_id", encoder.end_id)
    return encoder, record


def exported_model(folder: Path, dtype: str, base: Callable[[], RunBase]) -> Any:
    """The model that a run exported: the merged one, in the type that it was saved in; or the base, in its own type,
    with the exported adapter where there is one.

    Args:
        folder: of the export. dtype: of merged weights, see `export_dtype`. base: of the run; not called where the
            export holds a whole model, which needs no base.

    Raises:
        UserError: base or adapter cannot be loaded, or the adapter belongs to another base.
    """
    kind = export_kind(folder)
    if kind == "merged":
        return load_folder(folder, DTYPES[dtype], "the export")
    run_base = base()
    model = run_base.load()
    return model if kind == "nothing" else adapters.load(model, folder, run_base.fingerprint())


def free_memory() -> None:
    """Frees memory of deleted models: Python's reference cycles, then torch's cache on the card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
