"""Deterministic algorithms."""

from __future__ import annotations

import torch

from pipeline.kernels.deterministic import deterministic


def test_gradients_of_an_index_do_not_depend_on_threads() -> None:
    """As attention's keys are gathered on CPUs: many places give to one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    x = torch.randn(40, 64, requires_grad=True)
    where, grad = torch.randint(0, 40, (20_000,)), torch.randn(20_000, 64)
    found = set()
    try:
        with deterministic():
            for _ in range(10):
                found.add(torch.autograd.grad(x[where], x, grad)[0].numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
    assert not torch.are_deterministic_algorithms_enabled()
