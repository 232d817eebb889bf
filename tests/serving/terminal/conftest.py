"""A finished run of a tiny base whose chat template has a thinking mode, and a store with adapters of this base."""

from __future__ import annotations

import pytest
from peft import IA3Config

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.store.folder import Store
from tests.helpers.chat_runs import chat_config, make_chat_base
from tests.helpers.stored_adapters import put
from tests.helpers.tiny import run_to


@pytest.fixture(scope="package")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    folder = tmp_path_factory.mktemp("talks")
    config = chat_config(folder, make_chat_base(folder / "base", "qwen3"), "chat.max_new_tokens=4")
    return config, run_to(config, "export", folder)


@pytest.fixture(scope="package")
def store(exported: tuple[Config, Run], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two LoRA adapters, one of another method, and one of another base."""
    config, folder = exported[0], tmp_path_factory.mktemp("store")
    store = Store(folder / "adapters")
    put(store, "one", config, 1)
    put(store, "two", config, 2)
    ia3 = IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    put(store, "scaled", config, 3, ia3)
    (folder / "other").mkdir()
    put(store, "foreign", chat_config(folder / "other", make_chat_base(folder / "base", "llama")), 4)
    return store
