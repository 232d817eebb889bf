"""Pages and cards hold no folder of the machine, and no markup of strangers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.portable_paths import shortened, shortener
from pipeline.config.schema import Config
from pipeline.data_report import stage as report_stage
from pipeline.dataset import stage as data_stage
from pipeline.run.folder import Run
from pipeline.run.markdown import code, fenced, plain
from pipeline.run_report import stage as overview
from tests.helpers.report_run import without_parser

HOSTILE = "<img src=x onerror=alert(1)> | [a](http://b) `c` *d* _e_ \x1b]52;c;x\x07\n# f"


def config_of(*paths: object, base: str = "") -> Config:
    sources = [{"path": str(path)} for path in paths]
    return Config.model_validate({"name": "t", "model": {"base": base}, "data": {"sources": sources, "val": 2}})


def test_folders_are_taken_out(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a" / "rows.json", tmp_path / "b" / "rows.json", tmp_path / "c & d"
    short = shortener(tmp_path / "runs" / "t", config_of(a, b, f"{c}/*.jsonl", base="/models/some/base"))
    assert short(f"{a}:3 and {b}") == "a/rows.json:3 and b/rows.json"
    assert short(f"{c}/x.jsonl, row 2") == "x.jsonl, row 2"
    assert short(f'"{c}/x.jsonl"'.replace("&", "&amp;")) == '"x.jsonl"'
    assert short("see /models/some/base.") == "see base."
    assert short("/models/some/baseline /other/models/some/base") == "baseline /other/models/some/base"
    assert short(f"{tmp_path}/runs/t/export") == "runs/t/export"
    assert short(f"{Path.home()}/x, {Path.cwd()}/configs/a.yaml") == "~/x, configs/a.yaml"
    assert shortened({str(a): [str(b), 3, None]}, short) == {"a/rows.json": ["b/rows.json", 3, None]}


def test_common_words_stay(tmp_path: Path) -> None:
    short = shortener(tmp_path, config_of("/x.json", "/a/b.json"))
    assert short("1/a/b and /a/c, and/or /x") == "1/a/b and /a/c, and/or /x"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Data, its report and the page of a run, of sources with absolute paths and hostile tasks and names."""
    folder = tmp_path / "<b>&*_ name"
    folder.mkdir()
    rows = [
        {"instruction": f"Say number {i} of the many", "input": "", "output": f"It is {i}", "task": HOSTILE}
        for i in range(9)
    ]
    bad = [{"instruction": "No answer", "output": ""}, rows[0]]
    (folder / "rows.json").write_text(json.dumps(rows + bad))
    (folder / "more.jsonl").write_text("".join(json.dumps({**r, "output": f"Or {r['output']}"}) + "\n" for r in rows))
    config = config_of(folder / "rows.json", folder / "*.jsonl", base=str(tmp_path / "base"))
    run = Run(tmp_path / "runs" / "t")
    data_stage.build(config, run)
    without_parser(monkeypatch)
    report_stage.build(config, run, report_stage.key(config, run))
    overview.build(config, run)
    return run


def test_pages_name_no_folder_of_this_machine(made: Run, tmp_path: Path) -> None:
    pages = ("run_report.html", "run_report.md", "report/data_report.html", "report/report.json", "dataset/README.md")
    for page in pages:
        text = (made.root / page).read_text(encoding="utf-8")
        for folder in (tmp_path, Path.cwd(), Path.home()):
            assert f"{folder}/" not in text, page
        assert "rows.json" in text, page


def test_the_datasheet_shows_hostile_names_as_letters(made: Run) -> None:
    text = (made.root / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "&lt;img" in text
    for markup in ("<img", "<b>&amp;*", "\x1b", "[a](", " *d*", " _e_", "\n# f", "http://b"):
        assert markup not in text, markup


def test_markdown() -> None:
    assert plain("a_b _c_ <x> & | `d` *e*\n# [f](https://g)") == (
        r"a_b \_c\_ &lt;x&gt; &amp; \| \`d\` \*e\* \# \[f\](https\://g)"
    )
    assert plain("한국어 ± 0.1, 50 %") == "한국어 ± 0.1, 50 %"
    assert code("a`b|c\n\x1b") == "`a'b\\|c \\x1b`"
    assert fenced("a\n  ````\n", "yaml").startswith("`````yaml\n")
