"""run_report.md: the run report in short, as Markdown in English, to be read in a terminal or pasted into an issue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline import __version__
from pipeline.evaluation.results import rows_of_table
from pipeline.evaluation.table import cells
from pipeline.release.card import column_names
from pipeline.run.markdown import fenced, plain
from pipeline.run_report.contents import STAGES, Contents
from pipeline.run_report.record import config_text
from pipeline.run_report.sections import duration, lead_of, planned_text
from pipeline.run_report.training import facts
from pipeline.run_report.verdict import verdict

SAMPLES = 5  # held-out rows whose answers are shown
LONGEST = 400  # characters of a text


def text(contents: Contents) -> str:
    """The whole file. The same run folder gives the same bytes."""
    blocks = [f"# {plain(contents.config.name)}: run report", f"**{plain(str(verdict(contents.results).text))}**"]
    blocks += [plain(str(lead_of(contents)))]
    for title, made in (
        ("Settings", _settings(contents)),
        ("Data", _data(contents)),
        ("Training", _training(contents)),
        ("Results", _results(contents)),
        ("Samples", _samples(contents)),
        ("Time", _time(contents)),
    ):
        blocks += [f"## {title}", made]
    return (
        "\n\n".join([*blocks, f"Made by Suri {__version__}; run_report.html beside this file has the charts."]) + "\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(plain(str(cell)) for cell in row) + " |" for row in rows)])


def _settings(contents: Contents) -> str:
    every = f"<details><summary>every value</summary>\n\n{fenced(config_text(contents).rstrip())}\n\n</details>"
    return f"{fenced(planned_text(contents).rstrip())}\n\n{every}"


def _data(contents: Contents) -> str:
    numbers = contents.data
    if numbers is None:
        return str(contents.missing("dataset", "no-data"))
    left = numbers["left_out"]
    rows = [("read", numbers["read"]), ("kept", numbers["kept"]), ("rejected for a fault", numbers["rejected"] - left)]
    rows += [("left out by limits", left), ("train", numbers["train"]), ("val", numbers["val"])]
    rows += [("held-out tasks", numbers["holdout"])]
    return _table(("rows", ""), [(name, f"{n:,}") for name, n in rows])


def _training(contents: Contents) -> str:
    rows = facts(contents)
    return _table(("", ""), rows) if rows else str(contents.missing("adapter", "not-trained"))


def _results(contents: Contents) -> str:
    base, tuned = contents.results.get("base"), contents.results.get("tuned")
    if not base or not tuned:
        return str(contents.missing("export", "not-measured-both"))
    made = _table(("", *column_names(contents.config.adapter)), rows_of_table(base, tuned))
    benchmarks = [row for row in contents.eval.get("rows") or () if _is_whole(row)]
    if benchmarks:
        made += "\n\n" + _table(("benchmark", "metric", "base", "shots", "tuned", "change", "over shots", "n"),
                                map(cells, benchmarks))  # fmt: skip
    return made


def _is_whole(row: Any) -> bool:
    """Whether a row of eval.json has all that its table shows."""
    names = [
        f"{name}{error}" for name in ("base", "shots", "tuned", "change", "over_shots") for error in ("", "_error")
    ]
    return isinstance(row, Mapping) and all(name in row for name in [*names, "name", "metric", "better", "n"])


def _samples(contents: Contents) -> str:
    base, tuned = contents.results.get("base") or {}, contents.results.get("tuned") or {}
    if not tuned:
        return str(contents.missing("export", "no-answers"))
    asked = [(one["prompt"], "", before, one) for before, one in _pairs(base, tuned, "prompts")]
    for split in ("val", "holdout"):
        pairs = list(_pairs(base.get(split, {}), tuned.get(split, {}), "said"))[:SAMPLES]
        asked += [
            (f"{one['instruction']} {one['input']}".strip(), one["expected"], before, one) for before, one in pairs
        ]
    first, second = column_names(contents.config.adapter)
    blocks = []
    for question, expected, before, after in asked:
        lines = [("asked", question), ("expected", expected), (first, _said(before)), (second, _said(after))]
        blocks.append("\n".join(f"- {name}: {plain(_short(one))}" for name, one in lines if one))
    return "\n\n".join(blocks) or "No row has one right answer, and eval.prompts is empty."


def _pairs(base: Mapping[str, Any], tuned: Mapping[str, Any], key: str) -> Iterable[tuple[Any, Any]]:
    return zip(base.get(key) or (), tuned.get(key) or (), strict=False)


def _said(answer: Mapping[str, Any]) -> str:
    return (answer["said"] or "(empty)") + ("" if answer["stopped"] else " [did not end]")


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]} …"


def _time(contents: Contents) -> str:
    """Seconds of each stage that is there, and their sum."""
    rows = [(name, duration(contents.seconds[folder])) for folder, name, _ in STAGES if folder in contents.seconds]
    return _table(("stage", "time"), [*rows, ("total", duration(sum(contents.seconds.values())))])
