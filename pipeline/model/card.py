"""Model cards of adapters, and what they share with the card of an export: front matter, loading, prompt template.

A card is a README.md with the hub's front matter. It contains no times and no paths of this machine.
"""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.config.method_rules import description, spec_of
from pipeline.config.schema import Adapter, Model
from pipeline.model.base import Base, kind_of
from pipeline.model.base.location import base_name
from pipeline.model.methods.method import SETTINGS
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder

CARD = "README.md"
# In the code below PATH is the folder of the card, BASE the base.
TOKENIZER = 'tokenizer = AutoTokenizer.from_pretrained("PATH")'
AUTO = f"""from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("PATH")
{TOKENIZER}"""
WHOLE = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
{TOKENIZER}"""
OWN = f"""from pathlib import Path

from pipeline.model.adapter import load  # Suri
from transformers import AutoModelForCausalLM, AutoTokenizer

model = load(AutoModelForCausalLM.from_pretrained("BASE"), Path("PATH"))
{TOKENIZER}"""
ON_BASE = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "PATH")
{TOKENIZER}"""


def front_matter(values: dict[str, Any]) -> str:
    """The YAML block at the top of a card, which the hub reads."""
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def code_block(lines: str) -> str:
    return f"```python\n{lines}\n```"


def prompt_section(encoder: AnyEncoder) -> str:
    """The template that prompts must use."""
    text = (
        f"Prompts must use the template `{encoder.template.id}` (hash `{encoder.template.hash}`), which is the chat "
        "template of this tokenizer"
    )
    if isinstance(encoder, ChatEncoder):
        return f"{text}. It was trained on whole conversations."
    return (
        f"{text}: it puts a system message in front of the instruction and earlier turns into the input, as training "
        "did. A user message may have the key `input` besides `content`."
    )


def adapter_card(name: str, adapter: Adapter, model: Model, base: Base, encoder: AnyEncoder) -> str:
    """The card in the folder of a run's adapter. name: of the run."""
    front: dict[str, Any] = {"library_name": "peft" if spec_of(adapter).is_peft else "transformers"}
    front["pipeline_tag"] = "text-generation"
    if kind_of(model) == "hub":
        relation = "finetune" if adapter.method == "full" else "adapter"
        front |= {"base_model": model.base, "base_model_relation": relation}
    front["tags"] = ["suri", "instruction-tuning", encoder.template.id]
    sections = [
        front_matter(front),
        f"# {name}: adapter",
        f"Trained by Suri: {description(adapter)}. Base: {_base_description(model, base)}. "
        "This is the adapter as trained; `make export` makes a checked and measured checkpoint of it.",
        *_use(adapter, model, base.commit),
        prompt_section(encoder),
    ]
    return "\n\n".join(sections) + "\n"


def scaling_note(model: Model) -> str:
    """What loading the base by itself would miss."""
    return (
        f"The base's rotary positions were scaled (`model.rope_scaling: {model.rope_scaling}`). Where it is not loaded "
        "from the folder of the training, give `from_pretrained` of the base a `config` with these `rope_parameters`."
    )


def combined_card(name: str, weights: dict[str, float], base: str) -> str:
    """The card of a weighted sum of adapters. base: its name."""
    terms = " + ".join(f"{weight:g} {part}" for part, weight in weights.items())
    sections = [
        front_matter({"library_name": "peft", "tags": ["suri"]}),
        f"# {name}: adapter",
        f"A weighted sum, by Suri, of LoRAs on `{base}`: {terms}.",
        "## Use",
        code_block(AUTO),
        f"PATH is this folder; `{SETTINGS}` names the base.",
    ]
    return "\n\n".join(sections) + "\n"


def _base_description(model: Model, base: Base) -> str:
    kind = kind_of(model)
    if kind == "geometry":
        return "random weights"
    note = f" at commit `{base.commit}`" if base.commit else ", converted to safetensors" if kind == "gguf" else ""
    return f"`{base_name(model)}`{note}"


def _use(adapter: Adapter, model: Model, commit: str) -> list[str]:
    """How to load the adapter, on this machine and elsewhere. commit: of the base on the hub."""
    method, kind = spec_of(adapter), kind_of(model)
    if method.export == "nothing":
        return ["## Use", f"Nothing was trained: {description(adapter)}. `make chat` does so."]
    if method.name == "full":
        return ["## Use", code_block(WHOLE), "PATH is this folder, which holds all weights, in float32."]
    sections = ["## Use", code_block(AUTO if method.is_peft else OWN)]
    text = "PATH is this folder" + ("." if method.is_peft else "; BASE is the base.")
    if kind == "geometry":
        text += " The base has random weights, which only Suri can create again: load it with `make chat`."
    elif kind == "hub":
        text += f" `{SETTINGS}` names the base on the hub" + (", at that commit." if commit else ".")
    else:
        text += f" `{SETTINGS}` names the base by its absolute path on the machine of the training. On another "
        text += "machine, write its path there as `base_model_name_or_path`"
        text += ", or load the base first:" if method.is_peft else "."
    sections.append(text)
    if method.is_peft and kind in ("folder", "gguf"):
        file = base_name(model)
        reference = f'"FOLDER", gguf_file="{file}", dtype="float32"' if kind == "gguf" else '"FOLDER"'
        where = f"FOLDER is the folder that `{file}` is in." if kind == "gguf" else f"FOLDER is that of `{file}`."
        sections += [code_block(ON_BASE.replace('"BASE"', reference)), where]
    if model.rope_scaling:
        sections.append(scaling_note(model))
    if model.quantize in ("nf4", "int8"):
        sections.append(f"The base was quantised to {model.quantize} in training (bitsandbytes).")
    return sections
