"""Cards of the further formats of an export, each in the folder of its format, so that it can be published alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config.method_rules import description, spec_of
from pipeline.config.schema import Config
from pipeline.model.card import CARD, ON_BASE, base_name, code_block, front_matter, prompt_section
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.release import terms, usage
from pipeline.release.front_matter import base_keys, licence_keys
from pipeline.release.terms import Party
from pipeline.run.files import write_text
from pipeline.run.markdown import code


def write_format_cards(
    config: Config, encoder: AnyEncoder, records: Mapping[str, Mapping[str, Any]], found: Sequence[Party], folder: Path
) -> None:
    """Writes README.md of `adapter/` and `gguf/`. records: of the formats. folder: of the export."""
    if "adapter" in records:
        library = "peft" if spec_of(config.adapter).is_peft else "transformers"
        front = _front(config, encoder, found, library, "adapter")
        base = base_name(config.model)
        body = [
            f"The adapter of {code(config.name)} without its base, {code(base)}: {description(config.adapter)}.",
            code_block(ON_BASE),
            f"PATH is this folder, BASE is {code(base)} where it is on your machine. {prompt_section(encoder)}",
        ]
        write_text(folder / "adapter" / CARD, _text(front, f"{config.name}: adapter", body, found, config.name))
    if gguf := records.get("gguf"):
        front = _front(config, encoder, found, "gguf", "quantized")
        name = PurePosixPath(gguf["file"]).name
        body = [
            f"{code(config.name)} for llama.cpp and programs that use it, with weights in {gguf['type']}.",
            "## Use",
            usage.of_gguf(name, bool(gguf.get("modelfile", True))),
        ]
        write_text(folder / "gguf" / CARD, _text(front, f"{config.name}: GGUF", body, found, config.name))


def _front(config: Config, encoder: AnyEncoder, found: Sequence[Party], library: str, relation: str) -> dict[str, Any]:
    return {
        **licence_keys(found), "library_name": library, "pipeline_tag": "text-generation",
        **base_keys(config, relation), "tags": ["suri", "instruction-tuning", encoder.template.id],
    }  # fmt: skip


def _text(front: dict[str, Any], title: str, body: Sequence[str], found: Sequence[Party], name: str) -> str:
    blocks = [front_matter(front), f"# {title}", *body, "## Licences", terms.section(found, name)]
    return "\n\n".join(blocks) + "\n"
