"""An export opened again, to talk to or to compare."""

from __future__ import annotations

from typing import Any

from pipeline.config import Config
from pipeline.files import read_json
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import DTYPES, dtype_name, load_folder
from pipeline.prompt.stage import encoder_of
from pipeline.release.unmerged import base_with_tokens
from pipeline.run import Run


def holds(run: Run) -> str:
    """`merged`, `adapter` or `nothing`: what the run's export is, as `Method.export` says."""
    made = read_json(run.folder("export") / "suri.json")
    return str(made.get("holds", "merged")) if isinstance(made, dict) else "merged"


def exported_model(config: Config, run: Run) -> Any:
    """The merged model; or the base, with the exported adapter on it where there is one.

    Raises:
        UserError: base or adapter cannot be loaded, or they do not belong together.
    """
    folder, kind = run.folder("export"), holds(run)
    if kind == "merged":
        return load_folder(folder, DTYPES[dtype_name(config.model)])
    base = bases.resolve(config.model)
    model = base_with_tokens(config, base, encoder_of(config, base.tokenizer))
    return model if kind == "nothing" else adapters.load(model, folder, fingerprint(config, base))
