"""The model card: what the checkpoint is, how it was made, what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.config.method_rules import description, spec_of
from pipeline.config.schema import Config
from pipeline.evaluation.results import rows_of_table
from pipeline.model.base import kind_of
from pipeline.prompt.encode import Encoder
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.markdown import code, fenced, plain

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
messages = [{"role": "user", "content": "Give three tips for staying healthy."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```"""

ON_BASE = """```python
LINES
```

BASE is `NAME`, PATH this folder, which holds the tokenizer too: `AutoTokenizer.from_pretrained("PATH")`."""
PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("BASE")
model = PeftModel.from_pretrained(model, "PATH")
# or, where adapter_config.json finds the base: peft.AutoPeftModelForCausalLM.from_pretrained("PATH")"""
OWN = """from pathlib import Path

from pipeline.model.adapter import load  # of Suri, which made it
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("BASE")
model = load(model, Path("PATH"))"""


def card(config: Config, run: Run, encoder: Encoder, results: dict[str, Any], checks: dict[str, str]) -> str:
    """Markdown with the hub's front matter. Paths of this machine stay out of it."""
    data, adapter = run.manifest("dataset") or {}, run.manifest("adapter") or {}
    rows = rows_of(run)
    template = encoder.template
    table = [f"| {plain(a)} | {b} | {c} |" for a, b, c in rows_of_table(results["base"], results["tuned"])]
    hashes = [f"| `{n}` | {e['sha256']} |" for n, e in data.get("files", {}).items() if n.endswith(".jsonl")]
    recipe = without_paths(config.model_dump(mode="json", exclude_defaults=True))
    sections = [
        f"---\n{_yaml(_front(config, template.id))}\n---",
        f"# {config.name}",
        f"Made by Suri from {_origin(config, run)}: {_method(config)}. {rows['train']:,} instructions, "
        f"{adapter.get('counts', {}).get('steps', 0):,} steps.",
        "## Use",
        _use(config),
        f"Prompts must have the form of the template {code(template.id)} (hash `{template.hash}`), which is the chat "
        "template of this tokenizer; each question stands alone. A user message may carry `input` beside `content`.",
        "## Results",
        "\n".join(["| | {} | {} |".format(*column_names(config, "this model")), "|---|---|---|", *table]),
        "Greedy decoding, both models prompted with the training template. *Contained* counts an answer that holds "
        "the reference anywhere.",
        "## Checked at export",
        "\n".join(f"- {plain(name)}: {plain(said)}" for name, said in checks.items()),
        "## Recipe",
        fenced(_yaml(recipe), "yaml"),
        "## Data",
        "\n".join(["| file | sha256 |", "|---|---|", *hashes]),
        f"Rows: {rows['train']:,} train, {rows['val']:,} held out, {rows['holdout']:,} of tasks never trained on, "
        f"{rows['rejected']:,} rejected"
        + (f", {rows['too long']:,} of them as too long." if rows["too long"] else "."),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in adapter.get("versions", {}).items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def rows_of(run: Run) -> dict[str, int]:
    """Rows that were trained on and measured, and rows that the data stage and the tokens stage rejected."""
    data, tokens = ((run.manifest(stage) or {}).get("counts", {}) for stage in ("dataset", "tokens"))
    rows = {part: tokens.get(part, {}).get("rows", data.get(part, 0)) for part in ("train", "val", "holdout")}
    too_long = sum(tokens.get(part, {}).get("rejected", 0) for part in rows)
    return {**rows, "rejected": data.get("rejected", 0) + too_long, "too long": too_long}


def without_paths(value: Any) -> Any:
    """The same plain data, with the last name in place of every path that only this machine has."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value


def _front(config: Config, template: str) -> dict[str, Any]:
    """What the hub reads; a base is named only when it lies there too."""
    library = "peft" if _is_peft(config) else "transformers"
    front: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if kind_of(config.model) == "hub":
        front["base_model"] = config.model.base
    return {**front, "tags": ["suri", "instruction-tuning", template]}


def _origin(config: Config, run: Run) -> str:
    if not config.model.base:
        return "random weights"
    commit = (read_json(run.folder("adapter") / "suri.json") or {}).get("commit")
    return code(without_paths(config.model.base)) + (f" at commit `{commit}`" if commit else "")


def _method(config: Config) -> str:
    return description(config.adapter)


def base_name(config: Config) -> str:
    """The base as it may be named elsewhere: a hub id, or the last part of a path."""
    return Path(config.model.base).name if kind_of(config.model) != "hub" else config.model.base


def column_names(config: Config, tuned: str = "tuned") -> tuple[str, str]:
    """What the table compares."""
    if spec_of(config.adapter).export == "nothing":
        return "0-shot", f"{config.adapter.shots}-shot"
    return "base", tuned


def _is_peft(config: Config) -> bool:
    """Whether the export is an adapter that stock peft loads."""
    method = spec_of(config.adapter)
    return method.export == "adapter" and method.is_peft


def _use(config: Config) -> str:
    """How to load it."""
    method = spec_of(config.adapter)
    if method.export == "merged":
        return USE
    if method.export == "nothing":
        return (
            f"Nothing was trained: take {code(base_name(config))}, and put {config.adapter.shots} training rows of the "
            "question's task, each with its answer and the end token, in front of the question. `make chat` does so."
        )
    lines = PEFT if _is_peft(config) else OWN
    return ON_BASE.replace("LINES", lines).replace("NAME", base_name(config))


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).strip()
