"""What makes an adapter's folder loadable from any working directory: the base's full name, tokenizer, chat template
and a card. The same run gives the same bytes: no times, no sets in the order of a hash.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.config.method_rules import description, spec_of
from pipeline.config.schema import Config, Model
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base, kind_of
from pipeline.model.methods.method import SETTINGS
from pipeline.prompt.encode import Encoder
from pipeline.run.files import read_json, write_json, write_text
from pipeline.run.progress import say

CARD = "README.md"
# Files that a tokenizer of some kind has; none of them is needed by our own loader.
COMPANIONS = (
    CARD, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
SETS = ("target_modules", "exclude_modules", "feedforward_modules")  # peft writes them in the order of their hashes
TOKENIZER = 'tokenizer = AutoTokenizer.from_pretrained("PATH")'
AUTO = f"""from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("PATH")
{TOKENIZER}"""
WHOLE = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
{TOKENIZER}"""
OWN = f"""from pathlib import Path

from pipeline.model.adapter import load  # of Suri, which made it
from transformers import AutoModelForCausalLM, AutoTokenizer

model = load(AutoModelForCausalLM.from_pretrained("BASE"), Path("PATH"))
{TOKENIZER}"""
BY_HAND = """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "PATH")"""


def base_reference(model: Model, base: Base) -> str:
    """The base as any working directory can load it: a hub id or an absolute path; empty for random weights."""
    if kind_of(model) == "hub":
        return model.base
    return os.path.abspath(base.folder) if base.folder else ""


def complete(folder: Path, config: Config, base: Base, encoder: Encoder, longest: int | None) -> None:
    """Adds to a saved adapter what others need to load it.

    Args:
        longest: tokens that the model sees; None where its config does not say.
    """
    name_base(folder, config.model, base)
    try:
        tokenizer = hf_tokenizer.build(encoder, longest)
    except Exception as error:  # transformers raises its own kinds; a trained adapter is worth more than a tokenizer
        said = " ".join(str(error).split())[:300]
        say(f"adapter: no tokenizer is stored with it, transformers cannot build this one: {said}")
    else:
        hf_tokenizer.save(tokenizer, encoder, folder)
    write_text(folder / CARD, card(config, base, encoder))


def name_base(folder: Path, model: Model, base: Base) -> None:
    """Writes the base's reference and the hub's commit into adapter_config.json, where there is one."""
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings, dict):
        return
    settings["base_model_name_or_path"] = base_reference(model, base) or None
    if "peft_type" in settings:
        settings["revision"] = base.commit or None
    for key in SETS:
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    write_json(folder / SETTINGS, dict(sorted(settings.items())))


def copy_companions(source: Path, folder: Path) -> None:
    """Tokenizer and card of one adapter's folder into another."""
    for name in COMPANIONS:
        if (source / name).is_file() and not (source / name).is_symlink():
            shutil.copyfile(source / name, folder / name)


def card(config: Config, base: Base, encoder: Encoder) -> str:
    """Markdown with the hub's front matter; paths of this machine stay out of it."""
    method, on_hub = spec_of(config.adapter), kind_of(config.model) == "hub"
    is_peft = method.is_peft
    front = [f"library_name: {'peft' if is_peft else 'transformers'}"]
    front += [f"base_model: {config.model.base}"] if on_hub else []
    sections = [
        "\n".join(["---", *front, f"tags: [suri, instruction-tuning, {encoder.template.id}]", "---"]),
        f"# {config.name}: adapter",
        f"Trained by Suri: {description(config.adapter)}. Base: {_base_said(config, base)}. "
        "The adapter as training left it: `make export` makes a checkpoint of it that is checked and measured.",
        *_use(config, base),
        f"Prompts must have the form of the template `{encoder.template.id}` (hash `{encoder.template.hash}`), which "
        "is the chat template of this tokenizer; each question stands alone.",
    ]
    return "\n\n".join(sections) + "\n"


def combined_card(name: str, of: dict[str, float], base: str) -> str:
    """Of a weighted sum of adapters. base: its name."""
    parts = " + ".join(f"{weight:g} {part}" for part, weight in of.items())
    return (
        f"---\nlibrary_name: peft\ntags: [suri]\n---\n\n# {name}: adapter\n\n"
        f"A sum by Suri of LoRAs on `{base}`: {parts}.\n\n"
        f"## Use\n\n```python\n{AUTO}\n```\n\nPATH is this folder; `{SETTINGS}` names the base.\n"
    )


def _base_said(config: Config, base: Base) -> str:
    kind = kind_of(config.model)
    if kind == "geometry":
        return "random weights"
    if kind == "hub":
        return f"`{config.model.base}`" + (f" at commit `{base.commit}`" if base.commit else "")
    name = Path(config.model.base).name
    return f"`{name}`" + (", converted to safetensors" if kind == "gguf" else "")


def _use(config: Config, base: Base) -> list[str]:
    """How to load it, here and elsewhere."""
    method, kind = spec_of(config.adapter), kind_of(config.model)
    if method.export == "nothing":
        return ["## Use", f"Nothing was trained: {description(config.adapter)}. `make chat` does so."]
    is_peft = method.is_peft
    lines = WHOLE if method.name == "full" else AUTO if is_peft else OWN
    sections = ["## Use", f"```python\n{lines}\n```"]
    if method.name == "full":
        return [*sections, "PATH is this folder, which holds all weights, in float32."]
    said = "PATH is this folder" + ("." if is_peft else "; BASE is the base.")
    if kind == "geometry":
        said += " The base has random weights, which only Suri makes again: load it with `make chat`."
    elif kind == "hub":
        said += f" `{SETTINGS}` names the base on the hub" + (", at that commit." if base.commit else ".")
    else:
        said += f" `{SETTINGS}` names the base by its absolute path on the machine that trained. Elsewhere, write its "
        said += "path there as `base_model_name_or_path`" + (", or load the base first:" if is_peft else ".")
    sections.append(said)
    if is_peft and kind in ("folder", "gguf"):
        file = Path(config.model.base).name
        named = f'"FOLDER", gguf_file="{file}", dtype="float32"' if kind == "gguf" else '"FOLDER"'
        where = f"FOLDER is the folder that `{file}` is in." if kind == "gguf" else f"FOLDER is that of `{file}`."
        sections += [f"```python\n{BY_HAND.replace('BASE', named)}\n```", where]
    if config.model.quantize in ("nf4", "int8"):
        sections.append(f"The base was quantised to {config.model.quantize} in training (bitsandbytes).")
    return sections
