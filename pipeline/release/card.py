"""The model card of an export: what the checkpoint is, how it was made, its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.config.method_rules import description, spec_of
from pipeline.config.schema import Adapter, Config, Model
from pipeline.evaluation.results import rows_of_table
from pipeline.model import card as cards
from pipeline.model.base import kind_of
from pipeline.model.methods.method import SETTINGS
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.release.summary import unfinished_text
from pipeline.run.files import read_json
from pipeline.run.folder import SPLITS, Run
from pipeline.run.markdown import code, fenced, plain

GENERATE = """messages = [{"role": "user", "content": "Give three tips for staying healthy."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def card(config: Config, run: Run, encoder: AnyEncoder, results: dict[str, Any], checks: dict[str, str]) -> str:
    """Markdown with the hub's front matter, without paths of this machine."""
    data, adapter = run.manifest("dataset") or {}, run.manifest("adapter") or {}
    rows, commit = row_counts(run), (read_json(run.folder("adapter") / "suri.json") or {}).get("commit")
    hashes = [f"| `{n}` | {e['sha256']} |" for n, e in data.get("files", {}).items() if n.endswith(".jsonl")]
    recipe = without_paths(config.model_dump(mode="json", exclude_defaults=True))
    sections = [
        cards.front_matter(_front(config.adapter, config.model, encoder.template.id)),
        f"# {config.name}",
        *([f"> **Unfinished:** {unfinished_text(results['unfinished'])}."] if "unfinished" in results else []),
        f"Made by Suri from {_origin(config.model, commit)}: {description(config.adapter)}. "
        f"{rows['train']:,} instructions, {adapter.get('counts', {}).get('steps', 0):,} steps.",
        "## Use",
        _use(config.adapter, config.model),
        cards.prompt_section(encoder),
        "## Results",
        *_results(config, results),
        "## Checked at export",
        "\n".join(f"- {plain(name)}: {plain(result)}" for name, result in checks.items()),
        "## Recipe",
        fenced(str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)).strip(), "yaml"),
        "## Data",
        "\n".join(["| file | sha256 |", "|---|---|", *hashes]),
        f"Rows: {rows['train']:,} train, {rows['val']:,} held out, {rows['holdout']:,} of tasks never trained on, "
        f"{rows['rejected']:,} rejected"
        + (f", {rows['too long']:,} of them as too long." if rows["too long"] else "."),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in adapter.get("versions", {}).items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def _results(config: Config, results: dict[str, Any]) -> list[str]:
    """The table of results; why there is none, where they were left out."""
    if left_out := results.get("left_out"):
        return [f"None: where this model was exported, it {left_out}. So neither model was measured."]
    table = [f"| {plain(a)} | {b} | {c} |" for a, b, c in rows_of_table(results["base"], results["tuned"])]
    heading = "| | {} | {} |".format(*column_names(config.adapter, "this model"))
    return [
        "\n".join([heading, "|---|---|---|", *table]),
        "Greedy decoding, both models prompted with the training template. *Contained* counts answers that contain "
        "the reference.",
    ]


def row_counts(run: Run) -> dict[str, int]:
    """Rows of each split, and rows that the data stage and the tokens stage rejected."""
    data, tokens = ((run.manifest(stage) or {}).get("counts", {}) for stage in ("dataset", "tokens"))
    rows = {split: tokens.get(split, {}).get("rows", data.get(split, 0)) for split in SPLITS}
    too_long = sum(tokens.get(split, {}).get("rejected", 0) for split in rows)
    return {**rows, "rejected": data.get("rejected", 0) + too_long, "too long": too_long}


def without_paths(value: Any) -> Any:
    """The same plain data with every absolute path shortened to its last part."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value


def _front(adapter: Adapter, model: Model, template: str) -> dict[str, Any]:
    """Front matter; the base is named only when it is on the hub."""
    method = spec_of(adapter)
    library = "peft" if method.export == "adapter" and method.is_peft else "transformers"
    front: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if kind_of(model) == "hub":
        front["base_model"] = model.base
    return {**front, "tags": ["suri", "instruction-tuning", template]}


def _origin(model: Model, commit: str | None) -> str:
    if not model.base:
        return "random weights"
    return code(without_paths(model.base)) + (f" at commit `{commit}`" if commit else "")


def column_names(adapter: Adapter, tuned: str = "tuned") -> tuple[str, str]:
    """Headings of the two models in the table of results."""
    return ("0-shot", f"{adapter.shots}-shot") if spec_of(adapter).export == "nothing" else ("base", tuned)


def _use(adapter: Adapter, model: Model) -> str:
    """How to load the export."""
    method, base = spec_of(adapter), cards.base_name(model)
    if method.export == "merged":
        return cards.code_block(f"{cards.WHOLE}\n{GENERATE}")
    if method.export == "nothing":
        return (
            f"Nothing was trained: take {code(base)}, and put {adapter.shots} training rows of the "
            "question's task, each with its answer and the end token, in front of the question. `make chat` does so."
        )
    lines = cards.code_block(cards.ON_BASE if method.is_peft else cards.OWN)
    text = f"BASE is `{base}`, PATH this folder, which holds the tokenizer too."
    if method.is_peft:
        text += f" Where `{SETTINGS}` names the base on your machine: `AutoPeftModelForCausalLM.from_pretrained`."
    return f"{lines}\n\n{text}"
