"""What all tests share. Nothing here or in the tests reaches for the network."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.run import next_command
from tests.helpers.slow import listed

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.run.folder import Run
    from pipeline.store.folder import Store

for _name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # the tests of make would be calls inside the call of `make test`
    os.environ.pop(_name, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported, so it must be set this early
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# Looking for garbage among a million objects of imported modules takes 0.3 s a time, and an export looks twice.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of tests/slow.txt, which only `make test-all` runs."""
    slow = listed()
    for item in items:
        if item.nodeid in slow or item.nodeid.partition("::")[0] in slow:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported so far stays, and is looked at no more."""
    gc.freeze()
    gc.enable()


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real data in {SHARED}, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random LLaMA on disk; tests only read it."""
    from tests.helpers.tiny import make_base  # torch: only for tests that want it

    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def config(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of a run on the tiny base; nothing of it is built."""
    from tests.helpers.tiny import make_config

    return make_config(tmp_path_factory.mktemp("config"), base)


@pytest.fixture(scope="session")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """A training run of six steps on the tiny base; tests only read it."""
    return _run(base, tmp_path_factory.mktemp("finished"), "train")


@pytest.fixture(scope="session")
def quick(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """A training run of four steps with little evaluation; tests only read it."""
    from tests.helpers.training_runs import QUICK

    return _run(base, tmp_path_factory.mktemp("quick"), "train", *QUICK)


@pytest.fixture(scope="session")
def undropped(finished: tuple[Config, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without dropout, with a few packs a step: for what does not depend on how a step is split."""
    from tests.helpers.training_runs import UNDROPPED, branch

    return branch(finished, tmp_path_factory.mktemp("undropped"), *UNDROPPED)


@pytest.fixture(scope="session")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """An export of the tiny base, asked one question and one request of `eval.known`; tests only read it."""
    folder = tmp_path_factory.mktemp("tuned")
    known = folder / "known.jsonl"
    known.write_text('{"instruction": "What is 1 + 1?", "answers": ["2"], "kind": "sum"}\n{"instruction": "Say hi."}\n')
    return _run(base, folder, "export", f"eval.known={known}")


def _run(base: Path, folder: Path, last: str, *overrides: str) -> tuple[Config, Run]:
    from tests.helpers.tiny import make_config, run_to

    config = make_config(folder, base, *overrides)
    return config, run_to(config, last, folder)


@pytest.fixture(scope="session")
def lora_store(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three random LoRAs of one base: another rank, other layers, another way to scale. Tests only read it."""
    from pipeline.store.folder import Store
    from tests.helpers.stored_adapters import put

    made = Store(tmp_path_factory.mktemp("lora_store"))
    put(made, "one", config, 1)
    put(made, "two", config, 2, r=3, lora_alpha=5, target_modules=["v_proj", "o_proj"])
    put(made, "three", config, 3, r=2, use_rslora=True, alpha_pattern={"layers.1.self_attn.q_proj": 7})
    return made


@pytest.fixture(scope="module", autouse=True)
def what_modules_imported_stays() -> None:
    """Most of transformers is imported late, by the tests that want it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_loss_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most runs of the suite are trained for other reasons; drawing 150 curves takes 20 seconds.

    Nor does any test read the README that peft writes beside each adapter, 30 ms each, or pull the plug: 8,000 times
    waiting for the disk are 3 seconds.
    """
    monkeypatch.setattr("pipeline.training.metrics.plot", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    if peft := sys.modules.get("peft"):
        monkeypatch.setattr(peft.PeftModel, "create_or_update_model_card", lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def a_cpu_without_bf16() -> Iterator[None]:
    """Runs of the tests compute the same on every CPU: `model.dtype: auto` is float32."""
    from pipeline.model import cpu_dtype

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_dtype, "measure", lambda: cpu_dtype.ProductSeconds(fp32=0.001, bf16=0.001))
        yield


@pytest.fixture(autouse=True)
def no_command_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints of a test name no config of the test before it."""
    monkeypatch.setattr("pipeline.run.next_command._call", next_command._Call())
