"""Peers of `make bench` on a card: packed rows through varlen attention, with and without Liger Kernel."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.benchmarks.bench_cases import Case
from scripts.benchmarks.bench_models import model_of
from scripts.benchmarks.peers import PackedRows, PaddedRows, _by_row, _on_card
from tests.helpers.packs import A, B, random_tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")


def test_varlen_attention_is_causal_within_rows() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(96, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    bounds = torch.tensor([0, 40, 41, 96], dtype=torch.int32, device="cuda")
    torch.testing.assert_close(_on_card(q, k, v, bounds, 55), _by_row(q, k, v, bounds, 55), rtol=2e-2, atol=2e-2)


def test_packed_rows_have_the_losses_of_padded_ones(tmp_path: Path) -> None:
    """135M, three heads for nine queries."""
    tokens = random_tokens(tmp_path, [A, B], count=16)
    rows = [row for row in range(16) if tokens.labelled[row]][:6]
    model = model_of(Case("hf packed", shape="135m")).train()
    with torch.no_grad():
        padded = PaddedRows(model, tokens, autocast=False)
        alone = torch.stack([padded.loss([row]) for row in rows])
        packed = PackedRows(model, tokens)
        apart = torch.stack([packed.loss(rows, n) for n in range(len(rows))])
    torch.testing.assert_close(apart.float(), alone.float(), rtol=0, atol=0.03)


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="Liger Kernel is not installed")
def test_liger_computes_the_same(tmp_path: Path) -> None:
    """In a separate process, since it replaces parts of transformers."""
    script = f"""
import json
from pathlib import Path
from tests.helpers.packs import A, B, random_tokens
from scripts.benchmarks.bench_cases import Case
from scripts.benchmarks.bench_models import model_of
from scripts.benchmarks.peers import PackedRows, PaddedRows
tokens = random_tokens(Path({str(tmp_path)!r}), [A, B], count=16)
rows = [row for row in range(16) if tokens.labelled[row]][:6]
found = {{}}
for how in ("hf packed", "liger packed"):  # the second patches what the first used
    model = model_of(Case(how, shape="135m")).train()
    packed = PackedRows(model, tokens)
    found[how] = [float(packed.loss(rows, n)) for n in range(len(rows))]
    loss = packed.loss(rows)
    loss.backward()
    found[how + " norm"] = float(sum(p.grad.float().square().sum() for p in model.parameters() if p.grad is not None))
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["liger packed"] == pytest.approx(found["hf packed"], abs=0.03)
    assert found["liger packed norm"] == pytest.approx(found["hf packed norm"], rel=0.1)
