"""Files outside the run folder that a stage reads, to be listed in its manifest: base, template, texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.config.chat_forms import BASE
from pipeline.config.schema import Config, Model
from pipeline.model.base.identity import TOKENIZER_FILES
from pipeline.model.base.location import Base, kind_of
from pipeline.prompt import chat_template, general_text
from pipeline.prompt import template as templates

SETTINGS = (".json", ".model", ".jinja")
WEIGHTS = (".safetensors",)


def tokenizer_files(model: Model, base: Callable[[], Base]) -> list[Path]:
    """The tokenizer's files; of a .gguf file that contains its tokenizer, that file.

    Raises:
        UserError: as `resolve`.
    """
    if kind_of(model) == "gguf" and not model.tokenizer:
        return [Path(model.base)]
    folder = base().tokenizer
    return [path for name in (*TOKENIZER_FILES, "config.json") if (path := folder / name).is_file()]


def base_files(model: Model, base: Callable[[], Base]) -> list[Path]:
    """Weights, settings and tokenizer; the .gguf file rather than the folder that it was converted to.

    Raises:
        UserError: as `resolve`.
    """
    files = tokenizer_files(model, base)
    if kind_of(model) == "gguf":
        files.append(Path(model.base))
    elif folder := base().unscaled or base().folder:
        files += [path for path in folder.iterdir() if path.suffix in SETTINGS + WEIGHTS and path.is_file()]
    return sorted(set(files))


def of_tokens(config: Config, base: Callable[[], Base]) -> list[Path]:
    """Template and tokenizer."""
    files = tokenizer_files(config.model, base)
    if not config.prompt.is_chat:
        return [templates.path_of(config.prompt.template), *files]
    template = chat_template.path_of(config.prompt.template, base().tokenizer)
    is_inside = kind_of(config.model) == "gguf" and config.prompt.template == BASE  # of the .gguf file
    return files if is_inside or template in files else [template, *files]


def of_train(config: Config, base: Callable[[], Base]) -> list[Path]:
    """The base, and the text for EWC (`train.ewc_data`) where one is named."""
    text = config.train.ewc_data
    return base_files(config.model, base) + ([general_text.path_of(text)] if text else [])


def of_export(config: Config, _: Callable[[], Base]) -> list[Path]:
    """The text that forgetting is measured on."""
    return [general_text.path_of(config.eval.general)]
