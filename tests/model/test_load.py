"""Types of weights: loading, casting, quantising, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Model
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.load import cast, load_base, load_folder
from pipeline.model.loss import loss_sum
from pipeline.model.precision import check_card, dtype_name
from pipeline.prompt.batch import PaddedBatch, pad
from pipeline.prompt.stage import encoder_of
from pipeline.release import verify
from pipeline.run.errors import UserError
from tests.helpers.tiny import load_examples, make_base, make_config, run_to


def test_dtype_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [dtype_name(Model(dtype=d)) for d in ("auto", "bf16", "fp32")] == ["fp32", "bf16", "fp32"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for card, expected in (((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card=card: card)
        assert dtype_name(Model()) == expected
        assert dtype_name(Model(dtype="fp32")) == "fp32"


@pytest.mark.parametrize(
    ("card", "wanted", "message"),
    [
        (None, {"dtype": "fp16"}, "fp16 needs a Volta card or newer"),
        ((6, 1), {"dtype": "fp16"}, "has compute capability 6.1"),
        ((7, 5), {"dtype": "bf16"}, "bf16 needs an Ampere card or newer"),
        ((8, 9), {"quantize": "fp8"}, "fp8 needs a Hopper card or newer"),
        ((7, 5), {"dtype": "fp16"}, ""),
        ((7, 5), {"dtype": "auto"}, ""),
        (None, {"dtype": "bf16"}, ""),
        ((9, 0), {"dtype": "bf16", "quantize": "fp8"}, ""),
        ((9, 0), {"quantize": "fp8", "dtype": "fp16"}, "products in fp8 have results in bf16"),
    ],
)
def test_a_type_that_the_card_lacks(
    monkeypatch: pytest.MonkeyPatch, card: tuple[int, int] | None, wanted: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    if not message:
        check_card(Model(**wanted))
        return
    with pytest.raises(UserError, match=message) as caught:
        check_card(Model(**wanted))
    assert caught.value.where == f"model.{next(iter(wanted))}"


def test_loss_ignores_right_padding(model: Any) -> None:
    ids = np.arange(10, 22, dtype=np.int64)
    short = (ids[:5], ids[:5])
    alone = float(loss_sum(model, pad([short])).detach())
    batch = pad([(ids, np.full(12, -100)), short])  # the long row learns nothing
    assert float(loss_sum(model, batch).detach()) == pytest.approx(alone, rel=1e-5)
    none = loss_sum(model, PaddedBatch(batch.ids, np.full_like(batch.labels, -100)))
    assert float(none.detach()) == 0
    none.backward()


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_quantised_base(how: str, tmp_path: Path) -> None:
    """Trained on 4 or 8 bits, merged into full precision: the export says what the adapter said, unquantised."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    config = make_config(tmp_path, base, f"model.quantize={how}", "eval.rows=2", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    made = json.loads((run.folder("export") / "config.json").read_text())
    assert "quantization_config" not in made
    assert {t.dtype for t in load_file(run.folder("export") / "model.safetensors").values()} == {torch.float32}
    encoder, examples = encoder_of(config.prompt, base, config.model.add_tokens), load_examples(run, "val")
    quantised = adapters.load(
        load_base(config.model, bases.resolve(config.model), config.train.seed), run.folder("adapter")
    )
    export = AutoModelForCausalLM.from_pretrained(run.folder("export"), dtype=torch.float32).eval()
    said = [verify.log_probabilities(m, encoder, examples) for m in (quantised, export)]
    assert abs(verify.divergence(*said)) < 1e-4
    plain = verify.log_probabilities(load_folder(base, torch.float32), encoder, examples)
    assert verify.divergence(said[0], plain) > 10 * abs(verify.divergence(*said))


def test_bf16_run_exported_in_fp32(base: Path, tmp_path: Path) -> None:
    """bf16 arithmetic in training, float32 in the export: the check allows for the rounding of the first."""
    AcceleratorState._reset_state(True)  # one process takes one precision
    try:
        config = make_config(
            tmp_path, base, "model.dtype=bf16", "export.dtype=fp32", "train.max_steps=2", "eval.rows=1",
            "eval.prompts=[]", "train.lr=1e-1",
        )  # fmt: skip
        run = run_to(config, "export", tmp_path)
    finally:
        AcceleratorState._reset_state(True)
    assert {t.dtype for t in load_file(run.folder("adapter") / "adapter_model.safetensors").values()} == {torch.float32}
    assert {t.dtype for t in load_file(run.folder("export") / "model.safetensors").values()} == {torch.float32}


def test_cast_leaves_rotary_frequencies_alone(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base"), dtype=torch.float32)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert any("inv_freq" in name for name in before)
    cast(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
