"""What is wrong with the files that a config names is told together with what is wrong in the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.command import guarded, load_run
from pipeline.config_files import file_problems
from pipeline.demo.base_model import FILE as DEMO_BASE

TEMPLATE = "prompt_input: '{instruction}'\nprompt_no_input: '{instruction} {output}'\nanser_prefix: ' '\n"


def lines_of(folder: Path, text: str, capsys: pytest.CaptureFixture[str], **more: bool) -> list[str]:
    """The problems that a command prints for a config, one line each."""
    path = folder / "run.yaml"
    path.write_text(text)
    assert guarded(lambda: load_run(str(path), [], **more) and None) in (0, 2)
    shown = " ".join(capsys.readouterr().err.split())
    return shown.split(" - ")[1:]


def test_all_problems_come_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(TEMPLATE)
    text = (
        f"name: a\nmodel: {{base: {tmp_path}/none.gguf}}\n"
        f"data: {{sources: [{{path: {tmp_path}/none.jsonl}}]}}\n"
        f"prompt: {{template: {tmp_path}/mine.yaml, cutof: 100}}\ntrain: {{lr: fast}}\n"
    )
    problems = lines_of(tmp_path, text, capsys)
    for key, line, times in (
        ("train.lr", 5, 1), ("prompt.cutof", 4, 1), ("prompt.template", 4, 3), ("data.sources[0].path", 3, 1),
        ("model.base", 2, 1),
    ):  # fmt: skip
        ours = [p for p in problems if key in p.split(": ")[1]]
        assert len(ours) == times, (key, problems)
        assert all(p.startswith(f"{tmp_path}/run.yaml:{line}: ") for p in ours)
    assert len(problems) == 7


def test_an_unknown_template_beside_a_wrong_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = lines_of(tmp_path, "name: a\nprompt: {template: alpacca}\ntrain: {lr: fast}\n", capsys)
    assert any("'alpacca'" in p and "alpaca" in p.split("'alpacca'")[1] for p in problems)


def test_a_command_that_reads_none_of_them_does_not_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"name: a\ndata: {{sources: [{{path: {tmp_path}/none.jsonl}}]}}\n"
    assert lines_of(tmp_path, text, capsys, model=False, files=False) == []
    assert len(lines_of(tmp_path, text, capsys, model=False)) == 1


def test_the_demo_base_is_no_problem_since_it_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.demo.base_model.fetch", lambda wheel, file: None)
    assert lines_of(tmp_path, f"name: a\nmodel: {{base: {DEMO_BASE}}}\n", capsys) == []
    (problem,) = lines_of(tmp_path, f"name: a\nmodel: {{base: other-{DEMO_BASE.name}}}\n", capsys)
    assert "model.base" in problem


@pytest.mark.parametrize("values", [{}, {"prompt": 3, "data": [], "model": "x"}, {"data": {"sources": ["a", {}, 3]}}])
def test_values_of_another_type_are_left_to_the_schema(values: dict[str, object]) -> None:
    assert file_problems(values) == []
