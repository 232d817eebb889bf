"""Benchmarks and held-out rows, before and after: questions in files, the harness, the table."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.scores import mean, rouge_l, shown
from pipeline.evaluation.table import cells, row, rows_of
from pipeline.evaluation.task_rows import read
from pipeline.evaluation.tasks import local_files
from pipeline.run.errors import UserError

ARC = {"query": "Question: Which is hot?", "choices": ["ice", "fire"], "gold": 1}
HELLASWAG = {"ctx_a": "A man sits.", "ctx_b": "he", "activity_label": "Sitting", "endings": ["rises.", "sings."],
             "label": 0}  # fmt: skip
LAMBADA = {"context": "She opened the", "continuation": "door"}
TRUTHFUL = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n" \
           "A,B,Is it?,Yes it is,Yes it is; It may be,No; Never ;,x\n"  # fmt: skip


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def test_rows_take_the_form_of_the_hub(tmp_path: Path) -> None:
    arc = {"question": "Which is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}
    assert read("arc_easy", jsonl(tmp_path / "a.jsonl", ARC, arc)) == [arc, arc]
    assert read("hellaswag", jsonl(tmp_path / "h.jsonl", HELLASWAG)) == [{**HELLASWAG, "label": "0"}]
    assert read("lambada_openai", jsonl(tmp_path / "l.jsonl", LAMBADA)) == [{"text": "She opened the door"}]
    sheet = tmp_path / "anatomy_test.csv"
    sheet.write_text('question,choice0,choice1,choice2,choice3,answer\n"Who, me?",a,b,c,d,3\n')
    asked = [{"question": "Who, me?", "choices": ["a", "b", "c", "d"], "answer": 3}]
    assert read("mmlu_anatomy", sheet) == asked
    sheet.write_text('"Who, me?",a,b,c,d,D\n')  # as first published
    assert read("mmlu_anatomy", sheet) == asked
    (tmp_path / "TruthfulQA.csv").write_text(TRUTHFUL)
    assert read("truthfulqa_mc1", tmp_path / "TruthfulQA.csv") == [{
        "question": "Is it?",
        "mc1_targets": {"choices": ["Yes it is", "No", "Never"], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["Yes it is", "It may be", "No", "Never"], "labels": [1, 1, 0, 0]},
    }]  # fmt: skip
    copa = {
        "premise": "비가 왔다.",
        "question": "결과",
        "alternative_1": "젖었다.",
        "alternative_2": "말랐다.",
        "label": 0,
    }
    assert read("kobest_copa", jsonl(tmp_path / "k.jsonl", copa)) == [copa]


WRONG: dict[str, tuple[str, Any, str]] = {
    "no answer": ("arc_easy", {**ARC, "gold": None}, "field 'gold': expected a number from 0 to 1, found nothing"),
    "out of range": ("arc_easy", {**ARC, "gold": 2}, "expected a number from 0 to 1, found 2"),
    "a flag": ("hellaswag", {**HELLASWAG, "label": True}, "field 'label'"),
    "one choice": ("arc_easy", {**ARC, "choices": ["ice"]}, "1 choices, expected 2 to 10"),
    "no text": ("arc_easy", {**ARC, "query": " "}, "field 'query': expected text"),
    "unknown label": ("arc_easy", {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
                                   "answerKey": "C"}, "'C' is none of the labels"),
    "a list": ("lambada_openai", [1], "expected an object"),
    "two words": ("lambada_openai", {**LAMBADA, "continuation": "the door"}, "expected one word"),
    "neither cause nor result": ("kobest_copa", {"premise": "a", "question": "b", "alternative_1": "c",
                                                 "alternative_2": "d", "label": 0}, "expected 원인 or 결과"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_row_is_named(tmp_path: Path, case: str) -> None:
    task, bad, said = WRONG[case]
    good = {"kobest_copa": {"premise": "a", "question": "원인", "alternative_1": "c", "alternative_2": "d", "label": 1},
            "hellaswag": HELLASWAG, "lambada_openai": LAMBADA}.get(task, ARC)  # fmt: skip
    path = jsonl(tmp_path / "rows.jsonl", good, bad)
    with pytest.raises(UserError) as error:
        read(task, path)
    assert said in error.value.what
    assert error.value.where == f"{path}:2"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder"):
        local_files(["arc_easy"], tmp_path / "nowhere")
    with pytest.raises(UserError, match="mmlu"):
        local_files(["mmlu"], tmp_path)
    with pytest.raises(UserError) as error:
        local_files(["arc-easy"], tmp_path)
    assert "did you mean arc_easy?" in error.value.fix
    (tmp_path / "arc_easy.jsonl").write_text("\n")
    with pytest.raises(UserError, match="empty"):
        read("arc_easy", local_files(["arc_easy"], tmp_path)["arc_easy"][0][1])


@pytest.mark.eval
def test_rouge_l_is_that_of_its_authors() -> None:
    assert rouge_l("the cat sat on the mat", "the cat the mat", "en") == pytest.approx(0.8)
    assert rouge_l("날씨가 좋다", "날씨는 좋다", "ko") == pytest.approx(0.8)  # 4 of 5 syllables
    assert rouge_l("a", "", "en") == rouge_l("", "a", "en") == 0.0
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="comes with lm-eval (make eval)")
    reference, draw = scorer.RougeScorer(["rougeL"]), random.Random(0)
    for _ in range(200):
        a, b = (" ".join(draw.choices(["a", "b", "c", "d'e", "F."], k=draw.randrange(12))) for _ in range(2))
        assert rouge_l(a, b, "en") == pytest.approx(reference.score(a, b)["rougeL"].fmeasure, abs=1e-12)


def test_means_and_their_errors() -> None:
    assert mean([1.0, 2.0, 3.0]) == pytest.approx((2.0, math.sqrt(1 / 3)))
    assert math.isnan(mean([1.0])[1])
    assert all(math.isnan(v) for v in mean([]))


def held(sums: list[float], exact: list[float | None], stopped: list[float]) -> dict[str, Any]:
    return {
        "val": {"sums": sums, "counts": [2, 2, 4], "rouge_l": stopped, "stopped": stopped, "exact": exact, "said": []}
    }


def asked(acc: list[float], loglikelihoods: list[float], cut: int = 0) -> dict[str, Any]:
    perplexity = math.exp(-sum(loglikelihoods) / len(loglikelihoods))
    results = {"acc": mean(acc)[0], "acc_stderr": mean(acc)[1], "perplexity": perplexity, "perplexity_stderr": 9.0}
    name, higher = "lambada_openai", {"acc": True, "perplexity": False}
    samples = {name: {"acc": acc, "perplexity": loglikelihoods}}
    return {"results": {name: results}, "higher": higher, "n": {name: len(acc)}, "cut": cut, "samples": samples}


def test_the_error_of_a_change_is_taken_question_by_question() -> None:
    found = {
        ("base", "held-out"): held([4.0, 6.0, 8.0], [0.0, None, 1.0], [0.0, 0.0, 0.0]),
        ("shots", "held-out"): held([3.0, 5.0, 7.0], [1.0, None, 1.0], [1.0, 0.0, 0.0]),
        ("tuned", "held-out"): held([2.0, 4.0, 6.0], [1.0, None, 1.0], [1.0, 1.0, 0.0]),
        ("base", "lambada_openai"): asked([0, 0, 1, 1], [-1.0, -2.0, -3.0, -2.0], cut=3),
        ("tuned", "lambada_openai"): asked([0, 1, 1, 1], [-1.0, -1.5, -2.0, -2.0]),
    }
    table = {(r["name"], r["metric"]): r for r in rows_of(found, {})}
    loss = table["held-out rows", "loss"]
    assert (loss["base"], loss["shots"], loss["tuned"]) == (18 / 8, 15 / 8, 12 / 8)
    assert (loss["change"], loss["over_shots"]) == (-6 / 8, -3 / 8)
    # Differences -2 of 2, 2 and 4 tokens; deviations from -0.75 a token: -0.5, -0.5, 1.
    assert loss["change_error"] == pytest.approx(math.sqrt(3 / 2 * 1.5) / 8)
    exact = table["held-out rows", "exact match"]
    assert (exact["n"], exact["base"], exact["tuned"], exact["change"]) == (2, 0.5, 1.0, 0.5)
    assert exact["change_error"] == pytest.approx(mean([1.0, 0.0])[1])
    acc = table["lambada_openai", "acc"]
    assert (acc["change"], acc["change_error"]) == (0.25, mean([0.0, 1.0, 0.0, 0.0])[1])
    assert acc["shots"] is acc["over_shots"] is None
    assert "3 passes lost their beginning" in acc["note"]
    perplexity = table["lambada_openai", "perplexity"]
    assert perplexity["better"] == "down"
    assert cells(perplexity)[:4] == ["lambada_openai", "perplexity ↓", "7.389 ± 9.000", ""]


def test_the_error_of_a_changed_perplexity_is_that_of_leaving_questions_out() -> None:
    draw = random.Random(3)
    base = [-draw.expovariate(0.5) for _ in range(400)]
    tuned = [l + draw.gauss(0.2, 0.3) for l in base]  # noqa: E741
    found = {
        ("base", "lambada_openai"): asked([0.0] * 400, base),
        ("tuned", "lambada_openai"): asked([0.0] * 400, tuned),
    }
    error = next(r["change_error"] for r in rows_of(found, {}) if r["metric"] == "perplexity")

    def change(without: int) -> float:
        left = [math.exp(-(sum(v) - v[without]) / 399) for v in (tuned, base)]
        return left[0] - left[1]

    changes = [change(i) for i in range(400)]
    middle = sum(changes) / 400
    jackknife = math.sqrt(399 / 400 * sum((c - middle) ** 2 for c in changes))
    assert error == pytest.approx(jackknife, rel=0.02)


def test_numbers_that_are_not_there_leave_their_cell_empty() -> None:
    found = row("x", "acc", {"base": (0.5, math.nan)}, {}, "up", 3)
    assert found["tuned"] is None
    assert json.dumps(found)
    assert cells(found) == ["x", "acc ↑", "50.0 %", "", "", "", "", "3"]


def test_a_small_group_has_its_parts() -> None:
    def group(first: list[float], second: list[float]) -> dict[str, Any]:
        own = {"one": first, "two": second, "both": first + second}
        results = {name: {"acc": mean(v)[0], "acc_stderr": mean(v)[1]} for name, v in own.items()}
        results["both"]["f1"] = results["one"]["f1"] = 0.5  # macro f1: no value a question, no error
        samples = {"one": {"acc": first}, "two": {"acc": second}}
        sizes = {"one": len(first), "two": len(second)}
        return {"results": results, "higher": {"acc": True, "f1": True}, "cut": 0, "n": sizes, "samples": samples}

    found = rows_of({("base", "both"): group([0, 1, 1], [0, 0]), ("tuned", "both"): group([1, 1, 1], [0, 1])}, {})
    table = {(r["name"], r["metric"]): r for r in found}
    assert list(table) == [("both", "acc"), ("both", "f1"), ("one", "acc"), ("one", "f1"), ("two", "acc")]
    assert (table["both", "acc"]["n"], table["one", "acc"]["n"], table["two", "acc"]["n"]) == (5, 3, 2)
    assert table["both", "acc"]["change_error"] == pytest.approx(mean([1.0, 0.0, 0.0, 0.0, 1.0])[1])
    assert table["two", "acc"]["change_error"] == pytest.approx(mean([0.0, 1.0])[1])
    assert table["one", "f1"]["change"] == 0.0
    assert table["one", "f1"]["change_error"] is None


def test_an_unknown_error_and_a_negative_zero_are_not_shown() -> None:
    assert shown(-0.0001, float("nan"), "+.3f") == "+0.000"
    assert shown(-0.0001, None, ".3f") == "0.000"
    assert shown(-0.25, 0.5, "+.1%") == "-25.0% ± 50.0%"
    assert shown(1234.5, 2.0, ",.1f") == "1,234.5 ± 2.0"
