"""A finished run folder as the data and tokens stages leave it, with hostile rows, for tests of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config, Data, Source
from pipeline.data_report import stage, verbs
from pipeline.dataset.example import Example
from pipeline.prompt.encode import Row
from pipeline.prompt.tokens import TokenWriter
from pipeline.run.files import json_text, write_json, write_text
from pipeline.run.folder import Run

A, K = "data/<b>a</b>.json", "../shared/한국어.csv"
NASTY = (
    '<script>alert(1)</script><img src=x onerror="alert(2)">&amp; {input} __class__ "\' \u202eevil\u202c \x00\x1b\ufeff'
)


def examples() -> list[Example]:
    """English and Korean rows with tasks, one of them hostile, one very long."""
    verbs_ = ["Write a poem", "Give a tip", "List a name", "Write a story", "Explain a word"]
    found = [
        Example.of(f"{verbs_[i % 5]} number {i} about the sea and the sky", "the input" if i % 3 else "",
                   f"The answer to it is {i} " * (1 + i % 9), source=A, task=("write", "list", "")[i % 3])
        for i in range(60)
    ]  # fmt: skip
    found += [Example.of(f"다음 문장 {i} 번역해 주세요", "", f"그 문장의 답은 {i} 입니다", source=K) for i in range(20)]
    found.append(Example.of(NASTY, "", f"the answer {NASTY}", source=A))
    found.append(Example.of("Say much", "", "word " * 200_000, source=A))
    return found


def example_of_rule(action: str, n: int, **more: Any) -> dict[str, Any]:
    return {"action": action, "reason": f"because {NASTY}", "place": f"{A}:{n}", "source": A, **more}


def report_of(parts: dict[str, list[Example]]) -> dict[str, Any]:
    kept = [e for part in parts.values() for e in part]
    fixed = example_of_rule("fixed", 1, before={"output": "a b  c\x00"}, after={"output": "a b c"})
    flagged = example_of_rule("flagged", 2, before={"output": "me@example.com"}, after={})
    empty = example_of_rule("rejected", 3, row={"instruction": "Do it", "output": NASTY})
    counts = {name: len(rows) for name, rows in parts.items()}
    group = {"kept": shown(kept[0], 1), "rows": [like(kept[0], 90, "near", 0.9), like(kept[0], 91, "exact", 1.0)]}
    return {
        "read": len(kept) + 9, "kept": len(kept), **counts, "rejected": 9, "left_out": 2, "with_input": 40,
        "sources": [
            {"path": p, "forms": {"alpaca": 1}, "read": n + 9 * (p == A), "kept": n, "rejected": 9 * (p == A),
             "left_out": 2 * (p == A), "languages": {"en": n},
             **{name: sum(e.source == p for e in rows) for name, rows in parts.items()}}
            for p, n in ((p, sum(e.source == p for e in kept)) for p in (A, K))
        ],
        "rules": [
            {"rule": "control-characters", "what": "Ends <them>.", "rejected": 0, "fixed": 5, "flagged": 0,
             "by_source": {A: 5}, "examples": [fixed]},
            {"rule": "output-empty", "what": "No answer.", "rejected": 4, "fixed": 0, "flagged": 0, "by_source": {A: 4},
             "examples": [empty]},
            {"rule": "near-duplicate", "what": "", "rejected": 3, "fixed": 0, "flagged": 0, "examples": []},
            {"rule": "limit", "what": "", "rejected": 2, "fixed": 0, "flagged": 0, "examples": []},
            {"rule": "personal-data", "what": "", "rejected": 0, "fixed": 0, "flagged": 1, "examples": [flagged]},
        ],
        "duplicates": {"exact": 1, "near": 2, "novelty": 0, "clusters": 1, "thresholds": {"exact": True, "near": 0.75},
                       "largest": [{"size": 3, **group}]},
        "contamination": {
            "benchmarks": [{"name": "arc", "questions": 10}, {"name": "mmlu", "questions": 20}],
            "table": {"arc": {A: 1, K: 0}, "mmlu": {A: 0, K: 0}},
            "examples": [{"benchmark": "arc", "question": f"What is the sea? {NASTY}", "place": f"{A}:7", "source": A,
                          "score": 0.9, "row": {"instruction": "Tell me what is the sea", "output": NASTY}}],
        },
        "mix": [{"source": A, "available": 50, "taken": 50, "repeat": 2, "share": 0.8},
                {"source": K, "available": 20, "taken": 20, "repeat": 1, "share": 0.2}],
        "languages": {"en": 62, "ko": 20}, "tasks": {"write": 20, "list": 20, "": 42}, "groups": {"all": 40},
    }  # fmt: skip


def shown(example: Example, n: int) -> dict[str, Any]:
    fields = {"instruction": example.instruction, "input": example.input, "output": example.output}
    return {"id": example.id, "place": f"{A}:{n}", "source": example.source, **fields}


def like(example: Example, n: int, kind: str, similarity: float) -> dict[str, Any]:
    row = {**shown(example, n), "output": example.output + " indeed"}
    return {"place": f"{A}:{n}", "source": A, "kind": kind, "similarity": similarity, "row": row}


def lines(rows: Sequence[Any]) -> str:
    return "".join(json_text(row) + "\n" for row in rows)


def make_run(root: Path, tokens: bool = True) -> Run:
    """A finished run folder: data, and tokens where asked for."""
    run, rows = Run(root), examples()
    parts = {"train": rows[:-12], "val": rows[-12:-4], "holdout": rows[-4:]}
    report = report_of(parts)
    with run.writing("dataset", {"of": "a test"}) as out:
        for name, part in parts.items():
            repeated = [e for e in part for _ in range(2 if name == "train" and e.source == A else 1)]
            write_text(out.folder / f"{name}.jsonl", lines([e.as_dict() for e in repeated]))
        change = {"rule": "control-characters", "id": rows[0].id}
        write_text(out.folder / "changes.jsonl", lines([{**change, **report["rules"][0]["examples"][0]}]))
        odd: list[Any] = [{"instruction": NASTY, "output": 5}, "text", None, [1, [2]], {"q": "\ud800"}]
        rejected = [{"rule": "output-empty", "reason": "empty", "place": f"x:{i}", "source": A, "row": row}
                    for i, row in enumerate(odd)]  # fmt: skip
        write_text(out.folder / "rejected.jsonl", lines(rejected))
        groups = [{k: v for k, v in report["duplicates"]["largest"][0].items() if k != "size"}]
        groups.append({"kept": shown(rows[5], 5), "rows": [like(rows[5], 95, "near", 0.8)]})
        write_text(out.folder / "duplicates.jsonl", lines(groups))
        write_json(out.folder / "report.json", report)
    if tokens:
        with run.writing("tokens", {"of": "a test"}) as out:
            for name, part in parts.items():
                repeated = [e for e in part for _ in range(2 if name == "train" and e.source == A else 1)]
                write_tokens(out.folder / f"{name}.arrow", repeated[1:])  # as if the first were too long
                out.counts[name] = {"cut": 0, "rejected": 1, "no_loss": 0}
    return run


def write_tokens(path: Path, rows: Sequence[Example]) -> None:
    writer = TokenWriter(path)
    sizes = [min(512, 30 + len(e.output) // 2) for e in rows]
    writer.write([Row([1] * n, [-100] * 20 + [1] * (n - 20), 20, False, False) for n in sizes], [e.id for e in rows])
    writer.close()


CONFIG = Config(name="test", data=Data(sources=(Source(path=A),), val=8))


def without_parser(patch: pytest.MonkeyPatch) -> None:
    """The first and last word stand for the parse, which has tests of its own."""
    patch.setattr(verbs, "parsers", lambda: {"en": "test"})
    patch.setattr(verbs, "_pairs", lambda language, texts: [(t.split()[0].lower(), t.split()[-1]) for t in texts])


def build(run: Run) -> Path:
    """Makes the report; returns its folder."""
    stage.build(CONFIG, run, stage.key(CONFIG, run))
    return run.folder("report")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """report/ of a full run, for tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        without_parser(patch)
        yield build(make_run(tmp_path_factory.mktemp("run")))
