"""Greedy answers of a checkpoint in vLLM, as JSON; for the Python of an environment that has vLLM.

    python tests/helpers/vllm_answers.py FOLDER < prompts.json        [[ids], ...] on stdin

For each prompt: the ids of its greedy answer, and log p of each of its tokens but the first (nats). Once: the ids that
the chat template gives for a question. How such an environment is made: docs/export.md, "vLLM".
"""

import json
import os
import sys

os.environ |= {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip
QUESTION = [{"role": "user", "content": "Say hello."}]
LENGTH = 16  # tokens of an answer


def main() -> None:
    from vllm import LLM, SamplingParams, TokensPrompt

    prompts = json.load(sys.stdin)
    model = LLM(sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True, max_num_seqs=8)
    settings = SamplingParams(temperature=0, max_tokens=LENGTH, prompt_logprobs=0)
    outputs = model.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], settings, use_tqdm=False)
    rows = []
    for ids, output in zip(prompts, outputs, strict=True):
        logs = [place[id].logprob for place, id in list(zip(output.prompt_logprobs, ids, strict=True))[1:]]
        rows.append({"answer": list(output.outputs[0].token_ids), "logs": logs})
    chat = model.chat(QUESTION, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)[0]
    print("\n" + json.dumps({"rows": rows, "chat": list(chat.prompt_token_ids)}))


if __name__ == "__main__":
    main()
