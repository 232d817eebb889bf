"""Files outside the run folder that stages are made from, for the record in their manifests: base, template, texts."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import Config, Model
from pipeline.model.base import kind_of, resolve
from pipeline.model.identity import TOKENIZER_FILES
from pipeline.prompt import general_text
from pipeline.prompt import template as templates

SETTINGS = (".json", ".model", ".jinja")
WEIGHTS = (".safetensors",)


def tokenizer_files(model: Model) -> list[Path]:
    """Of the tokenizer; of a .gguf file that has its own, that file.

    Raises:
        UserError: as `resolve`.
    """
    if kind_of(model) == "gguf" and not model.tokenizer:
        return [Path(model.base)]
    folder = resolve(model).tokenizer
    return [path for name in (*TOKENIZER_FILES, "config.json") if (path := folder / name).is_file()]


def base_files(model: Model) -> list[Path]:
    """Of weights, settings and tokenizer; the .gguf file rather than what it was converted to.

    Raises:
        UserError: as `resolve`.
    """
    files = tokenizer_files(model)
    if kind_of(model) == "gguf":
        files.append(Path(model.base))
    elif folder := resolve(model).folder:
        files += [path for path in folder.iterdir() if path.suffix in SETTINGS + WEIGHTS and path.is_file()]
    return sorted(set(files))


def of_tokens(config: Config) -> list[Path]:
    """Template and tokenizer."""
    return [templates.path_of(config.prompt.template), *tokenizer_files(config.model)]


def of_train(config: Config) -> list[Path]:
    """The base, and the text whose knowledge is guarded, where one is named."""
    named = config.train.ewc_data
    return base_files(config.model) + ([general_text.path_of(named)] if named else [])


def of_export(config: Config) -> list[Path]:
    """The text that forgetting is measured on."""
    return [general_text.path_of(config.eval.general)]
