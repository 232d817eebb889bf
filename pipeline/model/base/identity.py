"""The base in cache keys: sha256 of every file that decides what the model or its tokenizer computes.

Equal for equal content, independent of paths, times and the layout of JSON; a base in other shards has other files and
so another identity. `pipeline/run/hash_cache.py` caches the hashes, so a second call reads nothing. Needs no torch.

Not to be confused with `fingerprint.py`, which tells whether an adapter belongs to a base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Model
from pipeline.model.base.folder import weight_files
from pipeline.model.base.location import kind_of
from pipeline.run.hash_cache import cached_json_sha256, cached_sha256

MODEL_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
# Keys of a JSON file that say who wrote it and where.
IGNORED = ("_name_or_path", "_commit_hash", "_from_model_config", "transformers_version")
NAMES = ("base", "revision", "tokenizer", "geometry")  # keys of `model` that `identity` covers


def settings(model: Model) -> dict[str, Any]:
    """The keys of `model` other than the base itself: dtype, quantisation, scaling of its positions, new tokens."""
    values = {name: value for name, value in model.model_dump(mode="json").items() if name not in NAMES}
    if not values["rope_scaling"]:  # keys of earlier runs lack it
        del values["rope_scaling"]
    return values


def identity(model: Model) -> dict[str, Any]:
    """Hashes of weights, settings and tokenizer. A hub id enters as its name and revision; `Base.commit` is its commit.

    Raises:
        UserError: there is no such base.
    """
    hashes = tokenizer_identity(model)
    if hashes["kind"] == "folder":
        folder = Path(model.base)
        weights = [folder / name for name in weight_files(folder)]
        hashes["weights"] = {path.name: cached_sha256(path) for path in weights if path.is_file()}
    return hashes


def tokenizer_identity(model: Model, template: bool = False) -> dict[str, Any]:
    """As `identity`, without the weights of a folder: what token ids and end tokens depend on.

    template: with the file of the base's chat template.
    """
    kind, path = kind_of(model), Path(model.base)
    hashes: dict[str, Any] = {"kind": kind}
    if kind == "geometry":
        hashes["geometry"] = model.geometry
    elif kind == "hub":
        hashes["id"] = f"{model.base}@{model.revision}" if model.revision else model.base
    elif kind == "gguf":
        hashes["weights"] = cached_sha256(path)  # the tokenizer is inside
    else:
        hashes["settings"] = _digests(path, MODEL_FILES)
    folder = Path(model.tokenizer) if model.tokenizer else path
    if folder.is_dir():
        names = (*TOKENIZER_FILES, "config.json", *(TEMPLATE_FILES if template else ()))
        hashes["tokenizer"] = _digests(folder, names)
    elif model.tokenizer:
        hashes["tokenizer"] = model.tokenizer  # a hub id
    return hashes


def _digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    paths = [folder / name for name in names if (folder / name).is_file()]
    return {p.name: cached_json_sha256(p, IGNORED) if p.suffix == ".json" else cached_sha256(p) for p in paths}
