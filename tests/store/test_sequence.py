"""Tasks in sequence on one base: trained, kept, listed, measured, asked."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.cli import adapters
from pipeline.cli.talk import talk
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.base.fingerprint import fingerprint
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.terminal import safe
from pipeline.store.combine import combine
from pipeline.store.folder import Store
from pipeline.store.measure import measure_stored
from pipeline.store.table import detail, table
from tests.helpers.store_files import IDS, edit, everything, logits
from tests.helpers.stored_adapters import change_record, plain, put
from tests.helpers.tiny import make_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sequence(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One task kept, its outputs taken; then a second one trained and kept on the same base."""
    folder = tmp_path_factory.mktemp("sequence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERS", str(folder / "adapters"))
        store = Store.here()
        short = ("train.max_steps=2", "train.save_every=9", "train.eval_every=9", "data.sources.0.rows=40")
        first = make_config(folder, base, "name=first", *short)
        second = make_config(
            folder, base, "name=second", "adapter.r=2", "adapter.targets=[all-linear]", "train.seed=7", *short
        )
        adapters.keep_adapter(first, Run(folder / "first"), "first", False)
        found: dict[str, Any] = {"store": store, "folder": folder, "configs": (first, second)}
        found["before"] = (logits(first, store, "first"), everything(store.root / "first"))
        base_files = everything(base)
        adapters.keep_adapter(second, Run(folder / "second"), "둘째", False)
        found["after"] = (logits(first, store, "first"), everything(store.root / "first"))
        assert everything(base) == base_files
    return found


def test_a_new_task_leaves_the_first_bit_identical(sequence: dict[str, Any]) -> None:
    (before, files), (after, files_after) = sequence["before"], sequence["after"]
    assert torch.equal(before, after)
    assert files == files_after
    assert set(files) >= {"adapter_model.safetensors", "adapter_config.json", "suri.json", "tokenizer.json"}
    with torch.inference_mode():
        alone = plain(Path(sequence["configs"][0].model.base))(input_ids=IDS).logits
    assert not torch.allclose(alone, after, atol=1e-4)  # it does something
    assert not torch.allclose(logits(sequence["configs"][1], sequence["store"], "둘째"), after, atol=1e-4)


def test_stock_peft_loads_what_is_stored(sequence: dict[str, Any]) -> None:
    config, store = sequence["configs"][0], sequence["store"]
    model = PeftModel.from_pretrained(plain(Path(config.model.base)), store.folder("first")).eval()
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS).logits, sequence["after"][0])
    trained = Run(sequence["folder"] / "first").folder("adapter") / "adapter_model.safetensors"
    assert trained.read_bytes() == (store.folder("first") / "adapter_model.safetensors").read_bytes()


def test_the_record_says_what_the_adapter_is(sequence: dict[str, Any], base: Path) -> None:
    record = sequence["store"].record("first")
    config = sequence["configs"][0]
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    wanted = {
        "name": base.name,
        "hash": fingerprint(config.model, resolve(config.model), config.train.seed),
        "commit": "",
        "quantize": "none",
    }
    assert record["base"] == wanted
    assert (record["template"]["hash"], record["tokenizer"]) == (encoder.template.hash, encoder.tokenizer.hash)
    assert (record["method"], record["rank"], record["run"], record["end_id"]) == ("lora", 4, "first", 2)
    assert record["trained_parameters"] == 2 * 4 * (32 + 32 + 32 + 16)  # two layers, r (in + out) of q and of v
    assert sequence["store"].record("둘째")["rank"] == 2


def test_the_table(
    sequence: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured by name on the other's rows, the numbers go into the record and the table; the weights stay."""
    store, (first, second) = sequence["store"], sequence["configs"]
    monkeypatch.setenv("ADAPTERS", str(store.root))
    weights = (store.folder("둘째") / "adapter_model.safetensors").read_bytes()
    for config in (first, second):
        found = adapters.measure_adapter(config, Run(sequence["folder"] / config.name), "둘째")
    kept = store.record("둘째")["results"]
    assert kept.keys() == {"first", "second"}
    assert kept["second"]["val"]["loss"] == found["val"]["loss"]
    assert "said" not in kept["second"]["val"]
    assert weights == (store.folder("둘째") / "adapter_model.safetensors").read_bytes()
    alone = adapters.measure_adapter(first, Run(sequence["folder"] / "first"), "base")
    assert alone["val"]["loss"] != kept["first"]["val"]["loss"]
    lines = table(store).splitlines()
    assert lines[0].split() == ["name", "method", "rank", "trained", "size", "kept"]
    assert "lora" in lines[1]
    assert "896" in lines[1]
    assert "first 0.0%, second 0.0%" in " ".join(table(store).split())
    assert "prompt_no_input" in detail(store, "first")
    with pytest.raises(UserError, match="third"):
        adapters.measure_adapter(first, Run(sequence["folder"] / "first"), "third")


def test_results_of_an_adapter_that_was_replaced_meanwhile(
    sequence: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring takes minutes: what others do to the store in the meantime is neither lost nor mistaken."""
    store = Store(Path(shutil.copytree(sequence["store"].root, tmp_path / "adapters")))
    monkeypatch.setenv("ADAPTERS", str(store.root))
    first, found = sequence["configs"][0], {"val": {"loss": 1.0, "rows": 4}}
    files = store.record("first")["files"]
    change_record(store, "first", results={})
    meanwhile: Callable[[], Any] = lambda: store.add_results("first", "other", found, files)  # noqa: E731
    monkeypatch.setattr("pipeline.store.measure.measure_stored", lambda *_: meanwhile() or found)
    adapters.measure_adapter(first, Run(sequence["folder"] / "first"), "first")
    assert store.record("first")["results"] == {"other": found, "first": found}
    change_record(store, "first", results={})
    meanwhile = lambda: combine(store, "first", [("둘째", 1.0)], "cat", 0, 0.2, True) and None  # noqa: E731
    with pytest.raises(UserError, match="first was replaced"):
        adapters.measure_adapter(first, Run(sequence["folder"] / "first"), "first")
    assert store.record("first")["results"] == {}


def test_chat_by_name_is_base_and_adapter(
    sequence: dict[str, Any], base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, first = sequence["store"], sequence["configs"][0]
    monkeypatch.setenv("ADAPTERS", str(store.root))
    monkeypatch.setattr("sys.stdin", io.StringIO("Name a colour.\n"))
    chosen = first.chat.model_copy(update={"adapter": "first", "max_new_tokens": 5})
    capsys.readouterr()
    talk(first.model_copy(update={"chat": chosen}), Run(sequence["folder"] / "nothing-exported"))
    printed = capsys.readouterr().out
    assert "/help" not in printed  # the question came through a pipe, not from a person
    encoder = encoder_of(first.prompt, base, first.model.add_tokens)
    ids = encoder.prompt("Name a colour.")
    model = PeftModel.from_pretrained(plain(base), store.folder("first")).eval()
    with torch.inference_mode():
        made = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, len(ids) :]
    assert safe(encoder.tokenizer.decode(made.tolist())) in printed
    assert not (sequence["folder"] / "nothing-exported").exists()


def test_measuring_is_in_the_form_of_the_adapter(sequence: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """Another opening token than that of the run's rows: both loss and answers are as on rows with the adapter's."""
    store = Store(tmp_path / "adapters")
    first = sequence["configs"][0]
    other = make_config(tmp_path, base, "name=first", "train.max_steps=2", "data.sources.0.rows=40", "prompt.bos=<s>")
    put(store, "mine", other, 1)
    run = Run(tmp_path / "first")
    shutil.copytree(sequence["folder"] / "first" / "dataset", run.folder("dataset"))
    stages.bring_up_to_date(other, run, "tokens")
    wanted = measure_stored(other, run, resolve(other.model), store, "mine")
    found = measure_stored(first, Run(sequence["folder"] / "first"), resolve(first.model), store, "mine")
    assert found == wanted
    change_record(store, "mine", prompt=first.value("prompt"))
    assert measure_stored(first, Run(sequence["folder"] / "first"), resolve(first.model), store, "mine") != wanted


def test_listing_needs_no_torch(sequence: dict[str, Any]) -> None:
    code = (
        "import sys; from pipeline.cli.main import start\n"
        "start(['adapters']); print({'torch', 'peft'} & set(sys.modules))"
    )
    env = {**os.environ, "ADAPTERS": str(sequence["store"].root)}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert "둘째" in made.stdout, made.stderr
    assert made.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda t: {n: torch.full_like(x, float("nan")) for n, x in t.items()}, "NaN or infinite"),
        (
            lambda t: {n: x * 0 if "lora_B" in n else x for n, x in t.items()},
            "all its updates are zero",
        ),
        (lambda t: {n: x for n, x in t.items() if "layers.0" in n}, "fit this base"),
        (lambda t: {}, "no tensors"),
        (lambda t: {n: x.long() for n, x in t.items()}, "not a float"),
    ],
)
def test_keep_tries_the_adapter_first(
    sequence: dict[str, Any], tmp_path: Path, spoil: Callable[[Any], Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.release.keep import keep

    config = sequence["configs"][0]
    run = Run(Path(shutil.copytree(sequence["folder"] / "first", tmp_path / "first")))
    path = run.folder("adapter") / "adapter_model.safetensors"
    save_file(spoil(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=what):
        keep(config, run, resolve(config.model), Store(tmp_path / "adapters"), "first", False)
    assert not (tmp_path / "adapters").exists()


def test_a_run_without_an_adapter(sequence: dict[str, Any], tmp_path: Path) -> None:
    from pipeline.release.keep import keep

    run = Run(tmp_path / "full")
    config = sequence["configs"][0]
    with pytest.raises(UserError, match="no adapter"):
        keep(config, run, resolve(config.model), Store(tmp_path / "adapters"), "full", False)


def test_nothing_trained_and_experts(sequence: dict[str, Any], base: Path, tmp_path: Path) -> None:
    from pipeline.release.keep import keep

    def kept(config: Config) -> None:
        keep(config, run, resolve(config.model), Store(tmp_path / "adapters"), "it", False)

    run = Run(Path(shutil.copytree(sequence["folder"] / "first", tmp_path / "first")))
    none = make_config(tmp_path, base, "adapter.method=none", "train.max_steps=0")
    with pytest.raises(UserError, match="nothing was trained"):
        kept(none)
    # as peft writes it for a mixture of experts
    edit(target_parameters=["gate_up_proj", "down_proj"], alpha_pattern={r".*\.gate_up_proj": 16.0})(
        run.folder("adapter")
    )
    with pytest.raises(UserError, match="experts") as caught:
        kept(sequence["configs"][0])
    assert "`make export` makes a checkpoint of it" in caught.value.fix
