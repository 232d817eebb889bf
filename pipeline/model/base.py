"""The base model: a hub id, a folder with safetensors, a .gguf file, or a geometry with random weights.

Whatever it is, it ends up as a local folder that stock transformers loads. Weights come from safetensors or GGUF
only, never from a pickle, and no code of a repository is ever run.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Model
from pipeline.dataset.source import HUB_ID
from pipeline.digest import cache
from pipeline.errors import UserError
from pipeline.files import read_json

TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model"]
HUB_FILES = ["*.safetensors", *TOKENIZER_FILES]
WANTED = "a hub id such as huggyllama/llama-7b, a folder with safetensors, or a .gguf file"
COMMIT = re.compile(r"[0-9a-f]{40}")
CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")


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
    raise UserError(f"no such base model: {model.base}", "model.base", fetched or _nearest(path) or f"give {WANTED}")


def _nearest(path: Path) -> str:
    """Asks about the name that is most like a missing one; empty when there is none."""
    there = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, 1)
    return f"did you mean {path.parent / near[0]}?" if near else ""


def resolve(model: Model) -> Base:
    """Downloads or converts what is not there yet, and checks the folder.

    Raises:
        UserError: missing, unsafe or unfit weights; a tokenizer folder that is none.
    """
    kind, commit = kind_of(model), ""
    if kind == "geometry":
        geometry = model.geometry or {}
        if not model.tokenizer:
            raise UserError(
                "a geometry has no tokenizer of its own",
                "model.tokenizer",
                "name a folder with tokenizer.model or tokenizer.json",
            )
        return Base(None, _tokenizer_folder(model.tokenizer), geometry.get("vocab_size"), ())
    if kind == "gguf":
        from pipeline.model.gguf import convert

        folder = convert(Path(model.base), cache() / "base")
    elif kind == "hub":
        folder = _download(model.base, "model.base", HUB_FILES, model.revision)
        commit = folder.name
    else:
        folder = Path(model.base)
    config = check_folder(folder)
    vocabulary = config.get("vocab_size")
    return Base(folder, _tokenizer_folder(model.tokenizer or str(folder)), vocabulary, _end_ids(folder, config), commit)


def check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config.json, after making sure that it holds a causal LM in safetensors.

    Raises:
        UserError: no config, an adapter, another kind of model, remote code, pickled, quantised or missing weights.
    """
    where = str(folder)
    # transformers would follow adapter_config.json to whatever base it names, even beside a config.json.
    if (folder / "adapter_config.json").is_file():
        raise UserError("this is an adapter, not a base model", where, "name the base that it was trained on")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        is_there = (folder / "config.json").is_file()
        what = "config.json is damaged: not a JSON object" if is_there else "no config.json: not a model folder"
        raise UserError(what, where, "name a folder that `save_pretrained` wrote, or fetch the base again")
    if "auto_map" in config:
        fix = "choose a model that transformers itself knows"
        raise UserError("this model needs code from its repository, which is never run here", where, fix)
    names = config.get("architectures") or []
    if names and not any(CAUSAL.search(name) for name in names):
        raise UserError(f"not a causal language model: {', '.join(names)}", where, "choose a ...ForCausalLM model")
    if config.get("quantization_config"):
        how = config["quantization_config"].get("quant_method", "some way")
        fix = "name the model that it was made from; model.quantize=nf4 or int8 quantises it here"
        raise UserError(f"the weights are stored quantised ({how}), so nothing could be merged into them", where, fix)
    _check_weights(folder)
    return config


def _check_weights(folder: Path) -> None:
    """All the files that transformers will read are there, in safetensors, and as long as they should be.

    Raises:
        UserError: naming the first that is not.
    """
    where = str(folder)
    files = weight_files(folder)
    if not files:
        pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in sorted(folder.glob(pattern))]
        if pickles:
            fix = (
                "convert them once, on a machine that you can lose: "
                'python -c "from transformers import AutoModelForCausalLM as M; '
                "M.from_pretrained('FOLDER').save_pretrained('NEW')\", then copy the tokenizer's files over"
            )
            what = f"the weights are pickles ({pickles[0]}), which can run code when they are loaded: refused"
            raise UserError(what, where, fix)
        fix = "fetch the weights (from the hub only safetensors are fetched: a repository may have none)"
        raise UserError("no model.safetensors in the folder, and no index of its parts", where, fix)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        what = f"{len(missing)} of {len(files)} weight files are missing, such as {missing[0]}"
        raise UserError(what, where, "fetch them again")
    for name in files:
        wrong = damage(folder / name)
        if wrong:
            raise UserError(f"{name} is damaged: {wrong}", where, "fetch it again (after a git clone: git lfs pull)")


def weight_files(folder: Path) -> list[str]:
    """Names of the files that transformers will read; empty when there are none in safetensors."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    index = read_json(folder / "model.safetensors.index.json")
    whole = isinstance(index, dict) and isinstance(index.get("weight_map"), dict)
    return sorted(set(index["weight_map"].values())) if whole else []


def damage(path: Path) -> str:
    """What is wrong with a safetensors file, as far as its header and its length tell; empty when nothing is.

    The file is a uint64 with the header's length, the header as JSON, then the tensors without gaps.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return "it has no safetensors header"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its header is not readable"
    whole = 8 + length + max(ends, default=0)
    return "" if size == whole else f"{size:,} bytes, {whole:,} by its header"


def _end_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json")
    found = generation.get("eos_token_id") if isinstance(generation, dict) else None
    found = config.get("eos_token_id") if found is None else found
    return tuple(found) if isinstance(found, list) else (found,) if isinstance(found, int) else ()


def _tokenizer_folder(path: str) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if HUB_ID.match(path):
        return _download(path, "model.tokenizer", TOKENIZER_FILES)
    fix = _nearest(folder) or "name a folder with tokenizer.model or tokenizer.json"
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
        said = " ".join(str(error).split())[:300]
        fix = _nearest(Path(id)) or "check the id, the network, and HF_TOKEN for gated models; or give a local folder"
        name = f"{id!r} at {revision!r}" if revision else f"{id!r}"
        raise UserError(f"{name} is no folder here, and cannot be fetched from the hub: {said}", where, fix) from None


def _is_whole(folder: Path, patterns: list[str]) -> bool:
    """Whether a cached snapshot has all that is asked of it: other programs fetch single files."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    files = weight_files(folder)
    return patterns is TOKENIZER_FILES or (bool(files) and not any(damage(folder / name) for name in files))
