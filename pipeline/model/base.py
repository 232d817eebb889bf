"""The base model: a hub id, a folder with safetensors, a .gguf file, or a geometry with random weights.

Whatever it is, it ends up as a local folder that stock transformers loads. Weights come from safetensors or GGUF
only, never from a pickle, and no code of a repository is ever run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Model
from pipeline.dataset.read.source import HUB_ID
from pipeline.model.base_folder import check_folder, is_whole
from pipeline.prompt import tokenizer_files
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import read_json
from pipeline.run.hash_cache import cache_folder
from pipeline.run.json_file import is_count
from pipeline.run.nearest import nearest_file
from pipeline.run.terminal import quoted

TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model"]
HUB_FILES = ["*.safetensors", *TOKENIZER_FILES]
WANTED = "a hub id such as huggyllama/llama-7b, a folder with safetensors, or a .gguf file"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """A base that can be loaded now.

    folder: safetensors and config.json, None for a geometry. tokenizer: folder of the tokenizer.
    vocabulary: rows of its embedding. eos: end ids in its own files. commit: of a hub id, what it stood for.
    """

    folder: Path | None
    tokenizer: Path
    vocabulary: int | None
    eos: tuple[int, ...]
    commit: str = ""


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
    fetched = "make fetches it: make train CONFIG=..." if path.parts[:2] == (".cache", "demo") else ""
    raise UserError(f"no such base model: {model.base}", "model.base", fetched or nearest_file(path, f"give {WANTED}"))


def _no_path(text: str) -> str:
    """Why a text can be no path at all; empty when it can."""
    try:
        os.stat(text)
    except ValueError:
        return "holds a character that no path can hold"
    except OSError as error:
        return "is too long" if error.errno == errno.ENAMETOOLONG else ""
    return ""


def resolve(model: Model) -> Base:
    """Downloads or converts what is not there yet, and checks the folder.

    Raises:
        UserError: missing, unsafe or unfit weights; a tokenizer folder that is none.
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
        from pipeline.model.gguf import convert

        folder = convert(Path(model.base), cache_folder() / "base")
    elif kind == "hub":
        folder = _download(model.base, "model.base", HUB_FILES, model.revision)
        commit = folder.name
    else:
        folder = Path(model.base)
    config = check_folder(folder)
    vocabulary = config.get("vocab_size")
    return Base(folder, _tokenizer_folder(model.tokenizer or str(folder)), vocabulary, _end_ids(folder, config), commit)


def _end_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json")
    found = generation.get("eos_token_id") if isinstance(generation, dict) else None
    found = config.get("eos_token_id") if found is None else found
    return tuple(id for id in (found if isinstance(found, list) else [found]) if isinstance(id, int) and id >= 0)


def _tokenizer_folder(path: str) -> Path:
    if wrong := _no_path(path):
        raise UserError(f"no such folder: {quoted(path)} {wrong}", "model.tokenizer", "name a folder with a tokenizer")
    folder = Path(path)
    if folder.is_dir():
        tokenizer_files.check(folder)
        return folder
    if HUB_ID.match(path):
        return _download(path, "model.tokenizer", TOKENIZER_FILES)
    fix = nearest_file(folder, "name a folder with tokenizer.model or tokenizer.json")
    raise UserError(f"no such folder: {path}", "model.tokenizer", fix)


def _download(id: str, where: str, patterns: list[str], revision: str = "") -> Path:
    """A hub repository's safe files. Files in its subfolders are not read.

    Without a revision, or with a commit, those in the hub's cache are taken when they are whole, so a run does not
    change its base when the hub does, and needs no network again.

    Raises:
        UserError: with the hub's own words; a relative path that does not exist looks like a hub id, so that is said.
    """
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": ["*/*"], "revision": revision or None}
    if not revision or COMMIT.fullmatch(revision):
        with contextlib.suppress(Exception):  # of many kinds: it is not there
            there = Path(snapshot_download(id, local_files_only=True, **wanted))
            if _is_whole(there, patterns):
                return there
    try:
        return Path(snapshot_download(id, **wanted))
    except Exception as error:  # many kinds, from the network up to the hub's own
        said = one_line(error)
        other = "check the id, the network, and HF_TOKEN for gated models; or give a local folder"
        fix = nearest_file(Path(id), other)
        name = f"{id!r} at {revision!r}" if revision else f"{id!r}"
        raise UserError(f"{name} is no folder here, and cannot be fetched from the hub: {said}", where, fix) from None


def _is_whole(folder: Path, patterns: list[str]) -> bool:
    """Whether a cached snapshot has all that is asked of it: other programs fetch single files."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    return patterns is TOKENIZER_FILES or is_whole(folder)
