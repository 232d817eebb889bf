"""Merges a model of a 7B geometry with little memory: `python -m scripts.benchmarks.bench_merge FOLDER [CASE ...]`.

Cases: copy (`cp` of the base, the disk's own speed), merge (the merge alone, in a process whose address space is
limited), export (the whole export stage with its checks, which read the weights block by block). Without a case: copy
and merge. FOLDER gets the base and the result, twice 13.5 GB, and is emptied again.

SHAPE=small takes a model of 0.3 GB; LIMIT=6 limits the address space to so many GiB, 0 for no limit. A process counts
more address space than memory: torch's libraries and the stacks of threads take 2 to 3 GiB of it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoConfig

from pipeline import stages
from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model import base as bases
from pipeline.model.load import read_shape
from pipeline.model.methods.method import WEIGHTS
from pipeline.model.methods.targets import linear_layers
from pipeline.model.run_base import RunBase
from pipeline.model.skeleton import Skeleton
from pipeline.release.shards.plan import Plan, plan_of
from pipeline.release.shards.write import write_checkpoint
from pipeline.run.errors import UserError
from pipeline.run.files import fsync_path, read_json, write_json
from pipeline.run.folder import Run
from scripts.benchmarks.random_base import write_base

SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16},
}
RANK, VOCABULARY = 8, 32000
GB = 1e9
CONFIG = """
name: bench
model: {{base: {base}}}
data: {{sources: [{{path: families, rows: 100}}], val: 8}}
prompt: {{template: alpaca-short, cutoff: 200}}
adapter: {{r: 8}}
eval: {{rows: 1, max_new_tokens: 2, known: none, prompts: [], general_windows: 1}}
export: {{dtype: bf16, min_eos: 0}}
"""


def make_base(folder: Path, shape: dict[str, int]) -> int:
    """Writes a LLaMA in bf16 with random weights; returns its bytes."""
    config = AutoConfig.for_model("llama", vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **shape)
    config.architectures = ["LlamaForCausalLM"]
    return write_base(folder, config, torch.bfloat16, copies=2)


def make_adapter(folder: Path, base: RunBase) -> None:
    """Writes a random LoRA adapter on all linear layers of the blocks."""
    folder.mkdir(parents=True)
    assert base.files.folder is not None
    skeleton = Skeleton(read_shape(str(base.files.folder)))
    layers = {n: m for n, m in linear_layers(skeleton.model).items() if m is not skeleton.model.get_output_embeddings()}
    generator, tensors = torch.Generator().manual_seed(1), {}
    for name, layer in layers.items():
        for part, size in (("A", (RANK, layer.in_features)), ("B", (layer.out_features, RANK))):
            key = f"base_model.model.{name}.lora_{part}.weight"
            tensors[key] = torch.randn(size, generator=generator) * 0.02
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    targets = sorted({name.split(".")[-1] for name in layers})
    LoraConfig(r=RANK, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(folder)
    encoder = base.encoder
    record = {"template": {"hash": encoder.template.hash}, "tokenizer": encoder.tokenizer.hash}
    write_json(folder / "suri.json", {**record, "base_hash": base.fingerprint()})


def copy(folder: Path) -> dict[str, Any]:
    """`cp` of the base's weights, until they are on the disk."""
    target = folder / "copy"
    target.mkdir()
    files = sorted((folder / "base").glob("*.safetensors"))
    _forget(folder / "base")
    started = time.perf_counter()
    subprocess.run(["cp", *map(str, files), str(target)], check=True)
    _to_disk(target)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return {"seconds": seconds, "memory": 0}


def merge(folder: Path) -> dict[str, Any]:
    """The merge alone, until its files are on the disk."""
    config, base = _opened(folder)
    target = folder / "merged"
    target.mkdir()
    _forget(folder / "base")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    plan = plan_of(base, folder / "runs/bench/adapter", config.export.dtype)
    if not isinstance(plan, Plan):
        raise UserError(f"not merged tensor by tensor: {plan}", str(folder), "report this")
    write_checkpoint(target, plan.layout, plan.tensor)
    _to_disk(target)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return {"seconds": seconds, "interpreter": before * 1024}


def export(folder: Path) -> dict[str, Any]:
    """The export stage: three passes through the weights on a few rows, the merge, and its files read again.

    Where the model fits into memory, it is loaded instead, and measured on a few rows.
    """
    from pipeline.release.stage import export as export_stage

    config, base = _opened(folder)
    run = Run(folder / "runs/bench")
    started = time.perf_counter()
    with run.lock():
        export_stage(config, run, base.files, {"bench": 1})
    seconds = time.perf_counter() - started
    checks = (read_json(run.folder("export") / "suri.json") or {})["checks"]
    shutil.rmtree(run.folder("export"))
    return {"seconds": seconds, "checks": checks}


def _opened(folder: Path) -> tuple[Config, RunBase]:
    config = load(folder / "bench.yaml", ())
    return config, RunBase.of(config, bases.resolve(config.model))


def _forget(folder: Path) -> None:
    """Takes the files out of the page cache, so that they are read from the disk."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _to_disk(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        fsync_path(path)


CASES = {"copy": copy, "merge": merge, "export": export}


def _case(name: str, folder: Path) -> dict[str, Any]:
    """Runs a case in a separate process, whose address space is limited, and adds its peak memory."""
    limit = int(float(os.environ.get("LIMIT", "0")) * (1 << 30))

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [sys.executable, "-m", "scripts.benchmarks.bench_merge", "--case", name, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=limited) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"the case {name} ended with {process.returncode}", str(folder), "read the lines above")
    return {**json.loads(last), "memory": usage.ru_maxrss * 1024}


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(CASES[sys.argv[2]](Path(sys.argv[3]))), flush=True)
        return
    if len(sys.argv) < 2:
        raise UserError("name a folder for base and result", "FOLDER", "see the first lines of this file")
    folder, cases = Path(sys.argv[1]).resolve(), sys.argv[2:] or ["copy", "merge"]
    if unknown := [case for case in cases if case not in CASES]:
        raise UserError(f"no such case: {unknown[0]}", "CASE", f"there are {', '.join(CASES)}")
    if folder.exists() and any(folder.iterdir()):
        raise UserError("this folder is not empty, and it is emptied at the end", str(folder), "name another one")
    os.environ["SURI_CACHE"] = str(folder / "cache")
    try:
        size = make_base(folder / "base", SHAPES[os.environ.get("SHAPE", "7b")])
        (folder / "bench.yaml").write_text(CONFIG.format(base=folder / "base"))
        config, base = _opened(folder)
        run = Run(folder / "runs/bench")
        stages.bring_up_to_date(config, run, "tokens")
        make_adapter(run.folder("adapter"), base)
        lines = []
        for case in cases:
            result = _case(case, folder)
            speed, memory = size / result["seconds"] / 1e6, result["memory"] / (1 << 30)
            lines.append(f"{case:8} {result['seconds']:8.1f} s {speed:8.0f} MB/s   peak memory {memory:.2f} GiB")
            if "interpreter" in result:
                lines[-1] += f", {result['interpreter'] / (1 << 30):.2f} GiB of it before the merge"
        print(f"\n{size / GB:.1f} GB of weights, load {os.getloadavg()[0]:.1f}\n" + "\n".join(lines))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
