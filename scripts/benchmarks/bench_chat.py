"""Speed of conversations beside Alpaca rows: `python -m scripts.benchmarks.bench_chat DATA TOKENIZER [SHAPE]`.

DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model. SHAPE: `7b` (the default on a GPU) or
`tiny`, with random weights (speed does not depend on them). LoRA r=16 on all linear layers, micro-batches of 16,384
tokens, on the fast path; steps are timed as in `bench_train`. The same questions and answers in four forms:

    alpaca rows               the Alpaca template, a row for each answer
    chat rows                 zephyr's chat template, Alpaca's first sentence as system message, a row for each answer
    conversations             the same template, four questions and answers in one row
    conversations as rows     Alpaca's template: a row for each answer, with the earlier turns in its input

`tok/s` counts all tokens of the rows, `labelled/s` those that carry loss: what a run learns in a second.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.prompt.pack import Packer
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.stages import bring_up_to_date
from scripts.benchmarks.bench_call import check_places, where
from scripts.benchmarks.bench_cases import Case
from scripts.benchmarks.bench_models import CUDA, fast_model, model_of
from scripts.benchmarks.bench_worker import our_steps
from scripts.benchmarks.steady import timed

SYSTEM = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
TURNS = 4  # questions and answers of a conversation
CUTOFF = {"rows": 512, "conversations": 2048}


def _single(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [_conversation([row]) for row in rows]


def _talks(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [_conversation(rows[start : start + TURNS]) for start in range(0, len(rows), TURNS)]


def _conversation(rows: list[dict[str, str]]) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}]
    for row in rows:
        question = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    return {"messages": messages}


CASES = {
    "alpaca rows": ("alpaca", lambda rows: rows, CUTOFF["rows"]),
    "chat rows": ("zephyr", _single, CUTOFF["rows"]),
    "conversations": ("zephyr", _talks, CUTOFF["conversations"]),
    "conversations as rows": ("alpaca", _talks, CUTOFF["conversations"]),
}


def _tokens(case: str, rows: list[dict[str, str]], tokenizer: str, work: Path) -> tuple[Tokens, list[list[int]]]:
    template, form, cutoff = CASES[case]
    path = work / f"{case}.json"
    path.write_text(json.dumps(form(rows), ensure_ascii=False), encoding="utf-8")
    data = {"sources": [{"path": str(path)}], "clean": "none", "duplicates": {"exact": False, "near": 0}}
    prompt = {"template": template, "cutoff": cutoff}
    config = Config.model_validate({"name": "b", "model": {"tokenizer": tokenizer}, "data": data, "prompt": prompt})
    run = Run(work / case)
    bring_up_to_date(config, run, "tokens")
    examples = read_examples(run.folder("dataset"), "train")  # their system texts are part of the preambles
    preambles = encoder_of(config.prompt, Path(tokenizer), ()).preambles(examples)
    return Tokens(run.folder("tokens") / "train.arrow"), preambles


def main() -> None:
    words = sys.argv[1:]
    check_places(words, "[SHAPE]")
    shape = words[2] if len(words) > 2 else "7b" if CUDA else "tiny"
    rows = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    rows = [row for row in rows if row["instruction"].strip() and row["output"].strip()]
    lines = []
    case = Case("ours", tokens=16384 if CUDA else 2048, shape=shape)
    model = model_of(case)
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            tokens, preambles = _tokens(name, rows, words[1], Path(folder))
            share = int(tokens.labelled.sum()) / int(tokens.lengths.sum())
            if CUDA:
                torch.cuda.empty_cache()
            packer = Packer(tokens, preambles, 1 << 40)
            pace = timed(_stepping(our_steps(case, model, fast_model(case, model, tokens), packer), model))
            low, high = pace.quartiles
            lines.append(
                f"| {name:22} | {len(tokens):8,} | {tokens.lengths.mean():8.1f} | {'' if pace.is_steady else '~'}"
                f"{pace.rate:,.0f} | {low:,.0f} to {high:,.0f} | {pace.rate * share:,.0f} |"
            )
            print(lines[-1], flush=True)
            gc.collect()
    print(f"\n{where()}, {shape}\n")
    print("| form | rows | tokens a row | tok/s | quartiles | labelled/s |\n|---|---:|---:|---:|---:|---:|")
    print("\n".join(lines))


def _stepping(steps: Any, model: Any) -> Any:
    """Takes an optimiser step after each micro-batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=CUDA)
    for count in steps:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if CUDA:
            torch.cuda.synchronize()
        yield count


if __name__ == "__main__":
    raise SystemExit(guarded(main))
