"""On a GPU: CUDA graphs of passes in fp8, 4 bits and of models that are trained whole, and runs that keep them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from pipeline.config.schema import Adapter
from pipeline.kernels.deterministic import deterministic
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Pack, Packer
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.training import checkpoint, launch_time
from pipeline.training.launch_time import LaunchTime
from tests.helpers.packed_models import LONGEST, adapted, plain_pass, stock, take_gradients
from tests.helpers.packs import A, B, random_tokens
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.training_runs import assert_same, killed_after

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
KINDS = ("full", "full, own layers", "lora fp8", "lora bf16", "lora, own layers")


@pytest.fixture(params=[[], [A, B]], ids=["apart", "shared"])
def packs(tmp_path: Path, request: pytest.FixtureRequest) -> list[Pack]:
    tokens = random_tokens(tmp_path, [A, B], 120)
    return list(Packer(tokens, request.param, 150).packs(range(len(tokens))))


@pytest.fixture(autouse=True)
def any_precision() -> Iterator[None]:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def model_of(kind: str) -> tuple[Any, PackedModel]:
    shape = {**WIDE, "tie_word_embeddings": True} if kind == "full" else WIDE
    layers = "qwen3" if "own layers" in kind else "llama"
    if kind.startswith("full"):
        model = stock(layers, **shape).requires_grad_(True).cuda()
        return model, PackedModel(model, LONGEST, dtype=torch.bfloat16)
    model = adapted(layers, adapter=Adapter(r=4), **shape)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    model.cuda()
    return model, PackedModel(model, LONGEST, fp8=kind.endswith("fp8"))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_what_their_passes_give(packs: list[Pack], kind: str, recompute: bool) -> None:
    """To the last bit, with the largest shape recorded first, and with other weights later."""
    model, fast = model_of(kind)
    fast.recompute = recompute
    if recompute and not fast.blocks:
        assert not fast.can_be_recorded
        return
    assert fast.can_be_recorded
    assert bool(fast.blocks) != ("own layers" in kind)
    weights = [p for p in model.parameters() if p.requires_grad]
    graphs = CudaGraphs(fast, weights, packs, largest=400)
    ready = [graphs.prepare(pack) for pack in packs]
    with deterministic(not fast.uses_kernels, strict=True):
        for _ in range(2):
            for one in ready:
                ours = graphs.loss_sum(one)
                (ours / 4).backward()
                mine = take_gradients(model)
                theirs = fast.loss_sum(one)
                (theirs / 4).backward()
                wanted = take_gradients(model)
                assert torch.equal(ours, theirs)
                assert mine.keys() == wanted.keys()
                assert [name for name in mine if not torch.equal(mine[name], wanted[name])] == []
            with torch.no_grad():
                for weight in weights:
                    weight.add_(torch.randn_like(weight) * 0.01)
            fast.refresh()
    assert not graphs.disabled_because
    assert len(graphs.recorded) > 1


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_trained_blocks_are_as_near_to_float32_as_autocast(tmp_path: Path, kind: str) -> None:
    tokens = random_tokens(tmp_path, [A, B], 60)
    model = stock(kind, **WIDE).requires_grad_(True).cuda()
    wanted = plain_pass(model, tokens)
    with torch.autocast("cuda", torch.bfloat16):
        theirs = plain_pass(model, tokens)
    fast = PackedModel(model, LONGEST, dtype=torch.bfloat16)
    assert fast.trains_blocks
    loss = fast.loss_sum(fast.prepare(Packer(tokens, [A, B], 1 << 40).pack(range(60))))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted[0], rel=1e-2)
    ours = take_gradients(model)
    for name, gradient in wanted[1].items():
        error, allowed = (float((found[name] - gradient).norm() / gradient.norm()) for found in (ours, theirs[1]))
        assert error <= max(2 * allowed, 0.02), name


def decision_of(run: Run) -> Any:
    root = run.folder("checkpoints")
    return read_json(checkpoint.folder_of(root, checkpoint.steps(root)[-1]) / checkpoint.STATE)["graphs"]


WAYS = {
    "full": ("model.dtype=bf16", "adapter.method=full", "train.lr=1e-3"),
    "fp8": ("model.dtype=bf16", "model.quantize=fp8"),
    "fp16, full": ("model.dtype=fp16", "adapter.method=full", "train.lr=1e-3"),
}


@pytest.mark.parametrize("is_bound", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_keeps_its_decision_and_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str, is_bound: bool
) -> None:
    """The resumed one would measure the opposite."""
    base = make_base(tmp_path / "base", hidden_size=128, intermediate_size=256, head_dim=32)
    words = ("train.max_steps=6", "train.save_every=3", "train.batch_size=16", *WAYS[way])

    def trained(name: str) -> Run:
        AcceleratorState._reset_state(True)
        return run_to(make_config(tmp_path, base, f"name={name}", *words), "train", tmp_path)

    monkeypatch.setattr(LaunchTime, "is_bound", is_bound)
    whole = trained("whole")
    with killed_after(monkeypatch, 3):
        trained("killed")
    monkeypatch.setattr(LaunchTime, "is_bound", not is_bound)
    again = trained("killed")
    output = " ".join(capsys.readouterr().out.split())
    assert "going on without CUDA graphs" not in output
    assert (whole.manifest("adapter") or {})["counts"]["path"] == "fast"
    assert decision_of(again) is is_bound
    assert_same(whole, again)


def test_the_time_of_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement itself on the card; its numbers are printed (`pytest -s`)."""
    found: list[LaunchTime] = []
    stock_measure = launch_time.measure

    def noted(*args: Any) -> LaunchTime | None:
        result = stock_measure(*args)
        found.extend([result] if result else [])
        return result

    monkeypatch.setattr(launch_time, "measure", noted)
    base = make_base(tmp_path / "base", hidden_size=128, intermediate_size=256, head_dim=32)
    run_to(
        make_config(tmp_path, base, "model.dtype=bf16", "train.max_steps=2", "train.batch_size=16"), "train", tmp_path
    )
    assert len(found) == 1
    print(found)
    assert found[0].peak > 0
    assert found[0].host > 0
    assert found[0].card > 0
