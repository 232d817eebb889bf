"""Every Triton kernel is compiled for cards that are not here, and fits into their shared memory.

    pip download triton==3.6.0 --no-deps -d FOLDER; unzip FOLDER/*.whl -d FOLDER
    PYTHONPATH=FOLDER .venv/bin/python -m pytest tests/kernels/test_cards.py

The wrappers run as in training, on tensors of the CPU; where they would launch a kernel it is compiled down to machine
code by the ptxas of Triton's own package instead. Each card has a separate process, since Triton keeps its driver.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch

from pipeline.kernels import card
from pipeline.kernels.layout import Layout
from pipeline.kernels.types import DropoutGroup, DropoutSeed
from tests.helpers.checkout import ROOT

# KiB of shared memory that a block may use, by compute capability (CUDA C++ Programming Guide, table of technical
# specifications).
SHARED_KIB = {70: 96, 75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 120: 99}
KERNELS = {
    "_forward_kernel", "_query_gradient_kernel", "_own_key_gradient_kernel", "_preamble_gradient_kernel",
    "_reduction_kernel", "_project_kernel", "_input_gradient_kernel", "_weight_gradient_kernel", "_rotate_kernel",
    "_norm_kernel", "_norm_backward_kernel", "_gated_mlp_kernel", "_gated_mlp_backward_kernel", "_loss_kernel",
    "_copy_kernel",
}  # fmt: skip
LOW_RANK = "_add_low_rank_kernel"  # with matrix units only
QUANTIZE, FP8_CARDS = "_quantize_kernel", 90  # the first on which fp8 is offered


@dataclass(frozen=True)
class Compiled:
    """shared: bytes of shared memory. has_bf16: whether an instruction or a type of bf16 is in its code."""

    name: str
    shared: int
    has_bf16: bool
    has_matrix_units: bool


@pytest.mark.parametrize("target", SHARED_KIB)
def test_kernels_compile_for_a_card(target: int) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    dtypes = ["float16"] if target < 80 else ["float16", "bfloat16"]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    for dtype in dtypes:
        command = [sys.executable, "-m", "tests.kernels.test_cards", str(target), dtype]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        compiled = [Compiled(**line) for line in json.loads(done.stdout.splitlines()[-1])]
        wanted = KERNELS | ({LOW_RANK} if target >= 80 else set()) | ({QUANTIZE} if target >= FP8_CARDS else set())
        assert {one.name for one in compiled} == wanted
        limit = SHARED_KIB[target] * 1024
        assert [one for one in compiled if one.shared > limit] == []
        assert any(one.has_matrix_units for one in compiled) == (target >= 80)
        if dtype == "float16":
            assert [one for one in compiled if one.has_bf16] == []


def compile_all(target: int, dtype: torch.dtype) -> list[Compiled]:
    """Calls every wrapper as training does with a 7B model, heads of 64 to 256 and ranks of 8 and more."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        """A card of this kind, without the card."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", target, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int = 0) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    run, compiled = JITFunction.run, []

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        code = kernel.asm["ptx"]
        matrix_units = "mma.sync" in code or "wgmma" in code
        compiled.append(Compiled(self.__name__, kernel.metadata.shared, "bf16" in code, matrix_units))
        return kernel

    driver.set_active(Driver())
    card.capability = lambda _: (target // 10, target % 10)  # type: ignore[assignment]
    JITFunction.run = compile_only
    _attention(dtype)
    _adapters(dtype)
    for fp8 in (False, True)[: 1 + (target >= FP8_CARDS)]:
        _rows(dtype, fp8)
    return compiled


def _attention(dtype: torch.dtype) -> None:
    from pipeline.kernels import triton_attention, triton_attention_gradients

    tiles, partial, reductions = (torch.zeros(n, m, dtype=torch.int32) for n, m in ((4, 5), (3, 5), (7, 3)))
    short = Layout(tiles, partial, reductions, partial_sums=70)
    for size, layout in itertools.product((64, 128, 256), (short, replace(short, long_tiles=tiles))):
        q, k = torch.zeros(100, 8, size, dtype=dtype), torch.zeros(100, 2, size, dtype=dtype)
        out, lse = triton_attention.attend(q, k, k, layout, 0.1)
        triton_attention_gradients.attend_backward(q, q, k, k, out, lse, layout, 0.1, (q.clone(), k.clone(), k.clone()))


def _adapters(dtype: torch.dtype) -> None:
    from pipeline.kernels import dropout, lora, triton_dropout, triton_lora

    x, seed = torch.zeros(600, 4096, dtype=dtype), DropoutSeed(torch.zeros(1, dtype=torch.int64))
    for rank, count in ((8, 3), (dropout.MAX_RANKS, 1)):
        group = DropoutGroup(slice(0, rank * count), count, 0.05, 0)
        a, t = torch.zeros(rank * count, 4096, dtype=dtype), torch.zeros(600, rank * count, dtype=dtype)
        triton_dropout.project(t, x, a, group, seed)
        triton_dropout.add_input_gradient(x, t, a, group, seed)
        triton_dropout.weight_gradient(t, x, group, seed)
    if card.has_matrix_units(x.device):
        for rank in (8, lora.MAX_RANKS):
            t, b = torch.zeros(600, rank, dtype=dtype), torch.zeros(rank, 4096, dtype=dtype)
            triton_lora.add_low_rank(x, t, b)
            triton_lora.add_low_rank(x, t, b, x)
    table, ones = torch.zeros(2, 5, dtype=torch.int64), torch.ones(2)
    triton_lora.copy_scaled(table, ones, ones, x, 100)


def _rows(dtype: torch.dtype, fp8: bool) -> None:
    from pipeline.kernels import triton_fp8, triton_gated_mlp, triton_rotary, triton_rowwise

    cos = torch.zeros(10, 128, dtype=dtype)
    triton_rotary.rotate(torch.zeros(10, 40, 128, dtype=dtype), cos, cos, inverse=False)
    x, gate_up = torch.zeros(10, 4096, dtype=dtype), torch.zeros(10, 2 * 11008, dtype=dtype)
    _, r, _ = triton_rowwise.rms_norm(x, torch.ones(4096), 1e-5, 16, fp8)
    triton_rowwise.rms_norm_backward(x, x, torch.ones(4096), r, x, fp8)
    for activation in (0, 1):
        triton_gated_mlp.gated_mlp(gate_up, activation, fp8)
        triton_gated_mlp.gated_mlp_backward(gate_up[:, :11008].contiguous(), gate_up, activation, fp8)
    if fp8:
        triton_fp8.quantize_rows(x)
    weights, targets = torch.ones(10), torch.zeros(10, dtype=torch.int64)
    triton_rowwise.loss_and_gradient(torch.zeros(10, 32000, dtype=dtype), targets, weights, weights.sum())


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([asdict(one) for one in compile_all(int(sys.argv[1]), getattr(torch, sys.argv[2]))]))
