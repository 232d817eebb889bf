"""What is said before the first request."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.command import load_run
from pipeline.config.load import load
from pipeline.config.schema import Source
from pipeline.dataset.read.source import kind_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.synthesis import readiness
from tests.helpers.fake_teacher import FakeTeacher, generate, write_config

Teach = Callable[..., list[FakeTeacher]]


def problems(folder: Path, text: str) -> str:
    (folder / "a.yaml").write_text(f"name: a\n{text}")
    with pytest.raises(UserError) as caught:
        load(folder / "a.yaml", model=False)
    return str(caught.value)


def test_all_that_is_missing_in_the_section_is_told_together(tmp_path: Path) -> None:
    text = problems(tmp_path, "synthesis: {method: self-instruct, budget: 5 USD}\n")
    for key in ("teacher.model", "teacher.terms", "seeds", "teacher.price"):
        assert f"synthesis.{key}: missing" in text
    assert text.startswith("4 problems")


@pytest.mark.parametrize(
    ("method", "key"), [("self-instruct", "seeds"), ("translate", "sources"), ("questions", "documents")]
)
def test_each_method_needs_what_it_makes_rows_of(tmp_path: Path, method: str, key: str) -> None:
    text = problems(tmp_path, f"synthesis: {{method: {method}, teacher: {{model: x, terms: y}}}}\n")
    assert f"synthesis.{key}: missing" in text
    assert text.startswith("1 problem")


def test_a_budget_and_a_price_have_one_currency(tmp_path: Path) -> None:
    teacher = "{model: x, terms: y, price: {input: 1, output: 2, currency: KRW}}"
    text = problems(tmp_path, f"synthesis: {{method: self-instruct, seeds: [a], budget: 5 USD, teacher: {teacher}}}\n")
    assert "synthesis.teacher.price.currency: is KRW, but synthesis.budget is in USD" in text


def test_missing_files_are_told_with_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seeds.jsonl").touch()
    Path("a.yaml").write_text(
        "name: a\nsynthesis: {method: self-instruct, seeds: [seed.jsonl], documents: [none/], sources: [{path: no.csv}]"
        ", teacher: {model: x, terms: y}}\n"
    )
    with pytest.raises(UserError) as caught:
        load_run("a.yaml", [], model=False)
    text = str(caught.value)
    assert "synthesis.seeds[0]: no such file: seed.jsonl; did you mean seeds.jsonl?" in text
    assert "synthesis.documents[0]: no such file or folder: none/" in text
    assert "synthesis.sources[0].path: no such data file: no.csv" in text


def test_no_method_is_one_message(tmp_path: Path, run: Run) -> None:
    (tmp_path / "made.yaml").write_text("name: made\n")
    with pytest.raises(UserError, match="no method is named"):
        generate(load(tmp_path / "made.yaml", model=False), run)


def test_a_missing_package_and_a_missing_key_are_told_together(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(readiness, "find_spec", lambda name: None)
    config = write_config(tmp_path, "synthesis.teacher.base_url=")
    with pytest.raises(UserError) as caught:
        generate(config, run)
    text = str(caught.value)
    assert "the package openai is not installed" in text
    assert "the environment variable OPENAI_API_KEY holds no key" in text
    assert not run.folder("generated").exists()


def test_what_is_up_to_date_needs_no_key(
    tmp_path: Path, run: Run, teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = teach()
    monkeypatch.setenv("SYNTH_KEY", "secret-of-the-test")
    generate(write_config(tmp_path, "synthesis.teacher.key=SYNTH_KEY"), run)
    monkeypatch.delenv("SYNTH_KEY")
    generate(write_config(tmp_path, "synthesis.teacher.key=SYNTH_KEY"), run)
    assert len(used) == 1
    kept = [path for path in run.root.rglob("*") if path.is_file() and b"secret-of-the-test" in path.read_bytes()]
    assert kept == []


def test_rows_of_another_run_name_the_command_that_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS", raising=False)
    with pytest.raises(UserError) as caught:
        kind_of(Source(path="runs/other/generated"))
    assert "no rows were generated yet: runs/other/generated" in str(caught.value)
    assert "generate CONFIG=configs/other.yaml" in caught.value.fix
    os.makedirs("runs/other")
    Path("runs/other/config.yaml").touch()
    with pytest.raises(UserError) as caught:
        kind_of(Source(path="runs/other/generated"))
    assert "CONFIG=runs/other/config.yaml" in caught.value.fix


def test_a_teacher_is_named_without_key_or_folder(tmp_path: Path) -> None:
    asked = write_config(tmp_path).synthesis.teacher
    assert readiness.place_of(asked) == "localhost:1"
    assert readiness.place_of(asked.model_copy(update={"base_url": ""})) == "api.openai.com"
    local = asked.model_copy(update={"kind": "local", "model": "/home/me/models/small.gguf"})
    assert (readiness.place_of(local), readiness.named(local)) == ("this machine", "small.gguf")
