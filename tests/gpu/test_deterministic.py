"""On a GPU: a run that was killed ends bit-identical on each path, and attention is deterministic."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from pipeline.kernels import attention
from pipeline.kernels.layout import Layout
from pipeline.prompt.pack import Packer
from pipeline.run.folder import Run
from pipeline.training import checkpoint
from tests.helpers.packs import tokens_of
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import Killed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

WORDS = ["the", "name", "of", "city", "is", "hello", "list", "copy", "write", "number", "word", "text", "red"]


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with widths as fp8 takes them."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "max_position_embeddings": 2048}
    return make_base(tmp_path_factory.mktemp("wide"), **shape)


@pytest.fixture(scope="session")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers longer than a tile of attention: sums over one tile have only one order."""
    draw = random.Random(5)
    rows = [
        {"instruction": f"Say {n}.", "output": " ".join(draw.choices(WORDS, k=draw.randint(100, 900)))}
        for n in range(100)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(rows))
    return path


WAYS = {
    "graphs": ("train.batch_size=16",),
    "no graphs": ("train.graphs=false",),
    "shared, several packs": ("train.graphs=false", "train.micro_tokens=4096", "prompt.template=alpaca"),
    "recompute": ("train.graphs=false", "train.checkpointing=block"),
    "fp8": ("model.quantize=fp8",),
    "plain": ("train.fast=false",),
    "fp16, graphs": ("model.dtype=fp16", "train.batch_size=16"),
    "fp16, no graphs": ("model.dtype=fp16", "train.graphs=false"),
    "fp16, shared": ("model.dtype=fp16", "train.graphs=false", "train.micro_tokens=4096", "prompt.template=alpaca"),
    "fp16, recompute": ("model.dtype=fp16", "train.graphs=false", "train.checkpointing=block"),
    "fp16, plain": ("model.dtype=fp16", "train.fast=false"),
    "fp16, full": ("model.dtype=fp16", "adapter.method=full", "train.lr=1e-3"),
    "fp16, dora": ("model.dtype=fp16", "adapter.dora=true"),
    "float32": ("model.dtype=fp32",),
    "float32, recompute": ("model.dtype=fp32", "train.checkpointing=block"),
    "full": ("adapter.method=full", "train.lr=1e-3"),
    "full, recompute": ("adapter.method=full", "train.lr=1e-3", "train.checkpointing=block"),
    "head": ("adapter.method=head",),
    "norms": ("adapter.method=norms",),
    "dora": ("adapter.dora=true",),
    "ia3": ("adapter.method=ia3",),
    "houlsby": ("adapter.method=houlsby",),
    "prefix": ("adapter.method=prefix",),
}
PLAIN = ("plain", "fp16, plain", "prefix")


@pytest.fixture(autouse=True)
def any_precision() -> None:
    """Accelerate keeps the precision of a process's first run."""
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_killed_ends_bit_identical(
    wide: Path, long_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:  # fmt: skip
    overrides = (
        f"data.sources=[{{path: {long_rows}}}]", "data.holdout=[]", "prompt.cutoff=1024", "model.dtype=bf16", *WAYS[way]
    )  # fmt: skip
    whole = run_to(make_config(tmp_path, wide, "name=whole", *overrides), "train", tmp_path)
    output = capsys.readouterr().out
    assert "no CUDA graphs" not in output
    assert "may differ in the last digits" not in output
    assert (whole.manifest("adapter") or {})["counts"]["path"] == ("plain" if way in PLAIN else "fast")
    stock = checkpoint.save

    def dies(root: Path, step: int, *args: Any) -> None:
        stock(root, step, *args)
        if step == 3:
            raise Killed

    killed = make_config(tmp_path, wide, "name=killed", *overrides)
    monkeypatch.setattr(checkpoint, "save", dies)
    with pytest.raises(Killed):
        run_to(killed, "train", tmp_path)
    monkeypatch.setattr(checkpoint, "save", stock)
    run_to(killed, "train", tmp_path)
    assert "resuming from step 3" in " ".join(capsys.readouterr().out.split())
    ours, theirs = ({f.name: load_file(f) for f in adapter_of(run)} for run in (Run(tmp_path / "killed"), whole))
    assert ours.keys() == theirs.keys()
    for file, tensors in ours.items():
        assert [name for name, tensor in tensors.items() if not torch.equal(tensor, theirs[file][name])] == []


def adapter_of(run: Run) -> list[Path]:
    return sorted(run.folder("adapter").glob("*.safetensors"))


@pytest.mark.parametrize("leading", [[], [list(range(1000, 1100))]], ids=["apart", "shared"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_is_deterministic(tmp_path: Path, leading: list[list[int]], dtype: torch.dtype) -> None:
    """Gradients of a preamble's keys are sums over chunks of queries, each from another part of the card."""
    torch.manual_seed(0)
    rows = [[*(leading[0] if leading else []), *range(7, 7 + 31 * n)] for n in range(1, 25)]
    pack = Packer(tokens_of(tmp_path, rows, [0] * 24), leading, 1 << 40).pack(range(24))
    layout = Layout.of(pack, torch.device("cuda"), plain=False)
    size = (len(pack.ids), 9, 64)
    leaves = [torch.randn(size, device="cuda", dtype=dtype).requires_grad_() for _ in range(3)]
    grad = torch.randn(size, device="cuda", dtype=dtype)
    results = set()
    for _ in range(10):
        out = attention.attention(*leaves, layout, 0.125)
        made = torch.cat([t.flatten() for t in (out.detach(), *torch.autograd.grad(out, leaves, grad))])
        results.add(made.cpu().view(torch.int16).numpy().tobytes())
    assert len(results) == 1
