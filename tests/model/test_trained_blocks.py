"""Models whose every weight is trained, with our blocks: the loss and gradients of transformers' own layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from pipeline.kernels.adapter_copies import AdapterCopies
from pipeline.model.packed.kernel_layers import KernelLayers
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from tests.helpers.packed_models import (
    LONGEST,
    adapted,
    assert_same,
    packed_pass,
    plain_pass,
    recomputed_pass,
    stock,
    take_gradients,
)
from tests.helpers.packs import A, B, random_tokens
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import assert_same as runs_are_equal
from tests.helpers.training_runs import killed_after

KINDS = ("llama", "llama-biases", "llama-head-size", "mistral", "qwen2")


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield random_tokens(tmp_path, [A, B], 14)
    torch.set_num_threads(threads)


def in_float32(model: Any) -> PackedModel:
    """With our blocks in float32, which a run leaves to the model: there both must agree but for the order of sums."""
    fast = PackedModel(model, LONGEST, dtype=torch.bfloat16)
    assert fast.trains_blocks
    assert not fast.autocast
    fast.dtype = torch.float32
    layers = KernelLayers(fast.causal_lm, fast.decoder, fast.dtype, None, fp8=False, trains_blocks=True)
    layers.add()
    fast.blocks, fast.linears, fast.packed_forwards = layers.blocks, layers.linears, layers.forwards
    fast.copies = AdapterCopies([copy for linear in fast.linears for copy in linear.copies()])
    fast.refresh()
    return fast


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_trained_blocks_are_plain(kind: str, tied: bool, tokens: Tokens) -> None:
    """All weights: norms, biases, embedding and head too. With preambles; everything kept, and recomputed."""
    model = stock(kind, tie_word_embeddings=tied).requires_grad_(True)
    wanted = plain_pass(model, tokens)
    assert wanted[1].keys() == dict(model.named_parameters()).keys()
    fast = in_float32(model)
    assert_same(packed_pass(fast, model, tokens), wanted)
    assert_same(recomputed_pass(fast, model, tokens), wanted)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_copies_follow_the_weights(kind: str, tokens: Tokens) -> None:
    """In bf16, after a step: as near to float32 as autocast is."""
    model = stock(kind).requires_grad_(True)
    fast = PackedModel(model, LONGEST, dtype=torch.bfloat16)
    assert len(fast.blocks) == 2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    stale = packed_pass(fast, model, tokens)[0]
    fast.refresh()
    wanted, ours = plain_pass(model, tokens), packed_pass(fast, model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = plain_pass(model, tokens)
    assert ours[0] == pytest.approx(wanted[0], rel=1e-2)
    assert stale != pytest.approx(wanted[0], rel=1e-2)
    assert all(gradient.dtype == torch.float32 for gradient in ours[1].values())
    for name, gradient in wanted[1].items():
        error, allowed = (float((found[1][name] - gradient).norm() / gradient.norm()) for found in (ours, theirs))
        assert error <= max(2 * allowed, 0.02), name


def test_gradients_of_all_weights_flow_to_other_leaves(tokens: Tokens) -> None:
    """Of the tied head and the embedding to one leaf; the weights get none."""
    model = stock(tie_word_embeddings=True).requires_grad_(True)
    fast = PackedModel(model, LONGEST, dtype=torch.bfloat16)
    weights = list(model.parameters())
    leaves = [weight.detach().requires_grad_() for weight in weights]
    batch = fast.prepare(Packer(tokens, [A, B], 1 << 40).pack(range(14)))
    with fast.gradients_to(weights, leaves):
        loss = fast.loss_sum(batch)
    found = torch.autograd.grad(loss, leaves)
    assert all(weight.grad is None for weight in weights)
    assert [id(p) for p in model.parameters()] == [id(weight) for weight in weights]
    fast.loss_sum(batch).backward()
    for (name, weight), gradient in zip(model.named_parameters(), found, strict=True):
        assert torch.equal(weight.grad, gradient), name


def test_where_the_model_computes_its_own_blocks() -> None:
    """Gemma's norms, a frozen part, float32, adapters."""
    trained, low = stock().requires_grad_(True), torch.bfloat16
    assert not PackedModel(trained, LONGEST, dtype=torch.float32).trains_blocks
    assert not PackedModel(stock("gemma").requires_grad_(True), LONGEST, dtype=low).trains_blocks
    trained.get_decoder().layers[1].input_layernorm.weight.requires_grad_(False)
    assert not PackedModel(trained, LONGEST, dtype=low).trains_blocks
    assert not PackedModel(adapted(), LONGEST, dtype=low).trains_blocks
    assert not take_gradients(trained)


def test_a_run_passes_its_check_and_resumes_bit_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_base(tmp_path / "base", hidden_size=32, intermediate_size=64)
    words = ("adapter.method=full", "model.dtype=bf16", "train.max_steps=4", "train.save_every=2", "train.lr=1e-3")
    made: list[bool] = []
    stock_check = PackedModel.prepare

    def prepare(fast: PackedModel, *args: Any) -> Any:
        made.append(fast.trains_blocks)
        return stock_check(fast, *args)

    monkeypatch.setattr(PackedModel, "prepare", prepare)

    def trained(name: str) -> Run:
        AcceleratorState._reset_state(True)
        return run_to(make_config(tmp_path, base, f"name={name}", *words), "train", tmp_path)

    whole = trained("whole")
    assert "check passed" in capsys.readouterr().out
    assert made
    assert all(made)
    assert (whole.manifest("adapter") or {})["counts"]["path"] == "fast"
    with killed_after(monkeypatch, 2):
        trained("killed")
    runs_are_equal(whole, trained("killed"))
    AcceleratorState._reset_state(True)
