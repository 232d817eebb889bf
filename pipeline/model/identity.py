"""What a base is, by content: wherever it lies, whenever it was copied, however its JSON is laid out.

Only files that decide what the model or its tokenizer does enter, each by its whole sha256, which
`pipeline/run/hash_cache.py` keeps, so that asking again reads nothing. `fingerprint.py` names a base too: by samples of
its tensors, for the adapter store, where one base may be cut into other files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Model
from pipeline.model.base import kind_of
from pipeline.model.base_folder import weight_files
from pipeline.run.hash_cache import cached_json_sha256, cached_sha256

MODEL_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
# Who wrote a file, and where it lay then.
IGNORED = ("_name_or_path", "_commit_hash", "_from_model_config", "transformers_version")
NAMES = ("base", "revision", "tokenizer", "geometry")  # of `model`: which base, as `identity` says it


def settings(model: Model) -> dict[str, Any]:
    """What `model` asks for beside the base itself: arithmetic, quantisation, new tokens."""
    return {name: value for name, value in model.model_dump(mode="json").items() if name not in NAMES}


def identity(model: Model, again: bool = False) -> dict[str, Any]:
    """Weights, settings and tokenizer, for cache keys; equal for equal content. A hub id goes by its name and revision;
    `Base.commit` says what that stood for.

    Args:
        again: read every file, whatever hashes are kept: a file may have changed under its size and times.

    Raises:
        UserError: there is no such base.
    """
    found = tokenizer_identity(model, again)
    if found["kind"] == "folder":
        folder = Path(model.base)
        weights = [folder / name for name in weight_files(folder)]
        found["weights"] = {path.name: cached_sha256(path, again) for path in weights if path.is_file()}
    return found


def tokenizer_identity(model: Model, again: bool = False) -> dict[str, Any]:
    """As `identity`, without the weights of a folder: what tokens and their ends depend on."""
    kind, path = kind_of(model), Path(model.base)
    found: dict[str, Any] = {"kind": kind}
    if kind == "geometry":
        found["geometry"] = model.geometry
    elif kind == "hub":
        found["id"] = f"{model.base}@{model.revision}" if model.revision else model.base
    elif kind == "gguf":
        found["weights"] = cached_sha256(path, again)  # the tokenizer is inside
    else:
        found["settings"] = _digests(path, MODEL_FILES, again)
    place = Path(model.tokenizer) if model.tokenizer else path
    if place.is_dir():
        found["tokenizer"] = _digests(place, (*TOKENIZER_FILES, "config.json"), again)
    elif model.tokenizer:
        found["tokenizer"] = model.tokenizer  # a hub id
    return found


def _digests(folder: Path, names: tuple[str, ...], again: bool) -> dict[str, str]:
    paths = [folder / name for name in names if (folder / name).is_file()]
    return {
        p.name: cached_json_sha256(p, IGNORED, again) if p.suffix == ".json" else cached_sha256(p, again) for p in paths
    }
