"""Fixtures of the kernels' tests: a fixed seed, and the Triton modules."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import pytest
import torch

CUDA = torch.cuda.is_available()
if not CUDA and "triton" not in sys.modules:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported, which torch does at times


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _kernels(module: str) -> Any:
    """A fixture: a module of Triton kernels, in Triton's interpreter without a card."""

    @pytest.fixture(scope="session", name=module)
    def kernels() -> Any:
        pytest.importorskip("triton", reason="triton is not installed")
        if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("without a card Triton needs TRITON_INTERPRET=1 before anything imports it")
        return importlib.import_module(f"pipeline.kernels.{module}")

    return kernels


triton_rowwise = _kernels("triton_rowwise")
triton_gated_mlp = _kernels("triton_gated_mlp")
triton_fp8 = _kernels("triton_fp8")
triton_rotary = _kernels("triton_rotary")
triton_attention = _kernels("triton_attention")
triton_attention_gradients = _kernels("triton_attention_gradients")
triton_lora = _kernels("triton_lora")
triton_dropout = _kernels("triton_dropout")
