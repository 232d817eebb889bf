"""Where the base model is: a hub id, a folder with safetensors, a .gguf file, or a geometry with random weights.

A hub id is downloaded and a .gguf file converted, so that the base is a local folder that stock transformers loads.
Weights come from safetensors or GGUF only, never from a pickle, and no code of a repository is run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import Model
from pipeline.dataset.read.source import HUB_ID
from pipeline.model.base.folder import check_folder, is_whole
from pipeline.prompt import tokenizer_files
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import read_json
from pipeline.run.hash_cache import cache_folder
from pipeline.run.json_file import is_count
from pipeline.run.nearest import nearest_file
from pipeline.run.next_command import next_command
from pipeline.run.progress import working
from pipeline.run.terminal import quoted

TOKENIZER_PATTERNS = ["*.json", "*.jinja", "tokenizer.model"]
LICENCE_PATTERNS = ["README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]  # for the card of what is made of the base
HUB_PATTERNS = ["*.safetensors", *TOKENIZER_PATTERNS, *LICENCE_PATTERNS]
WANTED = "a hub id such as huggyllama/llama-7b, a folder with safetensors, or a .gguf file"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """A base on this machine.

    Attributes:
        folder: with safetensors and config.json; None for a geometry.
        tokenizer: folder of the tokenizer.
        vocabulary: rows of the embedding, by config.json.
        eos: end ids in its config files.
        commit: of a hub id, the commit that was downloaded.
        unscaled: the folder that `folder` links to, where `model.rope_scaling` made that one; else None.
    """

    folder: Path | None
    tokenizer: Path
    vocabulary: int | None
    eos: tuple[int, ...]
    commit: str = ""
    unscaled: Path | None = None


def kind_of(model: Model) -> str:
    """`geometry`, `gguf`, `folder` or `hub`.

    Raises:
        UserError: nothing of that name exists.
    """
    if not model.base:
        return "geometry"
    if wrong := _no_path(model.base):
        raise UserError(f"no such base model: {quoted(model.base)} {wrong}", "model.base", f"give {WANTED}")
    path = Path(model.base)
    if path.is_file():
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic == b"GGUF":
            return "gguf"
        raise UserError(f"not a GGUF file: {model.base}", "model.base", f"give {WANTED}")
    if path.is_dir():
        return "folder"
    if HUB_ID.match(model.base) and path.suffix != ".gguf":
        return "hub"
    fetched = f"`{next_command()}` fetches it" if path.parts[:2] == (".cache", "demo") else ""
    raise UserError(f"no such base model: {model.base}", "model.base", fetched or nearest_file(path, f"give {WANTED}"))


def base_name(model: Model) -> str:
    """The base as other machines know it: a hub id, or the last part of a path."""
    return model.base if kind_of(model) == "hub" else Path(model.base).name


def _no_path(text: str) -> str:
    """Why a text cannot be a path; empty when it can."""
    try:
        os.stat(text)
    except ValueError:
        return "holds a character that no path can hold"
    except OSError as error:
        return "is too long" if error.errno == errno.ENAMETOOLONG else ""
    return ""


def resolve(model: Model) -> Base:
    """Downloads or converts the base where that is not done yet, and checks its folder.

    Raises:
        UserError: missing, unsafe or unfit weights; a tokenizer folder without a tokenizer; `model.rope_scaling`
            that this model does not take.
    """
    kind, commit = kind_of(model), ""
    if kind == "geometry":
        geometry = model.geometry or {}
        if not is_count(geometry.get("vocab_size")):
            what = f"vocab_size holds {quoted(str(geometry['vocab_size']))}, no number of rows"
            raise UserError(what, "model.geometry", "give the size of the vocabulary")
        if not model.tokenizer:
            raise UserError(
                "a geometry has no tokenizer of its own",
                "model.tokenizer",
                "name a folder with tokenizer.model or tokenizer.json",
            )
        return Base(None, _tokenizer_folder(model.tokenizer), geometry.get("vocab_size"), ())
    if kind == "gguf":
        from pipeline.model.base.gguf import convert

        folder = convert(Path(model.base), cache_folder() / "base")
    elif kind == "hub":
        folder = _download(model.base, "model.base", HUB_PATTERNS, model.revision)
        commit = folder.name
    else:
        folder = Path(model.base)
    config = check_folder(folder)
    vocabulary, ends = config.get("vocab_size"), _end_ids(folder, config)
    plain = Base(folder, _tokenizer_folder(model.tokenizer or str(folder)), vocabulary, ends, commit)
    if not model.rope_scaling:
        return plain
    from pipeline.model.base.rope_scaling import scaled_folder

    scaled = scaled_folder(folder, model.rope_scaling, cache_folder() / "base")
    return replace(plain, folder=scaled, unscaled=folder)


def _end_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json")
    ids = generation.get("eos_token_id") if isinstance(generation, dict) else None
    ids = config.get("eos_token_id") if ids is None else ids
    return tuple(id for id in (ids if isinstance(ids, list) else [ids]) if isinstance(id, int) and id >= 0)


def _tokenizer_folder(path: str) -> Path:
    if wrong := _no_path(path):
        raise UserError(f"no such folder: {quoted(path)} {wrong}", "model.tokenizer", "name a folder with a tokenizer")
    folder = Path(path)
    if folder.is_dir():
        tokenizer_files.check(folder)
        return folder
    if HUB_ID.match(path):
        return _download(path, "model.tokenizer", TOKENIZER_PATTERNS)
    fix = nearest_file(folder, "name a folder with tokenizer.model or tokenizer.json")
    raise UserError(f"no such folder: {path}", "model.tokenizer", fix)


def _download(id: str, where: str, patterns: list[str], revision: str = "") -> Path:
    """Downloads the files of a hub repository that match `patterns`, without subfolders.

    Without a revision, or with a commit, a complete copy in the hub's cache is used. So a run keeps its base when the
    repository changes, and needs the network once.

    Raises:
        UserError: with the hub's message. A missing relative path looks like a hub id, so the message names both.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": ["*/*"], "revision": revision or None}
    if not revision or COMMIT.fullmatch(revision):
        with contextlib.suppress(Exception):  # errors of many kinds: not in the cache
            cached = Path(snapshot_download(id, local_files_only=True, **options))
            if _is_whole(cached, patterns):
                return cached
    try:
        # On a terminal the hub draws its own progress bars.
        with working(f"base: downloading {id} from the hub", disable=sys.stderr is not None and sys.stderr.isatty()):
            return Path(snapshot_download(id, **options))
    except Exception as error:  # many kinds, from the network up to the hub's own
        said = one_line(error)
        other = "check the id, the network, and HF_TOKEN for gated models; or give a local folder"
        fix = nearest_file(Path(id), other)
        name = f"{id!r} at {revision!r}" if revision else f"{id!r}"
        raise UserError(f"{name} is no folder here, and cannot be fetched from the hub: {said}", where, fix) from None


def _is_whole(folder: Path, patterns: list[str]) -> bool:
    """Whether a cached snapshot is complete: other programs fetch single files."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    return patterns is TOKENIZER_PATTERNS or is_whole(folder)
