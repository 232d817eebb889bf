"""Gradients sent during the last pass are to the bit those that one message after it sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.multiprocessing import get_context

from pipeline.training.gradient_exchange import GradientExchange
from tests.helpers.gradient_ranks import (
    FSDP_SENDS_ZEROS,
    LAYERS,
    REACHED,
    SCENARIOS,
    STEPS,
    WAYS,
    WORLD,
    Net,
    branches,
    rank_main,
)

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")

Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What each rank got in each scenario."""
    folder = tmp_path_factory.mktemp("gradients")
    context = get_context("spawn")
    processes = [context.Process(target=rank_main, args=(rank, str(folder))) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * WORLD
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_sums_are_those_of_one_message(ranks: Ranks, name: str) -> None:
    for rank in ranks:
        for got, wanted in zip(rank[name]["got"], rank[name]["wanted"], strict=True):
            assert torch.equal(got, wanted)
    for a, b in zip(ranks[0][name]["got"], ranks[1][name]["got"], strict=True):
        assert torch.equal(a, b)
        assert a.abs().sum() > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_only_the_weight_that_is_unused_has_no_gradient(ranks: Ranks, name: str) -> None:
    """Also where one rank has no rows, and for buckets that were sent before memory ran out."""
    assert all(rank[name]["ungiven"] == [["unused"]] * STEPS for rank in ranks)


def test_most_buckets_leave_while_the_pass_computes(ranks: Ranks) -> None:
    """From the second pass on, one for each layer; that of the weight without a gradient goes out afterwards."""
    for rank in ranks:
        assert rank["plain"]["buckets"] == LAYERS + 1
        assert rank["plain"]["early"] == [rank["plain"]["buckets"] - 1] * STEPS


def test_one_message_if_not_overlapped(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["single"]["buckets"] == 1
        assert rank["single"]["early"] == [0] * STEPS


def test_a_rank_without_rows_sends_zeros_afterwards(ranks: Ranks) -> None:
    assert ranks[0]["no rows"]["early"][1] > 0
    assert ranks[1]["no rows"]["early"][1:] == [0, 0]


def test_memory_runs_out_after_buckets_were_sent(ranks: Ranks) -> None:
    """They are not sent again; the step's sums are right (compared above) and the other rank notices nothing."""
    (kept,) = ranks[0]["memory"]["kept"]
    assert 0 < kept < ranks[0]["memory"]["buckets"]
    assert ranks[1]["memory"]["kept"] == []


def test_gradients_that_come_twice_in_a_pass_are_sent_afterwards(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["repeats"]["early"] == [0] * STEPS


@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_no_rank_has_a_gradient_for_is_skipped_as_on_one_rank(ranks: Ranks, way: str) -> None:
    """No weight decay, no change of the moments, no step counted; zeros in its place would have all three."""
    alone = branches(0, 1)
    assert int(alone["states"]["branch.weight"]["step"]) == sum("r" in "".join(words) for words in REACHED) == 5
    assert int(alone["states"]["layers.0.weight"]["step"]) == len(REACHED)
    for rank in ranks:
        result = rank[f"branches {way}"]
        for name, weight in alone["weights"].items():
            assert float((result["weights"][name] - weight).abs().max()) < 1e-6, name
            own, wanted = result["states"][name], alone["states"][name]
            assert own.keys() == wanted.keys()
            for key in wanted:
                torch.testing.assert_close(own[key], wanted[key], rtol=1e-6, atol=1e-12, msg=f"{name} {key}")


def test_ways_to_send_give_the_same_bits_where_gradients_are_missing(ranks: Ranks) -> None:
    for rank in ranks:
        first, second = (rank[f"branches {way}"]["weights"] for way in WAYS)
        assert all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize("way", WAYS)
def test_one_more_message_only_where_a_rank_lacks_a_gradient(ranks: Ranks, way: str) -> None:
    """Besides the buckets and the flag, on all ranks alike."""
    for rank in ranks:
        result = rank[f"branches {way}"]
        lacks = [int(not all("r" in word for word in words)) for words in REACHED]
        assert result["messages"] == [result["buckets"] + 1 + more for more in lacks]
    assert 0 in lacks
    assert 1 in lacks


@pytest.mark.skipif(not FSDP_SENDS_ZEROS, reason="this torch has no zeros for weights without a gradient")
def test_sharded_weights_that_one_rank_reaches_have_its_gradient(ranks: Ranks) -> None:
    """Else the ranks' messages differ in size, and the run ends."""
    for rank in ranks:
        assert "branch.weight" in rank["sharded"]
        for name, (got, wanted) in rank["sharded"].items():
            torch.testing.assert_close(got, wanted, msg=name)


def test_a_pass_whose_loss_counts_nothing_gives_no_gradients() -> None:
    net = Net()
    del net.unused
    exchange = GradientExchange(net.parameters(), 2, overlapped=False)
    exchange.start_step()
    for is_filler in (True, False):
        assert exchange.is_incomplete
        exchange.start_pass(is_last=False, is_filler=is_filler)
        (net(torch.ones(1, 8)).sum() * (0 if is_filler else 1)).backward()
    assert not exchange.is_incomplete


def test_nothing_is_left_on_the_weights(ranks: Ranks) -> None:
    assert all(rank[name]["hooks"] == 0 for rank in ranks for name in SCENARIOS)


def test_one_rank_keeps_its_gradients_as_they_are() -> None:
    net = Net()
    exchange = GradientExchange(net.parameters(), 1)
    exchange.start_step()
    exchange.start_pass(is_last=True)
    net(torch.ones(1, 8)).sum().backward()
    exchange.send_rest()
    exchange.wait()
    assert not exchange.buckets
    assert net.unused.grad is None
    assert net.layers[0].weight.grad is not None
