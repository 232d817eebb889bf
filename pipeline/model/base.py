"""The base model: a hub id, a folder with safetensors, a .gguf file, or a geometry with random weights.

Whatever it is, it ends up as a local folder that stock transformers loads. Weights come from safetensors or GGUF
only, never from a pickle, and no code of a repository is ever run.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Model
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.run import Run, input_hashes

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")


def cache() -> Path:
    """Where converted bases lie, under SURI_CACHE (default `.cache`)."""
    return Path(os.environ.get("SURI_CACHE", ".cache"))


@dataclass(frozen=True)
class Base:
    """A base that can be loaded now.

    folder: safetensors and config.json, None for a geometry. tokenizer: folder of the tokenizer.
    vocabulary: rows of its embedding. eos: end ids in its own files.
    """

    folder: Path | None
    tokenizer: Path
    vocabulary: int | None
    eos: tuple[int, ...]


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
        raise UserError(
            f"not a GGUF file: {model.base}", "model.base", "give a .gguf file, a folder with safetensors, or a hub id"
        )
    if path.is_dir():
        return "folder"
    if HUB_ID.match(model.base) and path.suffix != ".gguf":
        return "hub"
    near = (
        difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], 1) if path.parent.is_dir() else []
    )
    fix = (
        f"did you mean {path.parent / near[0]}?"
        if near
        else "give a hub id such as huggyllama/llama-7b, a folder, or a .gguf file"
    )
    raise UserError(f"no such base model: {model.base}", "model.base", fix)


def identity(model: Model, run: Run, stage: str) -> dict[str, Any]:
    """What decides a base's weights and tokenizer, cheap to ask.

    Small files and .gguf go by content; weights in safetensors by size and time, since hashing 13 GB at every
    question would take longer than many stages.
    """
    kind = kind_of(model)
    if kind == "geometry":
        files = [p for p in sorted(Path(model.tokenizer).glob("*")) if p.is_file()] if model.tokenizer else []
        return {"kind": kind, "geometry": model.geometry, "inputs": input_hashes(files, run.manifest(stage))}
    if kind == "hub":
        return {"kind": kind, "id": model.base, "tokenizer": model.tokenizer}
    path = Path(model.base)
    if kind == "gguf":
        return {"kind": kind, "inputs": input_hashes([path], run.manifest(stage)), "tokenizer": model.tokenizer}
    small = [
        p
        for p in sorted(path.glob("*"))
        if p.is_file() and p.stat().st_size < 50e6 and p.suffix in (".json", ".model", ".jinja")
    ]
    weights = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(path.glob("*.safetensors"))}
    return {
        "kind": kind,
        "inputs": input_hashes(small, run.manifest(stage)),
        "weights": weights,
        "tokenizer": model.tokenizer,
    }


def resolve(model: Model) -> Base:
    """Downloads or converts what is not there yet, and checks the folder.

    Raises:
        UserError: missing, unsafe or unfit weights; a tokenizer folder that is none.
    """
    kind = kind_of(model)
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
        folder = _download(model.base)
    else:
        folder = Path(model.base)
    config = check_folder(folder)
    vocabulary = config.get("vocab_size")
    return Base(folder, _tokenizer_folder(model.tokenizer or str(folder)), vocabulary, _end_ids(folder, config))


def check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config.json, after making sure that it holds a causal LM in safetensors.

    Raises:
        UserError: no config, an adapter, another kind of model, remote code, pickled or missing weights.
    """
    where = str(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError("this is an adapter, not a base model", where, "name the base that it was trained on")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(
            "no readable config.json: not a model folder", where, "name a folder that `save_pretrained` wrote"
        )
    if "auto_map" in config:
        raise UserError(
            "this model needs code from its repository, which is never run here",
            where,
            "choose a model that transformers itself knows",
        )
    names = config.get("architectures") or []
    if names and not any(CAUSAL.search(name) for name in names):
        raise UserError(f"not a causal language model: {', '.join(names)}", where, "choose a ...ForCausalLM model")
    shards = list(folder.glob("*.safetensors"))
    pickles = [p.name for p in [*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]]
    if not shards and pickles:
        raise UserError(
            f"the weights are pickles ({pickles[0]}), which can run code when they are loaded, so they are refused", where,
            "convert them once, on a machine that you can lose: python -c \"from transformers import AutoModelForCausalLM as M; "
            "M.from_pretrained('FOLDER').save_pretrained('NEW')\", then copy the tokenizer's files over",
        )  # fmt: skip
    if not shards:
        raise UserError("no *.safetensors in the folder", where, "fetch the weights")
    index = read_json(folder / "model.safetensors.index.json")
    missing = sorted({f for f in (index or {}).get("weight_map", {}).values() if not (folder / f).is_file()})
    if missing:
        raise UserError(f"{len(missing)} weight files are missing, such as {missing[0]}", where, "fetch them again")
    return config


def _end_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json") or {}
    found = generation.get("eos_token_id", config.get("eos_token_id"))
    return tuple(found) if isinstance(found, list) else (found,) if isinstance(found, int) else ()


def _tokenizer_folder(path: str) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if HUB_ID.match(path):
        return _download(path, ["*.json", "*.jinja", "tokenizer.model"])
    raise UserError(
        f"no such folder: {path}", "model.tokenizer", "name a folder with tokenizer.model or tokenizer.json"
    )


def _download(id: str, patterns: list[str] | None = None) -> Path:
    """A hub repository's safe files, from the hub's cache when they are there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(id, allow_patterns=patterns or HUB_FILES))
    except Exception as error:  # many kinds, from the network up to the hub's own
        said = " ".join(str(error).split())[:300]
        raise UserError(f"cannot fetch {id!r} from the hub: {said}", "model.base",
                        "check the id, the network, and HF_TOKEN for gated models; or give a local folder") from None  # fmt: skip
