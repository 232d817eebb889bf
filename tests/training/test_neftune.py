"""Noise on the embeddings of training rows (NEFTune)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook

from pipeline import stages
from pipeline.config.schema import Config, Train
from pipeline.kernels.embedding_noise import EmbeddingNoise
from pipeline.model.packed import cuda_graph
from pipeline.prompt.token_noise import RowNoise
from pipeline.run.folder import Run
from pipeline.training.micro_batches import PackedMicroBatches
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import (
    QUICK,
    UNDROPPED,
    assert_close,
    assert_same,
    both_paths,
    branch,
    killed_after,
    losses_of,
)

NOISE = RowNoise(alpha=5.0, seed=7)


def values(noise: RowNoise, rows: list[int], lengths: list[int], step: int, hidden: int = 64) -> torch.Tensor:
    made = noise.of_pack(rows, lengths, step, sum(lengths) + 3)
    return EmbeddingNoise(torch.from_numpy(made.keys), torch.from_numpy(made.scales)).values(hidden, torch.float32)


def test_scale_is_that_of_each_row_by_itself() -> None:
    lengths, hidden = [400, 25, 100], 64
    noise, start = values(NOISE, [3, 0, 9], lengths, 2), 0
    for length in lengths:
        most = 5.0 / (length * hidden) ** 0.5
        own = noise[start : start + length]
        assert 0.98 * most < float(own.abs().max()) <= most
        assert float(own.std()) == pytest.approx(most / 3**0.5, rel=0.05)
        assert abs(float(own.mean())) < 4 * most / (3 * length * hidden) ** 0.5  # four standard errors
        start += length
    assert not noise[start:].any()  # padding


def test_it_is_distributed_as_that_of_transformers() -> None:
    """A row alone, in quantiles of 64,000 numbers."""
    module = SimpleNamespace(training=True, neftune_noise_alpha=5.0)
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(module, None, torch.zeros(1, 1000, 64)).flatten()
    ours, at = values(NOISE, [4], [1000], 0)[:1000].flatten(), torch.linspace(0, 1, 21)
    most = 5.0 / 64000**0.5
    assert torch.allclose(torch.quantile(ours, at), torch.quantile(theirs, at), atol=0.03 * most)


def test_every_row_step_and_place_has_its_own_and_the_size_of_packs_changes_none() -> None:
    one = values(NOISE, [4, 5], [40, 40], 0)
    assert torch.equal(one[:40], values(NOISE, [4], [40], 0)[:40])
    assert torch.equal(one[40:80], values(NOISE, [8, 5], [7, 40], 0)[7:47])
    others = [one[:40], one[40:80], values(NOISE, [4], [40], 1)[:40], values(replace(NOISE, seed=8), [4], [40], 0)[:40]]
    numbers = torch.stack([*others, one[:40].flip(0), one[:40].flip(1)]).flatten(1)
    assert (torch.corrcoef(numbers) - torch.eye(6)).abs().max() < 0.1  # two of 2,560 numbers: 0.02 by chance
    padded = NOISE.of_padded([4, 8], [40, 7], 0)
    assert padded.keys.shape == (2, 40)
    assert (padded.keys[0] == NOISE.of_pack([4], [40], 0, 40).keys).all()
    assert not padded.scales[1, 7:].any()


def test_slices_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = values(NOISE, [1], [50], 0)
    monkeypatch.setattr("pipeline.kernels.embedding_noise.NUMBERS", 300)
    assert torch.equal(values(NOISE, [1], [50], 0), whole)


def test_packs_have_the_noise_of_padded_rows(finished: tuple[Config, Run]) -> None:
    packed, padded, _ = both_paths(finished)
    padded.model.eval()
    results = []
    for path in (PackedMicroBatches(packed.fast, packed.tokens, [[1]], 250, NOISE), padded):
        path.noise, losses = NOISE, []
        for step in (None, 0, 1):
            losses.append(sum(float(path.loss(part).detach()) for part in path.split(range(8), step)))
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert len({round(loss, 3) for loss in results[0]}) == 3


def test_a_graph_reads_the_noise_from_its_inputs(finished: tuple[Config, Run]) -> None:
    packed, _, _ = both_paths(finished)
    packed.noise = NOISE
    (batch,) = packed.split([0], 3)
    assert batch.noise is not None
    inputs = cuda_graph.graph_inputs(batch, None)
    assert any(tensor is batch.noise.keys for tensor in inputs)
    assert any(tensor is batch.noise.scales for tensor in inputs)


def test_both_paths_learn_the_same_with_it(finished: tuple[Config, Run], tmp_path: Path) -> None:
    words = (*UNDROPPED, "train.neftune=5")
    packs = branch(finished, tmp_path / "packs", *words)
    assert packs.manifest("adapter")["counts"]["path"] == "fast"
    plain = branch(finished, tmp_path / "plain", *words, "train.fast=false")
    assert_close(packs, plain)


def test_it_changes_training_and_not_the_first_evaluation(finished: tuple[Config, Run], tmp_path: Path) -> None:
    with_noise = branch(finished, tmp_path, "train.neftune=5")
    assert losses_of(with_noise)[0] != losses_of(finished[1])[0]
    first = [(run.root / "metrics.jsonl").read_text().splitlines()[0] for run in (with_noise, finished[1])]
    assert first[0] == first[1]
    assert '"val_loss"' in first[0]


def test_without_it_the_key_is_that_of_earlier_runs(config: Config, tmp_path: Path) -> None:
    run = Run(tmp_path / "none")
    assert "neftune" not in stages.BY_NAME["train"].key(config, run)["train"]
    noisy = config.model_copy(update={"train": config.train.model_copy(update={"neftune": 5.0})})
    assert stages.BY_NAME["train"].key(noisy, run)["train"]["neftune"] == 5.0
    assert RowNoise.of(Train()) is None


def test_a_killed_run_ends_bit_identical(
    base: Path, finished: tuple[Config, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*QUICK, "train.neftune=5")
    whole = branch(finished, tmp_path / "whole", *words)
    config = make_config(tmp_path, base, *words)
    with killed_after(monkeypatch, 2):
        run_to(config, "train", tmp_path)
    assert_same(run_to(config, "train", tmp_path), whole)
