"""The report: its numbers add up, its page shows any text and runs none, and no picture is empty."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data_report import charts, stage, verbs
from pipeline.data_report.lengths import histogram
from pipeline.data_report.numbers import flow, gather, share
from pipeline.data_report.rows import HashSample, content_hash
from pipeline.dataset.datasheet import datasheet
from pipeline.dataset.example import Example
from pipeline.pages.drawing import Drawing, Rect, Text, Wedge, fitted, svg, text_width
from pipeline.pages.text import LIMIT, difference, escape, overlap, shorten, visible
from pipeline.run.errors import UserError
from pipeline.run.files import write_json, write_text
from pipeline.run.folder import Run
from tests.helpers.pages import ParsedPage, parsed_page
from tests.helpers.report_run import (
    CONFIG,
    A,
    K,
    build,
    built,
    examples,
    lines,
    make_run,
    report_of,
    without_parser,
    write_tokens,
)

__all__ = ["built"]  # a fixture: used by name


@pytest.fixture(autouse=True)
def no_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    without_parser(monkeypatch)


def seen(folder: Path) -> ParsedPage:
    return parsed_page(folder / "data_report.html")


def test_the_page_shows_hostile_text_and_runs_none_of_it(built: Path) -> None:
    page = seen(built)
    assert (page.tags["script"], page.tags.get("img", 0), page.handlers) == (1, 0, [])
    assert "<script>alert(1)</script><img src=x onerror=" in page.text
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert "‹U+202E›evil‹U+202C›" in page.text
    raw = (built / "data_report.html").read_bytes()
    assert not re.search("[\x00-\x08\u202a-\u202e\ufeff\ud800-\udfff]", raw.decode())


def test_links_lead_somewhere_and_ids_are_unique(built: Path) -> None:
    page = seen(built)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "#rule-output-empty" in page.links


def test_a_text_of_a_million_letters_leaves_the_page_small(built: Path) -> None:
    assert (built / "data_report.html").stat().st_size < 500_000
    assert "more characters]" in seen(built).text


def test_numbers_add_up_and_stand_in_report_json(built: Path) -> None:
    found = json.loads((built / "report.json").read_text())
    assert found["read"] == found["kept"] + found["rejected"]
    assert found["kept"] == found["train"] + found["val"] + found["holdout"]
    steps = found["flow"]
    assert sum(s["rows"] for s in steps if s["kind"] == "minus") == found["rejected"]
    assert [s["rows"] for s in steps if s["kind"] == "total"] == [91, 84, 82]
    assert found["repeats"] == sum(e.source == A for e in examples()[:-12])
    assert found["lengths"]["too_long"] == 3
    assert found["lengths"]["row"]["rows"] == 82 + found["repeats"] - 3
    assert (found["verbs"]["en"]["parsed"], found["verbs"]["en"]["rows"]) == (62, 62)
    assert found["duplicates"]["near_similarity"] == {"0.80": 1, "0.90": 1}


def test_the_flow_sums_up_small_rules_and_what_no_rule_names() -> None:
    rules = [{"rule": f"r{i:02}", "rejected": i} for i in range(1, 12)]
    steps = flow({"read": 100, "rejected": 70, "kept": 30, "train": 30, "rules": rules})
    minus = [(s["name"], s["rows"]) for s in steps if s["kind"] == "minus"]
    assert minus[0] == ("r11", 11)
    assert minus[-1] == ("4 other rules", 4 + 3 + 2 + 1)
    assert sum(n for _, n in minus) == 70


def test_rows_left_out_are_not_called_rejected(built: Path) -> None:
    page = (built / "data_report.html").read_text("utf-8")
    assert "82 kept + 7 rejected + 2 left out by limits" in page
    assert "rejected: 7 rows" in page
    assert "left out: 2 rows" in page
    assert "rejected: 9 rows" not in page


def test_the_same_run_gives_the_same_page(tmp_path: Path, built: Path) -> None:
    again = build(make_run(tmp_path))
    for name in ("data_report.html", "report.json", "flow.png"):
        assert (again / name).read_bytes() == (built / name).read_bytes(), name


def test_a_stage_that_is_done_is_current_until_the_tokens_change(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    build(run)
    assert run.is_current("report", stage.key(CONFIG, run))
    write_tokens(tmp_path / "other.arrow", examples())
    with run.writing("tokens", {"of": "another test"}) as out:
        shutil.copy(tmp_path / "other.arrow", out.folder / "train.arrow")
    assert not run.is_current("report", stage.key(CONFIG, run))


def test_a_parser_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(language: str, texts: list[str]) -> list[tuple[str, str]]:
        raise UserError("pip could not download it", fix="check the network")

    run = make_run(tmp_path, tokens=False)
    with monkeypatch.context() as patch:
        patch.setattr(verbs, "_pairs", fails)
        assert "pip could not download it. To have it: check the network." in seen(build(run)).text
    assert not run.is_current("report", stage.key(CONFIG, run))
    build(run)
    assert run.is_current("report", stage.key(CONFIG, run))


def test_a_bare_run_says_what_it_lacks_and_draws_no_empty_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_pairs", lambda language, texts: [("", "")] * len(texts))
    run = Run(tmp_path)
    with run.writing("dataset", {}) as out:
        write_text(out.folder / "train.jsonl", lines([Example.of("Why?", "", "So.", source="s").as_dict()]))
        write_json(out.folder / "report.json", {"read": 1, "kept": 1, "train": 1})
    text = seen(build(run)).text
    for said in ("No benchmark was named", "No duplicates were found", "No rule found anything", "In characters",
                 "names no source", "No row names its task", "None of the 1 instructions"):  # fmt: skip
        assert said in text, said
    pictures = {path.stem for path in run.folder("report").glob("*.png")}
    assert pictures == {"flow", "lengths-row", "lengths-answer", "length-groups"}


def test_nothing_kept_is_a_page_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.writing("dataset", {}) as out:
        write_json(out.folder / "report.json", {"read": 0})
    assert "There is no row to show" in seen(build(run)).text
    assert not list(run.folder("report").glob("*.png"))


def test_samples_have_every_part_source_and_rule(tmp_path: Path) -> None:
    found = gather(make_run(tmp_path), CONFIG.name, CONFIG.data.seed, CONFIG.prompt.cutoff)
    assert {s.split for s in found.samples} == {"train", "val", "holdout", "rejected"}
    assert {s.source for s in found.samples} == {A, K}
    assert {rule for s in found.samples for rule in s.rules} == {"control-characters", "output-empty"}
    [changed] = [s for s in found.samples if s.rules == ["control-characters"]]
    assert changed.texts["instruction"].startswith("Write a poem number 0")
    assert changed.notes[0].startswith("fixed by control-characters: because")
    sizes = [s.size for s in found.samples if s.split == "holdout" and s.source == K]
    assert set(sizes) == {None, (37, 17)}  # one was too long; 30 and half of 15 characters, 20 of them prompt


@pytest.mark.parametrize("pass_", range(2))
def test_a_lottery_draws_the_same_from_any_order(pass_: int) -> None:
    entries = [(content_hash(n), n) for n in range(100)] + [(content_hash(3), 3)]
    lottery: HashSample[int] = HashSample(7)
    for entry in entries[:: -1 if pass_ else 1]:
        lottery.add(*entry)
    assert lottery.drawn() == [n for _, n in sorted(entries[:100])[:7]]


def test_histograms_count_every_row_once() -> None:
    values = np.array([0, 1, 5, 99, 100, 511, 512, 512])
    found = histogram(values, cutoff=512)
    assert sum(found["counts"]) == 8
    assert found["over"] == 0
    assert (found["width"], found["counts"][51]) == (10, 3)
    tail = histogram(np.array([*range(1000), 1_000_000]))
    assert (sum(tail["counts"]) + tail["over"], tail["longest"]) == (1001, 1_000_000)
    assert len(tail["counts"]) <= 61
    assert tail["over"] <= 6
    assert histogram(np.array([], np.int64))["rows"] == 0
    assert histogram(np.array([0, 0]))["counts"] == [2]


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 5, "0.0 %"), (1, 10_000, "< 0.1 %"), (9_999, 10_000, "> 99.9 %"), (1, 3, "33 %"), (5, 5, "100.0 %")],
)
def test_shares_never_round_to_nothing_or_all(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


def test_differences_are_marked_and_long_texts_cut_around_them() -> None:
    assert difference("a cat sat", "a dog sat") == ("a <del>cat</del> sat", "a <ins>dog</ins> sat")
    assert difference("on the side", "on the slide!")[1] == "on the <ins>slide!</ins>"
    assert difference("a  b", "a b")[0] == "a <del>␣</del>b"
    assert difference("x\x00y", "xy")[0] == "x<del>‹U+0000›</del>y"
    before, after = difference("w " * 500_000 + "<i>" + " w" * 500_000, "w " * 500_000 + " w" * 500_000)
    assert "<del>&lt;i&gt;</del>" in before
    assert len(before) < 400
    assert len(after) < 400
    assert len(difference("a b " * 100_000, "c d " * 90_000)[0]) < 5 * LIMIT


def test_what_two_texts_share_is_marked() -> None:
    left, right = overlap("What is the capital of France?", "Tell: what is the capital of Spain")
    assert left == "<mark>What is the capital of</mark> France?"
    assert right == "Tell: <mark>what is the capital of</mark> Spain"
    assert overlap("", "x") == ("", "x")


def test_texts_are_visible_and_short() -> None:
    assert visible("a\u200bb\ud800\r\nc") == "a‹U+200B›b‹U+D800›\nc"
    assert visible("👩\u200d💻") == "👩\u200d💻"
    assert escape("<&\"'") == "&lt;&amp;&quot;&#x27;"
    assert shorten("x" * 10, 4) == "xxxx … [6 more characters]"


def test_labels_fit() -> None:
    assert fitted("short", 13, 100) == "short"
    cut = fitted("a/very/long/path/to/the/file.json", 13, 120)
    assert cut.startswith("a/very")
    assert cut.endswith("json")
    assert text_width(cut, 13) <= 120
    assert text_width("한국", 10) > text_width("ab", 10)


def test_sources_with_one_name_keep_their_paths() -> None:
    assert charts.names_of(["a/x.json", "b/x.json", "c/y.json"]) == {
        "a/x.json": "a/x.json", "b/x.json": "b/x.json", "c/y.json": "y.json",
    }  # fmt: skip


def test_a_drawing_escapes_and_a_whole_ring_is_drawn() -> None:
    drawing = Drawing("d", 10, 10, "t", 'a "title"', marks=[Wedge(5, 5, 2, 4, 0, 6.28318530718, "#123456", "<tip>")])
    drawing.add(Rect(0, 0, 1, 1, "warn", link='"x"'), Text(0, 0, "<b>\ud800"))
    found = svg(drawing, "wide")
    assert "<tip>" not in found
    assert "<b>" not in found
    assert 'href="#&quot;x&quot;"' in found
    [(x1, y1, x2, y2)] = re.findall(r"M(\S+) (\S+?)A4 4 0 1 1 (\S+) (\S+?)L", found)
    assert (x1, y1) != (x2, y2)


def test_pictures_are_not_empty_and_as_wide_as_they_say(built: Path) -> None:
    names = {path.stem for path in built.glob("*.png")}
    assert {"flow", "sources", "mix", "rules", "groups", "contamination", "languages", "tasks", "task-groups",
            "lengths-row", "lengths-answer", "length-groups", "sunburst-en", "sunburst-ko"} == names  # fmt: skip
    for path in built.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert pixels.shape[1] >= 1300, path.name
        assert (abs(pixels - 255).max(axis=2) > 24).mean() > 0.004, path.name


def test_a_picture_without_a_font_for_hangul_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.pages import png

    said: list[str] = []
    paint = png._paint
    monkeypatch.setattr(png, "_paint", lambda axes, mark: (said.append(getattr(mark, "text", "")), paint(axes, mark)))
    monkeypatch.setattr(png, "hangul_font", lambda: None)
    for cached in (png._families, png._glyphs):
        cached.cache_clear()
    try:
        drawing = Drawing("d", 400, 40, "t", "t", marks=[Text(0, 20, "쓰다 ab")])
        png.write(drawing, tmp_path / "d.png")
        assert any("No font with Hangul" in text for text in said)
        assert png._drawable("쓰다 ab") == "· ab"
    finally:
        for cached in (png._families, png._glyphs):
            cached.cache_clear()


def test_the_datasheet_tells_what_was_done_and_stays_a_table() -> None:
    rows = examples()
    report = report_of({"train": rows[:-12], "val": rows[-12:-4], "holdout": rows[-4:]})
    report["sources"][0]["path"] = "we|ird\n`name`.json"
    text = datasheet(report, CONFIG.name, CONFIG.data)
    assert text == datasheet(json.loads(json.dumps(report)), CONFIG.name, CONFIG.data)
    assert "91 rows were read = 82 kept + 7 rejected + 2 left out by limits or the mixture" in text
    assert "we\\|ird 'name'.json" in text
    assert "look it up" in text
    assert "| `output-empty` | 4 | 0 | 0 | No answer. |" in text
    assert "make data CONFIG=runs/test/config.yaml" in text
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.split("\n") if line.startswith("| ")]
    assert set(widths) <= {4, 5, 6, 7, 8}
    assert "# Datasheet: test" in datasheet({}, CONFIG.name, CONFIG.data)
