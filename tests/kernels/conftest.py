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
    """A module of Triton kernels, in Triton's interpreter without a card."""
    pytest.importorskip("triton", reason="triton is not installed")
    if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without a card Triton needs TRITON_INTERPRET=1 before anything imports it")
    return importlib.import_module(f"pipeline.kernels.{module}")


@pytest.fixture(scope="session")
def triton_rowwise() -> Any:
    return _kernels("triton_rowwise")


@pytest.fixture(scope="session")
def triton_gated_mlp() -> Any:
    return _kernels("triton_gated_mlp")


@pytest.fixture(scope="session")
def triton_fp8() -> Any:
    return _kernels("triton_fp8")


@pytest.fixture(scope="session")
def triton_rotary() -> Any:
    return _kernels("triton_rotary")


@pytest.fixture(scope="session")
def triton_attention() -> Any:
    return _kernels("triton_attention")


@pytest.fixture(scope="session")
def triton_attention_gradients() -> Any:
    return _kernels("triton_attention_gradients")


@pytest.fixture(scope="session")
def triton_lora() -> Any:
    return _kernels("triton_lora")


@pytest.fixture(scope="session")
def triton_dropout() -> Any:
    return _kernels("triton_dropout")
