"""Two ranks that exchange gradients of a tiny model over gloo, in every situation of a step.

Each scenario gives, for each rank, the gradients after the exchange and what it should be: this rank's own gradients,
concatenated in the order of the model, summed by one message.

`branches` is a run with AdamW whose model has a layer that only some inputs reach.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from pipeline.model.sharded import FullyShard
from pipeline.training.gradient_exchange import GradientExchange

WORLD, LAYERS, SIZE = 2, 4, 8
STEPS = 3
FSDP_SENDS_ZEROS = hasattr(FSDPModule, "set_reduce_scatter_unused_params")  # torch 2.13 has it


# Inputs of the two ranks in each step, as words; r: reaches the branch, -: does not.
REACHED = (("rr", "rr"), ("--", "r-"), ("--", "--"), ("-r", "--"), ("--", ""), ("--", "--"), ("r-", ""), ("-r", "r-"))


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
    record: dict[str, Any] = {"got": [], "wanted": [], "early": [], "kept": [], "ungiven": []}
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
        exchange.find_ungiven()
        exchange.wait()
        record["ungiven"].append([name for name, p in net.named_parameters() if p.grad is None])
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        record["got"].append(torch.cat([part.reshape(-1) for part in parts]))
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


class Branched(Net):
    """With a layer that an input passes only if it is asked to, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = torch.nn.Linear(SIZE, SIZE)
        del self.unused
        self.double()

    def forward(self, x: torch.Tensor, reaches: bool = False) -> torch.Tensor:
        return super().forward(x + self.branch(x) if reaches else x)


def branches(rank: int, world: int, overlapped: bool = True) -> dict[str, Any]:
    """Trains on the inputs of `REACHED`, which one rank has all of.

    Returns:
        weights and AdamW's states by name, messages of this rank in each step.
    """
    net = Branched()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    exchange = GradientExchange(net.parameters(), world, overlapped, size=60)
    messages = []
    for step, words in enumerate(REACHED):
        inputs = [
            (x.double(), way == "r")
            for owner, word in enumerate(words)
            for x, way in zip(batches(owner, step, len(word)), word, strict=True)
            if world == 1 or owner == rank
        ]
        with counted_messages() as count:
            exchange.start_step()
            for n, (x, reaches) in enumerate(inputs):
                loss = net(x, reaches).square().sum()
                exchange.start_pass(is_last=n + 1 == len(inputs))
                loss.backward()
            exchange.send_rest()
            flag = torch.tensor(float(exchange.is_incomplete))
            if world > 1:
                torch.distributed.all_reduce(flag)
            if flag:
                exchange.find_ungiven()
            exchange.wait()
        messages.append(count[0])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    exchange.close()
    named = dict(net.named_parameters())
    return {
        "weights": {name: weight.detach() for name, weight in named.items()},
        "states": {name: optimizer.state.get(weight, {}) for name, weight in named.items()},
        "messages": messages, "buckets": len(exchange.buckets),
    }  # fmt: skip


def sharded_branch(rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Gradients of weights that FSDP2 shards, and those of one rank, by name; only rank 1 reaches the branch."""
    alone, net = Branched().float(), Branched().float()
    inputs = [batches(owner, 0, 1)[0] for owner in range(WORLD)]
    for owner, x in enumerate(inputs):
        alone(x, owner == 1).square().sum().backward()
    FullyShard(torch.float32).add(net)
    net(inputs[rank], rank == 1).square().sum().backward()
    wanted = {name: weight.grad for name, weight in alone.named_parameters()}
    return {name: (weight.grad.full_tensor(), wanted[name]) for name, weight in net.named_parameters()}  # type: ignore


@contextlib.contextmanager
def counted_messages() -> Iterator[list[int]]:
    """Yields a list with the number of sums over ranks that this process started in the block."""
    stock, count = torch.distributed.all_reduce, [0]

    def counted(*args: Any, **named: Any) -> Any:
        count[0] += 1
        return stock(*args, **named)

    torch.distributed.all_reduce = counted
    try:
        yield count
    finally:
        torch.distributed.all_reduce = stock


SCENARIOS = ("plain", "single", "no rows", "other packs", "memory", "repeats")
WAYS = ("overlapped", "single")


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    results = {name: scenario(rank, name) for name in SCENARIOS}
    results |= {f"branches {way}": branches(rank, WORLD, way == "overlapped") for way in WAYS}
    results["sharded"] = sharded_branch(rank) if FSDP_SENDS_ZEROS else {}
    torch.save(results, Path(folder) / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
