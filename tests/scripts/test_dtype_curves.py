"""Curves in several types of arithmetic, and training within a limit of memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pipeline.model.load import load_folder
from scripts.benchmarks import bench_limited
from scripts.benchmarks.dtype_curves import distance, table
from scripts.benchmarks.random_base import shape_of, write_base


def test_distances_are_relative_and_skipped_steps_are_counted() -> None:
    exact = [{"step": n, "loss": 2.0, "lr": 1e-3, "tokens": 10, "seconds": 1.0} for n in (1, 2)]
    held = {"step": 2, "val_loss": 1.0}
    half = [
        {"step": 1, "lr": 1e-3, "tokens": 10, "seconds": 0.5, "skipped": ["a"]},
        {"step": 2, "loss": 2.02, "lr": 1e-3, "tokens": 10, "seconds": 0.5},
    ]
    assert distance({1: 3.0, 2: 2.02}, {2: 2.0}) == pytest.approx(0.01)
    lines = table({"fp32": [*exact, held], "fp16": [*half, {**held, "val_loss": 0.995}]}).splitlines()
    assert lines[2] == "| fp32 | 0.00% | 0.00% | 0.00% | 0 | 10 |"
    assert lines[3] == "| fp16 | 1.00% | 1.00% | 0.50% | 1 | 20 |"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe on a tiny GPT-NeoX, as Polyglot is one."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        """
name: tiny
model:
  base: nobody/polyglot
  geometry: {model_type: gpt_neox, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2,
             num_attention_heads: 4, vocab_size: 300, max_position_embeddings: 1024}
data: {sources: [{path: families, rows: 20}], val: 0}
prompt: {template: alpaca-short, cutoff: 512}
adapter: {r: 4, targets: [query_key_value]}
train: {batch_size: 4, lr: 1e-3, checkpointing: block}
eval: {known: none}
"""
    )
    return path


def test_a_random_base_loads(recipe: Path, tmp_path: Path) -> None:
    size = write_base(tmp_path / "base", shape_of(str(recipe)), torch.float16)
    model = load_folder(tmp_path / "base", torch.float32)
    assert size >= 2 * model.num_parameters() > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_some_steps_of_a_recipe(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"Count to {n}.", "output": f"One to {n}."} for n in range(20)]))
    words = [str(recipe), str(rows), "--gib", "0", "--steps", "2", "--folder", str(tmp_path / "limited")]
    monkeypatch.setattr(sys, "argv", ["bench_limited", *words])
    bench_limited.main()
    said = " ".join(capsys.readouterr().out.split())
    assert "2 steps, loss 5." in said
    assert "in fp32, 0 skipped; peak" in said
