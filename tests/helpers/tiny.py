"""A tiny LLaMA base on disk and configs that train it in a second."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline import stages
from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.demo.families import generate
from pipeline.run.folder import Run

torch.set_num_threads(1)
# Libraries that a command imports only when it has work for them.
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "matplotlib", "safetensors"}
SHAPE = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def make_tokenizer(folder: Path) -> int:
    """Writes a byte-level BPE tokenizer with <s>, </s> and <unk>; returns its size."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [" ".join((r["instruction"], r["input"], r["output"])) for r in generate(200, 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "### Instruction:\n### Input:\n### Response:\n"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def make_base(folder: Path, seed: int = 0, **shape: Any) -> Path:
    """Writes a random two-layer LLaMA with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = make_tokenizer(folder)
    torch.manual_seed(seed)
    values = {**SHAPE, "vocab_size": size, "bos_token_id": 1, "eos_token_id": 2, **shape}
    kind = values.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    model.save_pretrained(folder)
    return folder


def load_examples(run: Run, split: str, limit: int | None = None) -> list[Example]:
    """The examples of a split of a run."""
    return list(read_examples(run.folder("dataset"), split, limit))


def make_config(folder: Path, base: Path, *overrides: str) -> Config:
    """A config for the tiny base: six steps, with dropout, checkpoints and held-out rows."""
    path = folder / "tiny.yaml"
    lora = not any(o.startswith("adapter.method=") for o in overrides)
    adapter = "{r: 4, alpha: 8, dropout: 0.1, targets: [q_proj, v_proj]}" if lora else "{}"  # others read other keys
    path.write_text(
        f"""
name: tiny
model: {{base: {base}, dtype: fp32}}
data: {{sources: [{{path: families, rows: 100}}], val: 8, holdout: [extract-phone, lookup-field]}}
prompt: {{template: alpaca-short, cutoff: 200}}
adapter: {adapter}
train: {{batch_size: 8, max_steps: 6, lr: 1e-2, warmup: 1, save_every: 1, eval_every: 3, eval_rows: 4, tracker: none}}
eval: {{rows: 4, max_new_tokens: 4, prompts: [Say hello.], known: none, general_windows: 2}}
export: {{min_eos: 0}}
"""
    )
    return load(path, overrides)


def run_to(config: Config, last: str, root: Path) -> Run:
    """Brings a run under `root` up to date."""
    run = Run(root / config.name)
    stages.bring_up_to_date(config, run, last)
    return run


def train_on_two(config: Config, root: Path) -> Run:
    """Trains in two processes, each with its share of the rows."""
    return train_on(2, config, root)


def train_on(world: int, config: Config, root: Path) -> Run:
    """Trains in so many processes; whichever is left after a minute is killed."""
    codes = run_ranks(world, lambda: run_to(config, "train", root))
    assert codes == [0] * world
    run = Run(root / config.name)
    assert (run.manifest("adapter") or {})["counts"]["processes"] == world
    return run


def run_ranks(world: int, work: Callable[[], object], seconds: float = 60) -> list[int]:
    """Exit codes of processes such as `accelerate launch --cpu` starts, by rank, without the seconds that imports take.

    Those that are left `seconds` after the start, or `PATIENCE` after another one has ended, are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = [start_rank(rank, world, port, work) for rank in range(world)]
    codes: dict[int, int] = {}
    deadline = time.time() + seconds
    while len(codes) < world and time.time() < deadline:
        for child in children:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
                deadline = min(deadline, time.time() + PATIENCE) if len(codes) == 1 else deadline
        time.sleep(0.02)
    for child in set(children) - set(codes):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        codes[child] = TOO_LONG
    return [codes[child] for child in children]


PATIENCE = 15  # seconds
TOO_LONG = -1000  # exit code of a rank that had to be killed here


def start_rank(rank: int, world: int, port: str, work: Callable[[], object]) -> int:
    """The id of one such process; it ends with the exit code of a command."""
    child = os.fork()
    if child:
        return child
    code = 1
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads did not come along
    try:
        AcceleratorState._reset_state(True)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
        code = guarded(lambda: work() and None)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
