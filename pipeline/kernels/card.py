"""What the kernels may use on a card, by its compute capability.

    capability      cards               Triton      products in Triton's kernels       shared memory of a block
    below 7.0       Pascal and older    no          the plain versions are used
    7.0, 7.5        V100; T4, RTX 20    compiles    multiply-adds in float32           96, 64 KiB
    8.0             A100                yes         matrix units                       163 KiB
    8.6, 8.9        RTX 30; RTX 40      yes         matrix units                       99 KiB
    9.0             H100, H200          yes         matrix units                       227 KiB
    12.0            RTX 50              yes         matrix units                       99 KiB

Triton names 8.0 as the oldest card that it supports, and has had no matrix units of older ones since version 3.3
(triton-lang/triton#5066). What it makes for those is correct but slow in products and needs twice the shared memory,
since operands are widened to float32 first: attention takes smaller tiles there, low-rank updates are left to cuBLAS,
which uses the matrix units, and so are the products with the base's weights on every card.
`tests/kernels/test_cards.py` compiles all kernels for these cards.
"""

from __future__ import annotations

import functools
import importlib.util

import torch

TRITON = (7, 0)  # the oldest that Triton compiles for
MATRIX_UNITS = (8, 0)  # the oldest whose matrix units Triton uses
LARGE = {(8, 0), (8, 7), (9, 0), (10, 0), (10, 3)}  # with 163 KiB of shared memory and more


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a card, such as (9, 0)."""
    return torch.cuda.get_device_capability(device)


@functools.cache
def _is_triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on a card."""
    return capability(device) >= TRITON and _is_triton_installed()


def has_matrix_units(device: torch.device) -> bool:
    """Whether products inside Triton's kernels use a card's matrix units."""
    return capability(device) >= MATRIX_UNITS


def has_room(device: torch.device) -> bool:
    """Whether a block may use 128 KiB of shared memory, as attention's tiles for long rows do at heads of 128."""
    return capability(device) in LARGE


def runs_kernels(x: torch.Tensor) -> bool:
    """Whether Triton's kernels compute with this tensor: it is on a card that has them."""
    return x.is_cuda and has_triton(x.device)
