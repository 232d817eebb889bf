"""Tiny bases with chat templates of their own, and configs that train them on conversations."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.prompt.chat_template import FOLDER
from tests.helpers.chats import chat_base
from tests.helpers.tiny import make_base, make_config

# Writes an empty think block in front of the last answer only, and in front of what is generated, as Qwen3 does.
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
# Phi-4-mini's config.json names code of its repository, though transformers has the model itself.
AUTO_MAP = {"AutoConfig": "own.Phi3Config", "AutoModelForCausalLM": "own.Phi3ForCausalLM", "AutoTokenizer": "a/b"}
# Kind: model_type, family of the tokenizer, template, more of the geometry.
KINDS = {
    "llama": ("llama", "llama3", "llama-3", {}),
    "qwen3": ("qwen3", "qwen", "", {"head_dim": 8}),
    "gemma3": ("gemma3_text", "gemma", "gemma", {"head_dim": 8}),
    "phi3": ("phi3", "phi", "phi-3", {"pad_token_id": 1, "auto_map": AUTO_MAP}),
    "mistral": ("mistral", "llama3", "mistral", {"sliding_window": None}),
    "smollm3": ("smollm3", "llama3", "llama-3", {"pad_token_id": 0}),
    "exaone4": ("exaone4", "qwen", "chatml", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "hyperclovax": ("hyperclovax", "qwen", "chatml", {"use_post_norm": True}),
}
SYSTEM = "Answer in one short sentence."


def make_chat_base(folder: Path, kind: str) -> Path:
    """Writes a random two-layer base of a kind, with its tokenizer and chat template."""
    model_type, family, form, more = KINDS[kind]
    make_base(folder, model_type=model_type, vocab_size=800, **more)
    for path in folder.glob("*token*"):
        path.unlink()
    template = (FOLDER / f"{form}.jinja").read_text() if form else THINKS
    return chat_base(folder, family, template)


def write_talks(path: Path, count: int = 40) -> Path:
    """Conversations of one to three questions with answers; every second one begins with `SYSTEM`."""
    rows = []
    for number in range(count):
        messages = [{"role": "system", "content": SYSTEM}] if number % 2 else []
        for turn in range(1 + number % 3):
            messages.append({"role": "user", "content": f"What is {number} 더하기 {turn}?"})
            messages.append({"role": "assistant", "content": f"It is {number + turn}."})
        rows.append(json.dumps({"messages": messages}, ensure_ascii=False))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def chat_config(folder: Path, base: Path, *overrides: str) -> Config:
    """A config of four steps on `write_talks` with the base's own chat template."""
    talks = write_talks(folder / "talks.jsonl")
    return make_config(
        folder, base, "prompt.template=base", f"data.sources=[{{path: {talks}}}]", "data.holdout=[]", "data.val=6",
        "prompt.cutoff=400", "train.max_steps=4", "eval.rows=2", "adapter.targets=[all-linear]", *overrides,
    )  # fmt: skip
