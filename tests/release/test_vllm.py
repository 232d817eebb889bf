"""An export in vLLM, where one is installed: the same greedy answers, log-probabilities and chat prompts.

vLLM pins another transformers, so it runs in an environment of its own; SURI_VLLM_PYTHON names its Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.prompt.stage import encoder_of
from tests.helpers.tiny import load_examples, make_base, make_config, run_to
from tests.helpers.vllm_answers import LENGTH, QUESTION

pytestmark = pytest.mark.vllm
PYTHON = os.environ.get("SURI_VLLM_PYTHON", "")
SCRIPT = Path(__file__).parents[1] / "helpers" / "vllm_answers.py"
# Heads of 32 numbers: vLLM's attention on a CPU knows no smaller ones.
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.skipif(not PYTHON, reason="needs vLLM in an environment of its own, named by SURI_VLLM_PYTHON")
def test_vllm_answers_as_transformers(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", **SIZES)
    config = make_config(tmp_path, base, "train.max_steps=20")
    run = run_to(config, "export", tmp_path)
    folder, encoder = run.folder("export"), encoder_of(config.prompt, base, config.model.add_tokens)
    prompts = [encoder.prompt(row.instruction, row.input) for row in load_examples(run, "val")]
    answer = subprocess.run([PYTHON, "-P", str(SCRIPT), str(folder)], input=json.dumps(prompts), capture_output=True,
                            text=True, timeout=500)  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    given = json.loads(answer.stdout.splitlines()[-1])

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert given["chat"] == tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert len(prompts) == 8
    for ids, row in zip(prompts, given["rows"], strict=True):
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            wanted = model.generate(tokens, max_new_tokens=LENGTH, do_sample=False)[0, len(ids) :]
            logs = model(tokens).logits[0, :-1].float().log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        assert row["answer"] == wanted.tolist()
        assert torch.allclose(torch.tensor(row["logs"]), logs, atol=1e-3)
