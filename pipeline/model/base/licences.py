"""The licence of a base: as the card in its folder states it, else as Suri knows it by the name of the base.

Texts of licences that are stored with a base travel with what is made of it (`texts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.schema import Model
from pipeline.dataset.licences import BY_KEY, Licence, from_front_matter
from pipeline.model.base.location import kind_of

README = "README.md"
LARGEST = 1_000_000  # bytes of a card or of a licence's text
TEXTS = re.compile(r"(LICEN[CS]E|NOTICE|USE[_-]POLICY|COPYING|TERMS)([._-].*)?", re.IGNORECASE)
# By hub id (owner/name), or by the name alone for folders and .gguf files; the first match counts. docs/licences.md.
_BASES = (
    (r"(huggyllama|decapoda-research|jeffwan)/llama-\d+b(-hf)?|llama-(7|13|30|33|65)b(-hf)?", "llama-license"),
    (r"(meta-llama/)?llama-2-\d+b(-chat)?(-hf)?", "llama2"),
    (r"(meta-llama/)?meta-llama-3-\d+b(-instruct)?", "llama3"),
    (r"(meta-llama/)?(meta-)?llama-3\.1-\d+b(-instruct)?", "llama3.1"),
    (r"(meta-llama/)?llama-3\.2-\d+b(-instruct)?", "llama3.2"),
    (r"(meta-llama/)?llama-3\.3-\d+b(-instruct)?", "llama3.3"),
    (r"(google/)?gemma-(2|3)?-?\d+(b|m)(-it|-pt)?", "gemma"),
    (r"(lgai-exaone/)?exaone-4\.0-.*", "exaone"),
    (r"(naver-hyperclovax/)?hyperclovax-seed-.*", "hyperclovax-seed"),
    (r"(upstage/)?solar-10\.7b-instruct-v1\.0", "cc-by-nc-4.0"),
    (r"(upstage/)?solar-10\.7b-v1\.0", "apache-2.0"),
    (r"(kakaocorp/)?kanana-nano-2\.1b-(base|instruct)", "cc-by-nc-4.0"),
    (r"(k-intelligence/)?midm-2\.0-mini-instruct", "mit"),
    (r"(microsoft/)?phi-4-mini-instruct", "mit"),
    (r"(mistralai/)?mistral-7b-(instruct-)?v0\.[123]", "apache-2.0"),
    (r"(huggingfacetb/)?smollm[23]-.*", "apache-2.0"),
    (r"(tinyllama/)?tinyllama-1\.1b-.*", "apache-2.0"),
    (r"(qwen/)?qwen2\.5-3b(-instruct)?", "qwen-research"),
    (r"(qwen/)?qwen2\.5-(0\.5|1\.5|7|14|32)b(-instruct)?", "apache-2.0"),
    (r"(qwen/)?qwen3-(0\.6|1\.7|4|8|14|32)b(-base)?", "apache-2.0"),
    (r"(eleutherai/)?polyglot-ko-[\d.]+b", "apache-2.0"),
)


@dataclass(frozen=True)
class BaseLicence:
    """What is known of a base's licence.

    Attributes:
        licence: from the table; None where it is not in it. text: as it is shown; empty = not known.
        origin: how it is known.
    """

    licence: Licence | None
    text: str
    origin: str


def licence_of(model: Model, folder: Path | None) -> BaseLicence:
    """The licence of the base. folder: of its files; None for a geometry, whose random weights have no licence."""
    kind = kind_of(model)
    if kind == "geometry":
        return BaseLicence(None, "", "")
    if folder is not None:
        licence, text = from_front_matter(read_front_matter(folder / README))
        if text:
            return BaseLicence(licence, licence.name if licence else text, "its own card")
    name = model.base if kind == "hub" else Path(model.base).name.removesuffix(".gguf")
    if kind == "gguf":  # the type of the weights, as in SmolLM2-135M-Instruct.Q4_1.gguf
        name = re.sub(r"[.-](i?q\d\w*|f16|bf16|f32)$", "", name, flags=re.IGNORECASE)
    if licence := licence_by_name(name):
        return BaseLicence(licence, licence.name, "Suri's table" if kind == "hub" else "its name")
    return BaseLicence(None, "", "")


def licence_by_name(name: str) -> Licence | None:
    """The licence of a model by its hub id, or by its name alone."""
    return next((BY_KEY[key] for pattern, key in _BASES if re.fullmatch(pattern, name.lower())), None)


def read_front_matter(path: Path) -> Any:
    """The YAML at the top of a card; None where there is none, or none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    try:
        return yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def texts(folder: Path | None) -> list[Path]:
    """Files in a base's folder that hold texts of its licence, by name."""
    if folder is None or not folder.is_dir():
        return []
    return [
        path for path in sorted(folder.iterdir())
        if TEXTS.fullmatch(path.name) and path.is_file() and path.stat().st_size <= LARGEST
    ]  # fmt: skip
