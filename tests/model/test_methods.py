"""The table of methods, and what one more method takes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline import stages
from pipeline.config.method_rules import spec_of
from pipeline.config.methods import METHODS, MethodSpec
from pipeline.config.schema import Adapter, Config
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.load import load_base
from pipeline.model.methods import BY_NAME
from pipeline.model.run_base import RunBase
from pipeline.release import verify
from pipeline.release.keep import keep
from pipeline.run.folder import Run
from pipeline.store.folder import Store
from pipeline.store.load import open_stored
from tests.helpers.methods import KINDS, adapter_tensors, chain, saved, stock
from tests.helpers.tiny import load_examples

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


ROOT = Path(__file__).parents[2]


def test_the_table_needs_nothing_heavy() -> None:
    for name in ("methods", "method_rules"):
        for node in ast.parse((ROOT / "pipeline" / "config" / f"{name}.py").read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"torch", "peft", "transformers", "safetensors"}, name


def test_every_method_is_described() -> None:
    table = (ROOT / "docs" / "methods.md").read_text()
    for name, spec in METHODS.items():
        assert (name, bool(spec.trains)) == (spec.name, True)
        assert f"| `{spec.name}` |" in table
        assert set(spec.keys) <= set(Adapter.model_fields)
    assert {name: method.spec for name, method in BY_NAME.items()} == METHODS


def test_one_more_method_is_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/methods.md shows: an entry in the table, and a class of a few lines."""
    from pipeline.model.methods.own_form import OwnForm

    class Biases(OwnForm):
        def pick(self, model: Any, adapter: Adapter) -> dict[str, Any]:
            return {n: p for n, p in model.named_parameters() if n.endswith(".bias")}

    spec = MethodSpec("biases", "biases")
    monkeypatch.setitem(METHODS, "biases", spec)
    monkeypatch.setitem(BY_NAME, "biases", Biases(spec))
    model = adapters.attach(stock(model_type="gpt_neox"), Adapter(method="biases"), seed=1)
    assert all(name.endswith(".bias") for name in adapters.trained(model))


def test_loading_is_frozen(tmp_path: Path) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        saved(kind, folder)
        assert not adapters.trained(adapters.load(stock(), folder)), kind


def test_lora_plus_reaches_the_optimiser(prepared: Run, base: Path, tmp_path: Path) -> None:
    """B starts at zero: after a run's first step it is four times as far away as without."""
    sizes = []
    for kind in ("lora", "lora plus"):
        config, run = chain(prepared, base, tmp_path / kind.replace(" ", ""), kind, "train.max_steps=1")
        stages.bring_up_to_date(config, run, "train")
        sizes.append(sum(float(t.norm()) for n, t in adapter_tensors(run).items() if "lora_B" in n))
    assert sizes[1] == pytest.approx(4 * sizes[0], rel=1e-3)


def test_load_base_in_float32_for_full(base: Path) -> None:
    config = Config(name="a", model={"base": str(base), "dtype": "bf16"}, adapter={"method": "full"})
    float32 = spec_of(config.adapter).float32
    assert load_base(config.model, bases.resolve(config.model), 0, float32).dtype == torch.float32


@pytest.mark.parametrize("kind", ["houlsby", "norms", "prefix", "lora pissa"])
def test_the_store_keeps_every_kind_of_adapter(kind: str, prepared: Run, base: Path, tmp_path: Path) -> None:
    config, run = chain(prepared, base, tmp_path, kind, "train.save_every=9")
    stages.bring_up_to_date(config, run, "train")
    store, found = Store(tmp_path / "adapters"), bases.resolve(config.model)
    keep(config, run, found, store, "task", False)
    model, encoder = open_stored(RunBase.of(config, found), store, "task")
    tuned = adapters.load(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run.folder("adapter"))
    examples = load_examples(run, "val")
    said = [verify.log_probabilities(m.eval(), encoder, examples) for m in (model, tuned)]
    assert torch.equal(*said)
