"""What is served, and that each model answers as it does alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig

from pipeline.config.schema import Config
from pipeline.model.generate import greedy
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, write_json
from pipeline.run.folder import Run
from pipeline.serving.engine import open as opening
from pipeline.serving.engine.open import open_engine
from pipeline.serving.engine.request import Engine
from pipeline.serving.engine.served_model import ServedModel
from pipeline.store.folder import Store
from tests.helpers.engine import answers, request
from tests.helpers.stored_adapters import change_record, plain, put
from tests.helpers.tiny import make_config

PROMPTS = [[5, 6, 7], list(range(20, 60)), [3], list(range(100, 117)), [9] * 40, [8, 9, 10, 11]]


@pytest.fixture(scope="module")
def mixed_store(config: Config, lora_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three LoRAs and one adapter of each kind that has a batch of its own."""
    made = Store(Path(shutil.copytree(lora_store.root, tmp_path_factory.mktemp("store"), dirs_exist_ok=True)))
    put(made, "head", config, 11, r=2, target_modules=["lm_head", "down_proj"])
    put(made, "dora", config, 4, use_dora=True)
    put(made, "ia3", config, 5, IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]))
    put(made, "prompt", config, 6, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    put(made, "prefix", config, 7, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    put(made, "tokens", config, 8, LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 6, 100]}
    ))  # fmt: skip
    return made


def served(config: Config, run: Run, store: Store, *models: str, **serve: Any) -> tuple[Engine, list[ServedModel]]:
    section = config.serve.model_copy(update={"models": models, **serve})
    return open_engine(config.model_copy(update={"serve": section}), run, store)


@pytest.fixture
def no_run(tmp_path: Path, config: Config) -> Run:
    return Run(tmp_path / config.name)


@pytest.fixture
def closing() -> Iterator[list[Engine]]:
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.close()


def alone(base: Path, store: Store, name: str, prompts: list[list[int]]) -> list[list[int]]:
    """The answers of stock peft, one prompt at a time."""
    model = plain(base)
    if name != "base":
        model = PeftModel.from_pretrained(model, store.folder(name)).eval()
    return greedy(model, prompts, end_id=2, max_new_tokens=20, what="answers", batch=1)


def test_adapters_in_one_batch_answer_as_alone(
    config: Config, base: Path, mixed_store: Store, no_run: Run, closing: list[Engine]
) -> None:
    engine, models = served(config, no_run, mixed_store, parallel=64)
    closing.append(engine)
    names = [model.name for model in models]
    assert names == ["base", *mixed_store.names()]
    assert [model.kind for model in models] == ["base"] + ["adapter"] * 9
    requests = [request(prompt, model=name) for prompt in PROMPTS for name in names]
    collected = answers(engine, requests)
    expected = {name: alone(base, mixed_store, name, PROMPTS) for name in names}
    wrong = [
        (asked.model, asked.ids)
        for asked, one in zip(requests, collected, strict=True)
        if one.ids != expected[asked.model][PROMPTS.index(list(asked.ids))]
    ]
    assert wrong == []
    assert len({tuple(map(tuple, answer)) for answer in expected.values()}) >= 8  # adapters that change the answers
    contexts = {model.name: model.context for model in models}
    assert contexts["base"] == contexts["one"] == contexts["dora"] == 512
    assert contexts["prompt"] == contexts["prefix"] == 508


def test_one_base_in_memory(config: Config, mixed_store: Store, no_run: Run, closing: list[Engine]) -> None:
    engine, _ = served(config, no_run, mixed_store)
    closing.append(engine)
    batches = engine.batches  # type: ignore[attr-defined]
    tables = [batch.decoder.model.get_decoder().layers[0].mlp.up_proj for batch in batches]
    places = {next(iter(table.parameters())).data_ptr() for table in tables}
    assert len(batches) == 6
    assert len(places) == 1


def test_the_export_is_its_adapter_on_the_base(
    tuned: tuple[Config, Run], base: Path, tmp_path: Path, closing: list[Engine]
) -> None:
    config, run = tuned
    engine, models = served(config, run, Store(tmp_path))
    closing.append(engine)
    assert [(model.name, model.kind) for model in models] == [("base", "base"), ("tiny", "export")]
    assert len(engine.batches) == 1  # type: ignore[attr-defined]
    expected = greedy(plain(run.folder("export")), PROMPTS, end_id=2, max_new_tokens=20, what="answers")
    collected = answers(engine, [request(prompt, model=name) for prompt in PROMPTS for name in ("tiny", "base")])
    assert [one.ids for one in collected[::2]] == expected
    assert [one.ids for one in collected[1::2]] == alone(base, Store(tmp_path), "base", PROMPTS)
    assert expected != alone(base, Store(tmp_path), "base", PROMPTS)


def test_the_export_alone_needs_no_base(
    tuned: tuple[Config, Run], tmp_path: Path, closing: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = tuned
    monkeypatch.setattr(opening, "resolve", lambda _: pytest.fail("the base is not needed"))
    engine, [model] = served(config, run, Store(tmp_path), "tiny")
    closing.append(engine)
    expected = greedy(plain(run.folder("export")), PROMPTS, end_id=2, max_new_tokens=20, what="answers")
    assert [one.ids for one in answers(engine, [request(prompt, model="tiny") for prompt in PROMPTS])] == expected
    assert model.end_ids == {2}
    assert model.encoder.template.id == "alpaca-short"


def test_another_adapter_than_the_merged_one(tuned: tuple[Config, Run], tmp_path: Path, closing: list[Engine]) -> None:
    """Trained again without a new export: the export's own weights are served."""
    config, run = tuned
    copied = Run(Path(shutil.copytree(run.root, tmp_path / "tiny")))
    manifest = copied.folder("export") / "manifest.json"
    record = read_json(manifest)
    record["key"]["adapter"] = "another"
    write_json(manifest, record)
    engine, _ = served(config, copied, Store(tmp_path / "none"))
    closing.append(engine)
    assert len(engine.batches) == 2  # type: ignore[attr-defined]
    expected = greedy(plain(run.folder("export")), PROMPTS, end_id=2, max_new_tokens=20, what="answers")
    assert [one.ids for one in answers(engine, [request(prompt, model="tiny") for prompt in PROMPTS])] == expected


def test_unfinished_is_noted(tuned: tuple[Config, Run], tmp_path: Path, closing: list[Engine]) -> None:
    config, run = tuned
    copied = Run(Path(shutil.copytree(run.root, tmp_path / "tiny")))
    path = copied.folder("export") / "suri.json"
    write_json(path, {**read_json(path), "unfinished": True})
    engine, models = served(config, copied, Store(tmp_path / "none"))
    closing.append(engine)
    assert "may not end" in models[1].note
    assert models[0].note == ""


def test_adapters_of_another_base_are_left_out(
    config: Config, lora_store: Store, tmp_path: Path, no_run: Run, closing: list[Engine],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    store = Store(Path(shutil.copytree(lora_store.root, tmp_path / "store")))
    change_record(store, "two", base={"name": "other", "hash": "0" * 64})
    engine, models = served(config, no_run, store)
    closing.append(engine)
    assert [model.name for model in models] == ["base", "one", "three"]
    assert capsys.readouterr().err.count("two is left out") == 1
    with pytest.raises(UserError, match="another base"):
        served(config, no_run, store, "two")


def test_another_template_is_left_out(
    tuned: tuple[Config, Run], base: Path, tmp_path: Path, closing: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    _config, run = tuned
    other = make_config(tmp_path, base, "prompt.template=alpaca")
    engine, models = served(other, run, Store(tmp_path / "none"))
    closing.append(engine)
    assert [model.name for model in models] == ["base"]
    assert "trained with the template" in capsys.readouterr().err
    with pytest.raises(UserError, match="trained with the template"):
        served(other, run, Store(tmp_path / "none"), "tiny")


def test_names_that_there_are_not(config: Config, lora_store: Store, no_run: Run) -> None:
    with pytest.raises(UserError, match="no model is called 'tow'") as error:
        served(config, no_run, lora_store, "tow")
    assert "two" in error.value.fix
    with pytest.raises(UserError, match="the run has no export"):
        served(config, no_run, lora_store, config.name)


def test_memory_that_does_not_suffice(
    config: Config, lora_store: Store, no_run: Run, monkeypatch: pytest.MonkeyPatch, closing: list[Engine],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, size, bytes
    free = "pipeline.serving.engine.memory.available_bytes"
    monkeypatch.setattr(free, lambda _: 2 * 383 * per_token)
    with pytest.raises(UserError, match="no memory for one answer"):
        served(config, no_run, lora_store)
    monkeypatch.setattr(free, lambda _: 2 * 400 * per_token)
    engine, models = served(config, no_run, lora_store, "base", max_tokens=100)
    closing.append(engine)
    assert "further requests wait" in " ".join(capsys.readouterr().out.split())
    assert models[0].context == 383
    [one] = answers(engine, [request([5] * 283, end=(), max_tokens=100)])
    assert len(one.ids) == 100


@torch.inference_mode()
def test_logprobs_of_adapters_in_a_batch(
    config: Config, base: Path, lora_store: Store, no_run: Run, closing: list[Engine]
) -> None:
    engine, _ = served(config, no_run, lora_store)
    closing.append(engine)
    names = ["base", "one", "two", "three"]
    requests = [request(PROMPTS[3], model=name, max_tokens=1, top_logprobs=0) for name in names]
    for name, one in zip(names, answers(engine, requests), strict=True):
        model = plain(base)
        model = model if name == "base" else PeftModel.from_pretrained(model, lora_store.folder(name)).eval()
        logprobs = model(torch.tensor([PROMPTS[3]])).logits[0, -1].log_softmax(-1)
        assert one.tokens[0].logprob == pytest.approx(float(logprobs.max()), abs=1e-5)
