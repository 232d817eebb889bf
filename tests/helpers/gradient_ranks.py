"""Two ranks that exchange gradients of a tiny model over gloo, in every situation of a step.

Each scenario gives, for each rank, the gradients after the exchange and what it should be: this rank's own gradients,
concatenated in the order of the model, summed by one message.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from pipeline.training.gradient_exchange import GradientExchange

WORLD, LAYERS, SIZE = 2, 4, 8
STEPS = 3


class Net(torch.nn.Module):
    """Layers in a row; `unused` gets no gradient. fails_at: memory runs out in the backward pass of this layer."""

    def __init__(self, repeats: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(SIZE, SIZE) for _ in range(LAYERS))
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.repeats, self.fails_at = repeats, -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            if self.repeats:  # twice, each time in a separate backward pass inside the outer one
                for _ in range(2):
                    x = torch.tanh(checkpoint(layer, x, use_reentrant=True))
            else:
                x = torch.tanh(layer(x))
            if number == self.fails_at:
                x.register_hook(_no_memory)
        return x


def _no_memory(grad: torch.Tensor) -> torch.Tensor:
    raise torch.cuda.OutOfMemoryError("out of memory")


def batches(rank: int, step: int, count: int) -> list[torch.Tensor]:
    torch.manual_seed(1000 * rank + 10 * step + count)
    return [torch.randn(5, SIZE, requires_grad=True) for _ in range(count)]


def expected(net: Net, inputs: list[torch.Tensor]) -> torch.Tensor:
    """All gradients in one message, with zeros where there are none."""
    for x in inputs:
        net(x).square().sum().backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    together = torch.cat([part.reshape(-1) for part in parts])
    net.zero_grad(set_to_none=True)
    torch.distributed.all_reduce(together)
    return together


def scenario(rank: int, name: str) -> dict[str, Any]:
    net, alone = Net(name == "repeats"), Net(name == "repeats")
    single = name == "single"
    exchange = GradientExchange(net.parameters(), WORLD, overlapped=not single, size=60)
    record: dict[str, Any] = {"got": [], "wanted": [], "early": [], "kept": []}
    for step in range(STEPS):
        counts = (2, 0) if name == "no rows" and step else (2, 1) if name == "other packs" else (2, 2)
        inputs = batches(rank, step, counts[rank])
        record["wanted"].append(expected(alone, inputs))
        exchange.start_step()
        if name == "memory" and step == 1 and rank == 0:
            try:
                _passes(net, exchange, inputs, fails_at=0)
            except torch.cuda.OutOfMemoryError:
                record["kept"].append(exchange.sent)
                net.zero_grad(set_to_none=True)
            exchange.start_step()
        _passes(net, exchange, inputs)
        record["early"].append(exchange.sent_early)
        exchange.send_rest()
        flag = torch.tensor(float(rank))  # another exchange between, as the loop has
        torch.distributed.all_reduce(flag)
        exchange.wait()
        record["got"].append(torch.cat([p.grad.reshape(-1).clone() for p in net.parameters()]))
        net.zero_grad(set_to_none=True)
        (net(inputs[0]) if inputs else net(torch.ones(1, SIZE))).sum().backward()  # a check between steps
        net.zero_grad(set_to_none=True)
    record["buckets"] = len(exchange.buckets)
    exchange.close()
    record["hooks"] = sum(len(p._post_accumulate_grad_hooks or ()) for p in net.parameters())
    return record


def _passes(net: Net, exchange: GradientExchange, inputs: list[torch.Tensor], fails_at: int = -1) -> None:
    """fails_at: see `Net`, in the last pass only."""
    for n, x in enumerate(inputs):
        net.fails_at = fails_at if n + 1 == len(inputs) else -1
        loss = net(x).square().sum()
        exchange.start_pass(is_last=n + 1 == len(inputs))
        loss.backward()


SCENARIOS = ("plain", "single", "no rows", "other packs", "memory", "repeats")


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    torch.save({name: scenario(rank, name) for name in SCENARIOS}, Path(folder) / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
