"""The type of the arithmetic on a CPU: measured once, recorded, and kept by the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline import stages
from pipeline.config.schema import Config
from pipeline.model import cpu_dtype
from pipeline.model.cpu_dtype import ProductSeconds
from pipeline.model.precision import dtype_name
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import QUICK

REAL_MEASURE = cpu_dtype.measure  # before conftest replaces it
FAST, SLOW = ProductSeconds(fp32=0.006, bf16=0.002), ProductSeconds(fp32=0.001, bf16=0.2)


@pytest.fixture
def auto(base: Path, tmp_path: Path) -> Config:
    return make_config(tmp_path, base, "model.dtype=auto", *QUICK)


def measures(monkeypatch: pytest.MonkeyPatch, seconds: ProductSeconds) -> list[int]:
    """Has `measure` give these seconds; returns a list that gets an entry at each call."""
    calls: list[int] = []

    def measure() -> ProductSeconds:
        calls.append(1)
        return seconds

    monkeypatch.setattr(cpu_dtype, "measure", measure)
    return calls


@pytest.mark.parametrize(
    ("fp32", "bf16", "dtype"),
    [(3.0, 1.0, "bf16"), (1.3, 1.0, "bf16"), (1.29, 1.0, "fp32"), (1.0, 1.0, "fp32"), (1.0, 200.0, "fp32")],
)
def test_bf16_must_be_clearly_faster(fp32: float, bf16: float, dtype: str) -> None:
    assert ProductSeconds(fp32, bf16).dtype == dtype


def test_measuring_takes_both_types_and_restores_the_threads() -> None:
    threads = torch.get_num_threads()
    seconds = REAL_MEASURE.__wrapped__()
    assert seconds.fp32 > 0
    assert seconds.bf16 > 0
    assert torch.get_num_threads() == threads


def test_where_bf16_is_emulated_no_large_product_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[Any] = []

    def best(size: tuple[int, int], seconds: float) -> ProductSeconds:
        sizes.append(size)
        return SLOW

    monkeypatch.setattr(cpu_dtype, "_best", best)
    assert REAL_MEASURE.__wrapped__().dtype == "fp32"
    assert sizes == [cpu_dtype.SMALL]


def test_a_run_trains_and_exports_in_the_faster_type(
    auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measures(monkeypatch, FAST)
    run = Run(tmp_path / auto.name)
    config = stages.bring_up_to_date(auto, run, "export")
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("3.0 times as fast as in float32") == 1
    assert "check passed: the fast path equals the reference" in printed
    assert config.model.dtype == "bf16"
    record = json.loads((run.root / cpu_dtype.RECORD).read_text())
    assert record["dtype"] == "bf16"
    assert record["product_seconds"] == dataclasses.asdict(FAST)
    manifest = run.manifest("adapter") or {}
    assert manifest["key"]["model"]["dtype"] == manifest["counts"]["dtype"] == "bf16"
    assert {t.dtype for t in load_file(run.folder("adapter") / "adapter_model.safetensors").values()} == {torch.float32}
    merged = load_file(run.folder("export") / "model.safetensors")
    assert {t.dtype for t in merged.values()} == {torch.bfloat16}

    measures(monkeypatch, SLOW)  # another CPU
    assert stages.stale(stages.bring_up_to_date(auto, run, "export"), run) == []
    assert "trained" not in capsys.readouterr().out


@pytest.mark.parametrize(("first", "second", "dtype"), [(FAST, SLOW, "bf16"), (SLOW, FAST, "fp32")])
def test_the_first_measurement_binds_the_run(
    first: ProductSeconds, second: ProductSeconds, dtype: str, auto: Config, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = Run(tmp_path / auto.name)
    measures(monkeypatch, first)
    assert dtype_name(cpu_dtype.choose(auto, run).model) == dtype
    calls = measures(monkeypatch, second)
    for again in (cpu_dtype.choose, cpu_dtype.bound, cpu_dtype.expected):
        assert dtype_name(again(auto, run).model) == dtype
    assert not calls


def test_a_float32_run_has_the_key_of_earlier_versions(
    auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, SLOW)
    assert cpu_dtype.choose(auto, Run(tmp_path / auto.name)).model.dtype == "auto"


def test_a_run_that_began_without_a_record_stays_in_float32(
    auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / auto.name)
    (run.folder("checkpoints") / "step-000001").mkdir(parents=True)
    calls = measures(monkeypatch, FAST)
    assert cpu_dtype.choose(auto, run) == auto
    assert not calls
    assert not (run.root / cpu_dtype.RECORD).exists()


@pytest.mark.parametrize(
    "overrides",
    [["model.dtype=fp32"], ["model.dtype=bf16"], ["model.quantize=nf4"], ["adapter.dora=true"]],
)
def test_what_is_not_measured(
    overrides: list[str], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = measures(monkeypatch, FAST)
    config = make_config(tmp_path, base, "model.dtype=auto", *overrides)
    assert cpu_dtype.choose(config, Run(tmp_path / "run")) == config
    assert not calls


def test_a_card_has_its_own_type(auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = measures(monkeypatch, FAST)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu_dtype.choose(auto, Run(tmp_path / "run")) == auto
    assert not calls


def test_several_processes_do_not_measure(auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = measures(monkeypatch, FAST)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cpu_dtype.choose(auto, Run(tmp_path / "run")) == auto
    assert not calls


def test_a_plan_records_nothing(auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures(monkeypatch, FAST)
    run = Run(tmp_path / auto.name)
    assert cpu_dtype.expected(auto, run).model.dtype == "bf16"
    assert not run.root.exists()


@pytest.mark.parametrize("change", [lambda text: text.replace("bf16", "fp32"), lambda text: "", lambda text: "[]"])
def test_a_damaged_record_is_named(change: Any, auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures(monkeypatch, FAST)
    run = Run(tmp_path / auto.name)
    cpu_dtype.choose(auto, run)
    path = run.root / cpu_dtype.RECORD
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match="is damaged"):
        cpu_dtype.bound(auto, run)


def test_resume_is_exact_in_bf16(auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two of four steps and resumed on a CPU that measures otherwise: the same bits."""
    measures(monkeypatch, FAST)
    whole = run_to(auto, "train", tmp_path / "whole")
    from pipeline.training import update

    take_step, steps = update.take_step, []

    def stopping(*arguments: Any) -> None:
        take_step(*arguments)
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(update, "take_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_to(auto, "train", tmp_path / "stopped")
    monkeypatch.setattr(update, "take_step", take_step)
    measures(monkeypatch, SLOW)
    resumed = run_to(auto, "train", tmp_path / "stopped")
    weights = [(run.folder("adapter") / "adapter_model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("seconds", "said"), [(SLOW, True), (FAST, False)])
def test_bf16_by_name_on_a_cpu_that_emulates_it(
    seconds: ProductSeconds, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measures(monkeypatch, seconds)
    cpu_dtype.warn_if_slow()
    assert ("200.0 times as slow" in capsys.readouterr().out) == said
