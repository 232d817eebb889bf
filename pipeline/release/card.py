"""The model card: what the checkpoint is, how it was made, what came out."""

from __future__ import annotations

import json
from typing import Any

import yaml

from pipeline.config import Config
from pipeline.evaluation.measure import rows_of_table
from pipeline.prompt.encode import Encoder
from pipeline.run import Run

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
messages = [{"role": "user", "content": "Give three tips for staying healthy."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```"""


def card(config: Config, run: Run, encoder: Encoder, results: dict[str, Any], checks: dict[str, str]) -> str:
    """Markdown with the hub's front matter. Paths of this machine stay out of it."""
    data, adapter = run.manifest("dataset") or {}, run.manifest("adapter") or {}
    counts, trained = data.get("counts", {}), adapter.get("counts", {})
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["suri", "instruction-tuning", encoder.template.id],
    }
    if config.model.base.count("/") == 1 and not config.model.base.startswith("."):
        front["base_model"] = config.model.base
    what = {
        "lora": f"LoRA, r = {config.adapter.r}, alpha = {config.adapter.alpha:g}, merged",
        "full": "all weights trained",
    }
    hashes = [
        f"| `{name}` | {entry['sha256']} |" for name, entry in data.get("files", {}).items() if name.endswith(".jsonl")
    ]
    table = [f"| {a} | {b} | {c} |" for a, b, c in rows_of_table(results["base"], results["tuned"])]
    recipe = yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    return "\n".join([
        "---", yaml.safe_dump(front, sort_keys=False).strip(), "---",
        f"# {config.name}", "",
        f"Made by Suri from `{config.model.base or 'random weights'}`: {what[config.adapter.method]}. "
        f"{counts.get('train', 0):,} instructions, {trained.get('steps', 0):,} steps.", "",
        "## Use", "", USE, "",
        f"Prompts must have the form of the template `{encoder.template.id}` (hash `{encoder.template.hash}`), which is the chat template of this "
        "tokenizer; each question stands alone. A user message may carry `input` beside `content`.", "",
        "## Results", "",
        "| | base | this model |", "|---|---|---|", *table, "",
        "Greedy decoding, both models prompted with the training template. *Contained* counts an answer that holds the reference anywhere.", "",
        "## Checked at export", "", *[f"- {name}: {said}" for name, said in checks.items()], "",
        "## Recipe", "", "```yaml", recipe.strip(), "```", "",
        "## Data", "", "| file | sha256 |", "|---|---|", *hashes, "",
        f"Rows: {counts.get('train', 0):,} train, {counts.get('val', 0):,} held out, {counts.get('holdout', 0):,} of tasks never trained on, "
        f"{counts.get('rejected', 0):,} rejected.", "",
        f"Versions: {json.dumps(adapter.get('versions', {}))}", "",
    ])  # fmt: skip
