"""Adapters load in stock peft from any working directory, with their tokenizer and their card's own lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model import adapter_folder
from pipeline.model import base as bases
from pipeline.model.base import Base
from pipeline.model.card import AUTO, CARD, OWN
from pipeline.model.run_base import RunBase
from pipeline.prompt.stage import encoder_of
from pipeline.release.keep import keep
from pipeline.run.folder import Run
from pipeline.store.combine import combine
from pipeline.store.folder import Store
from tests.helpers.tiny import make_config, run_to

FEW = ("train.max_steps=2", "eval.rows=1", "eval.prompts=[]")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """On a base that is named by a relative path, with a new token."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base.parent)
        config = make_config(folder, Path(base.name), *FEW, 'model.add_tokens=["[PAD]"]')
        assert not Path(config.model.base).is_absolute()
        run = run_to(config, "train", folder)
        for name in ("one", "two"):
            keep(config, run, bases.resolve(config.model), Store(folder / "store"), name, replace=False)
    return config, run


def as_the_card_says(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer, by the lines of the card in `folder`."""
    text = (folder / CARD).read_text()
    assert f"```python\n{AUTO}\n```" in text
    found: dict[str, Any] = {}
    exec(AUTO.replace("PATH", str(folder)), found)
    return found["model"].eval(), found["tokenizer"]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 9, 20, 7]])).logits.float()
    return found


@pytest.mark.parametrize("where", ["run", "store"])
def test_loads_from_any_folder(
    where: str, trained: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = trained
    folder = run.folder("adapter") if where == "run" else Store(run.root.parent / "store").folder("one")
    monkeypatch.chdir(tmp_path)
    model, tokenizer = as_the_card_says(folder)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    assert torch.allclose(logits(model), logits(adapters.load(plain, run.folder("adapter"))), atol=1e-5)
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    asked = [{"role": "user", "content": "Name a colour."}]
    given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert given == encoder.prompt("Name a colour.")
    assert tokenizer.eos_token_id == encoder.end_id
    text = (folder / CARD).read_text()
    assert "More Information Needed" not in text
    assert str(base.parent) not in text


def test_a_sum_loads_from_any_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    config = make_config(tmp_path, Path(base.name), *FEW)
    run, store = run_to(config, "train", tmp_path), Store(tmp_path / "store")
    for name in ("one", "two"):
        keep(config, run, bases.resolve(config.model), store, name, replace=False)
    combine(store, "both", [("one", 0.5), ("two", 0.5)], "cat", 0, 1.0, replace=False)
    monkeypatch.chdir(tmp_path)
    model, tokenizer = as_the_card_says(store.folder("both"))
    assert torch.allclose(logits(model), logits(as_the_card_says(store.folder("one"))[0]), atol=1e-5)
    assert tokenizer.eos_token_id == 2
    assert "0.5 one + 0.5 two" in (store.folder("both") / CARD).read_text()


@pytest.mark.parametrize("method", ["prefix", "full", "houlsby", "none"])
def test_other_methods(method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = "train.max_steps=0" if method == "none" else "train.max_steps=2"
    size = ("adapter.bottleneck=8",) if method == "houlsby" else ()
    config = make_config(tmp_path, base, f"adapter.method={method}", steps, *FEW[1:], *size)
    folder = run_to(config, "train", tmp_path).folder("adapter")
    monkeypatch.chdir(tmp_path.parent)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    text = (folder / CARD).read_text()
    assert str(base.parent) not in text
    if method == "prefix":
        assert torch.isfinite(logits(as_the_card_says(folder)[0])).all()
    if method == "full":
        assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    if method == "houlsby":
        found: dict[str, Any] = {}
        exec(OWN.replace("PATH", str(folder)).replace("BASE", str(base)), found)
        assert OWN in text


def test_the_same_adapter_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    """peft writes sets in the order of their hashes, which differs between processes."""
    config = make_config(tmp_path, base)
    run_base = RunBase.of(config, bases.resolve(config.model))
    seen = []
    for n, targets in enumerate((["q_proj", "v_proj"], ["v_proj", "q_proj"])):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": targets}))
        adapter_folder.complete(folder, config.name, run_base, 512)
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert seen[0] == seen[1]


def test_what_names_the_base(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's id and commit; of a GGUF file the folder it was converted into, and in the card the file."""

    def named(config: Config, found: Base) -> tuple[dict[str, Any], str]:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        adapter_folder.complete(tmp_path, config.name, RunBase.of(config, found), None)
        return json.loads((tmp_path / "adapter_config.json").read_text()), (tmp_path / CARD).read_text()

    hub = make_config(tmp_path, Path("maker/model"))
    settings, text = named(hub, Base(base, base, 400, (2,), commit="a" * 40))
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("maker/model", "a" * 40)
    assert "base_model: maker/model\n" in text
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.chdir(base.parent)
    settings, text = named(make_config(tmp_path, file), Base(Path(base.name), base, 400, (2,)))
    assert settings["base_model_name_or_path"] == str(base)
    assert 'AutoModelForCausalLM.from_pretrained("FOLDER", gguf_file="small.gguf", dtype="float32")' in text
    assert str(tmp_path) not in text


def test_a_tokenizer_that_cannot_be_built_costs_no_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("no such tokenizer")

    monkeypatch.setattr("pipeline.model.hf_tokenizer.build", fails)
    config = make_config(tmp_path, base)
    adapter_folder.complete(tmp_path, config.name, RunBase.of(config, bases.resolve(config.model)), 512)
    assert "stored without its tokenizer" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / CARD).is_file()
