"""Which models a chat can talk to, and that a refused one leaves the earlier one as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.serving.terminal import models as chat_models
from pipeline.serving.terminal.models import ChatModels
from pipeline.store.folder import Store
from tests.helpers.exports import logits
from tests.helpers.stored_adapters import plain

IDS = [5, 6, 7, 8]


@pytest.fixture
def models(exported: tuple[Config, Run], store: Store) -> ChatModels:
    return ChatModels(exported[0], store, exported[1])


def base_of(models: ChatModels) -> Path:
    return Path(models.config.model.base)


def wanted(models: ChatModels, name: str) -> torch.Tensor:
    """Logits of a model that is loaded alone."""
    if name == "export":
        return logits(AutoModelForCausalLM.from_pretrained(models.run.folder("export")), IDS)
    base = plain(base_of(models))
    return logits(base if name == "base" else PeftModel.from_pretrained(base, models.store.folder(name)), IDS)


def test_each_model_answers_as_if_it_were_alone(models: ChatModels) -> None:
    expected = {name: wanted(models, name) for name in ("export", "base", "one", "two", "scaled")}
    for name in ("export", "one", "base", "two", "one", "scaled", "base", "export", "scaled", "two"):
        opened = models.open(name)
        assert opened.name == name
        assert models.current is opened
        torch.testing.assert_close(logits(opened.model, IDS), expected[name])


def test_the_base_is_in_memory_once(models: ChatModels, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    load = chat_models.RunBase.load
    monkeypatch.setattr(chat_models.RunBase, "load", lambda self: loads.append(self) or load(self))
    for name in ("base", "one", "two", "base", "one"):
        models.open(name)
    assert len(loads) == 1


def test_names(models: ChatModels, tmp_path: Path) -> None:
    assert models.names() == ["export", "base", "foreign", "one", "scaled", "two"]
    assert ChatModels(models.config, Store(tmp_path / "none"), Run(tmp_path / "none")).names() == ["base"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("foreign", "trained on another base"), ("onne", "no adapter is called onne"), ("../one", "holds '.'")],
)
def test_a_refused_model_leaves_the_earlier_one(models: ChatModels, name: str, said: str) -> None:
    models.open("one")
    with pytest.raises(UserError, match=said):
        models.open(name)
    assert models.current is not None
    assert models.current.name == "one"
    torch.testing.assert_close(logits(models.current.model, IDS), wanted(models, "one"))


def test_an_adapter_that_fails_while_it_is_loaded(models: ChatModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where peft has changed the base before it fails."""
    models.open("base")
    add = chat_models.add_adapter

    def failing(model: Any, folder: Path, name: str, whose: str) -> Any:
        add(model, folder, name, whose)
        raise UserError("does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(chat_models, "add_adapter", failing)
        with pytest.raises(UserError, match="does not fit"):
            models.open("one")
    assert models.current is not None
    torch.testing.assert_close(logits(models.current.model, IDS), wanted(models, "base"))
    torch.testing.assert_close(logits(models.open("one").model, IDS), wanted(models, "one"))


def test_memory_for_a_second_model_is_checked_before_it_is_loaded(
    models: ChatModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.open("export")
    monkeypatch.setattr(chat_models, "available_bytes", lambda device: 1000)
    with pytest.raises(UserError, match="and 1 kB is free"):
        models.open("base")
    assert models.current is models.open("export")


def test_no_export(models: ChatModels, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was exported"):
        ChatModels(models.config, models.store, Run(tmp_path / "none")).open("export")
