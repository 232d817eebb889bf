"""What can be written as GGUF: architectures and pre-tokenizers, as llama.cpp knows them. No torch.

GGUF holds no code: it names an architecture and a pre-tokenizer, and llama.cpp has its own implementation of both. A
name that is nearly right gives a file that loads and computes something else, so everything that is not in these tables
is refused.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp, `llama_vocab::impl::load`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import read_json

KEY = "export.formats"
INSTEAD = "remove gguf from export.formats; llama.cpp's convert_hf_to_gguf.py knows more models"
# Model types of transformers, and the architecture that computes the same in llama.cpp.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# Keys of yarn that change frequencies or scores. llama.cpp computes with their defaults (`ggml_rope_yarn_corr_dims` and
# `rope_yarn`), and only newer versions of it read others from a file.
YARN_KEYS = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")

GPT2_REGEX = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
NO_REGEX = {**GPT2_REGEX, "use_regex": False}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> dict[str, Any]:
    pattern = {"Regex": "|".join((_CONTRACTIONS, _WORDS, digits, _REST))}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


# Pre-tokenizers of tokenizer.json by the names that llama.cpp has for them (`tokenizer.ggml.pre`).
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [GPT2_REGEX],
    "smollm": [{"type": "Digits", "individual_digits": True}, GPT2_REGEX],
    "llama-bpe": [_split(r"\p{N}{1,3}"), NO_REGEX],
    "qwen2": [_split(r"\p{N}"), NO_REGEX],
}
IGNORES_MERGES = ("llama-bpe",)  # a word that is in the vocabulary is taken whole


def check_architecture(config: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name of the architecture. config: of a config.json.

    Raises:
        UserError: llama.cpp does not compute what this model computes, or this writer does not know it.
    """
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        what = f"GGUF is written for {', '.join(ARCHITECTURES)}; this model is {kind}"
        raise UserError(what, where, INSTEAD)
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise UserError(f"llama.cpp computes {kind} with silu; this model has {act}", where, INSTEAD)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type not in ROPE_TYPES:
        what = f"GGUF is written for RoPE of the types {', '.join(ROPE_TYPES)}; this model has {rope_type}"
        raise UserError(what, where, INSTEAD)
    if rope_type == "yarn" and (own := [key for key in YARN_KEYS if rope.get(key) is not None]):
        what = f"GGUF is written for YaRN with its defaults; this model sets {', '.join(own)}"
        raise UserError(what, where, INSTEAD)
    return ARCHITECTURES[kind]


def check_early(config: Config) -> None:
    """Says before training what would stop the export in GGUF; a base on the hub or in GGUF is checked later.

    Raises:
        UserError: as `check_architecture` and `pre_tokenizer_name`; or `llama-quantize` is missing.
    """
    if "gguf" not in config.export.formats:
        return
    from pipeline.release.gguf.quantizer import find_quantizer

    if config.export.gguf == "q4_k_m":
        find_quantizer()
    shape = config.model.geometry if not config.model.base else read_json(Path(config.model.base) / "config.json")
    if isinstance(shape, dict) and shape.get("model_type"):
        scaling = {"rope_parameters": config.model.rope_scaling} if config.model.rope_scaling else {}
        check_architecture({**shape, **scaling}, KEY)
    folder = Path(config.model.tokenizer or config.model.base)
    if (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        pre_tokenizer_name(read_settings(folder / "tokenizer.json"), str(folder))


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json.

    Raises:
        UserError: it is no byte-level BPE.
    """
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    model = settings.get("model") or {}
    if model.get("type") != "BPE":
        raise UserError(f"GGUF is written for BPE tokenizers; this one is {model.get('type')}", str(path), INSTEAD)
    if model.get("byte_fallback"):
        what = "this is a sentencepiece tokenizer without its tokenizer.model, whose scores llama.cpp needs"
        raise UserError(what, str(path), "put tokenizer.model of the original model beside it and train again")
    return settings


def pre_tokenizer_name(settings: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name of the pre-tokenizer. settings: tokenizer.json.

    Raises:
        UserError: llama.cpp has none that splits text the same way, as far as this table knows.
    """
    pre = settings.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else [pre]
    known = [{key: part.get(key) for key in ("type", *_fields(part))} for part in parts]
    ignores_merges = bool(settings.get("model", {}).get("ignore_merges"))
    for name, wanted in PRE_TOKENIZERS.items():
        if known == wanted and ignores_merges == (name in IGNORES_MERGES):
            return name
    kinds = ", ".join(str(part.get("type")) for part in parts) or "none"
    what = f"the pre-tokenizer ({kinds}) is none of those that GGUF is written for: {', '.join(PRE_TOKENIZERS)}"
    raise UserError(what, where, INSTEAD)


def _fields(part: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that change the ids. `trim_offsets` changes offsets only."""
    return {
        "ByteLevel": ("add_prefix_space", "use_regex"),
        "Digits": ("individual_digits",),
        "Split": ("pattern", "behavior", "invert"),
    }.get(str(part.get("type")), ())
