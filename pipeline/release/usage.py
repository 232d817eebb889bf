"""How to run an export, for its model card: only formats and programs that fit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Adapter, Model
from pipeline.model import card as cards
from pipeline.model.methods.method import SETTINGS
from pipeline.run.markdown import code

GENERATE = """messages = [{"role": "user", "content": "Give three tips for staying healthy."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
VLLM = """vllm serve PATH
curl http://localhost:8000/v1/chat/completions -H "Content-Type: application/json" \\
  -d '{"model": "PATH", "temperature": 0, "messages": [{"role": "user", "content": "Give three tips."}]}'"""


def section(adapter: Adapter, model: Model, formats: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown. formats: records of the further formats."""
    blocks = [_transformers(adapter, model)]
    if spec_of(adapter).export == "merged":
        blocks.append(f"In vLLM, which takes the chat template from the folder:\n\n```sh\n{VLLM}\n```")
    if gguf := formats.get("gguf"):
        blocks.append(of_gguf(str(gguf["file"]), bool(gguf.get("modelfile", True))))
    return "\n\n".join(blocks)


def of_gguf(file: str, has_modelfile: bool) -> str:
    """How to run a GGUF file. file: its path as seen from the card."""
    folder = f"{file.rpartition('/')[0]}/" if "/" in file else ""
    text = f"In llama.cpp, with the chat template that is in the file:\n\n```sh\nllama-cli -m {file} --jinja\n```"
    if has_modelfile:
        text += f"\n\nIn Ollama:\n\n```sh\nollama create NAME -f {folder}Modelfile\nollama run NAME\n```"
    return text


def _transformers(adapter: Adapter, model: Model) -> str:
    """How to load the export in Python."""
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
    if model.rope_scaling:
        text += f" {cards.scaling_note(model)}"
    return f"{lines}\n\n{text}"
