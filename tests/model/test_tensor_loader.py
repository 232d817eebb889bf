"""A base loaded tensor by tensor is the model that transformers loads, and takes less memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from pipeline.config.schema import Model
from pipeline.model import base as bases
from pipeline.model import load
from pipeline.model.base.tensors import TensorFiles
from pipeline.model.load import load_base, read_shape
from pipeline.model.tensor_loader import load_by_tensor
from pipeline.run.errors import UserError
from tests.helpers.tiny import make_base

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128},
    "llama, tied": {"hidden_size": 64, "intermediate_size": 128, "tie_word_embeddings": True},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 128},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4},  # its layers hold transposed weights
}
CPU = torch.device("cpu")


def settings(how: str, dtype: torch.dtype) -> Any:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(load_in_8bit=True) if how == "int8" else BitsAndBytesConfig(load_in_4bit=True, **nf4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["none", "nf4", "int8"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_bytes_are_those_of_transformers(kind: str, how: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", **KINDS[kind])
    quantization = None if how == "none" else settings(how, dtype)
    options = {} if quantization is None else {"quantization_config": quantization, "device_map": {"": CPU}}
    ours = load_by_tensor(TensorFiles(base), read_shape(str(base)), dtype, CPU, "the base", quantization)
    assert ours is not None
    stock = load._from_folder(base, dtype, **options).eval()
    first, second = (dict(m.named_parameters(remove_duplicate=False)) for m in (ours, stock))
    assert list(first) == list(second)
    for name, weight in first.items():
        assert (type(weight), weight.dtype, weight.requires_grad) == (
            type(second[name]), second[name].dtype, second[name].requires_grad
        ), name  # fmt: skip
    for a, b in ((ours.state_dict(), stock.state_dict()), (dict(ours.named_buffers()), dict(stock.named_buffers()))):
        assert list(a) == list(b)  # with the scales of quantised weights
        assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert len({id(p) for p in ours.parameters()}) == len({id(p) for p in stock.parameters()})  # tied once
    assert ours.config.to_dict() == stock.config.to_dict()
    assert ours.generation_config.to_dict() == stock.generation_config.to_dict()
    ids = torch.arange(10)[None]
    assert torch.equal(ours(ids).logits, stock(ids).logits)


def test_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a tensor is read, no other one in full precision is there but those that stay so; blocks are announced."""
    base = make_base(tmp_path / "base", **KINDS["llama"])
    stock, before, blocks = TensorFiles.read, list[Any](), list[str]()

    def read(files: TensorFiles, name: str) -> torch.Tensor:
        gc.collect()
        assert not [one for one in before if one() is not None]
        tensor = stock(files, name)
        if name.endswith("_proj.weight"):
            before.append(weakref.ref(tensor))
        return tensor

    def on_block(block: Any) -> None:
        blocks.append(type(block).__name__)
        assert {p.dtype for p in block.parameters() if p.dim() > 1} == {torch.uint8}

    monkeypatch.setattr(TensorFiles, "read", read)
    how = settings("nf4", torch.float32)
    load_by_tensor(TensorFiles(base), read_shape(str(base)), torch.float32, CPU, "the base", how, on_block)
    assert len(before) == 14
    assert blocks == ["LlamaDecoderLayer"] * 2


def test_weights_of_another_shape_are_left_to_transformers(tmp_path: Path) -> None:
    """It has the message."""
    base = make_base(tmp_path / "base", **KINDS["llama"])
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert load_by_tensor(TensorFiles(base), read_shape(str(base)), torch.float32, CPU, "the base") is None
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = Model(base=str(base), quantize="nf4")
    with pytest.raises(UserError, match="cannot load the model"):
        load_base(model, bases.resolve(model), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_each_weight_is_checked_before_it_is_quantised(value: float, tmp_path: Path) -> None:
    """Afterwards only its block's scale would tell, and not in int8."""
    base = make_base(tmp_path / "base", **KINDS["llama"])
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for how in ("nf4", "int8"):
        with pytest.raises(UserError, match=r"the base has (NaN|infinity) in the tensor model.layers.1.mlp.up_proj"):
            load_by_tensor(
                TensorFiles(base), read_shape(str(base)), torch.float32, CPU, "the base", settings(how, torch.float32)
            )


def test_large_finite_weights_are_finite(tmp_path: Path) -> None:
    """Their sum is not."""
    base = make_base(tmp_path / "base", **KINDS["llama"])
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = torch.full((64,), 3e38)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert load_by_tensor(TensorFiles(base), read_shape(str(base)), torch.float32, CPU, "the base") is not None
