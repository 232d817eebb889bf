"""Held-out loss and the marks of answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline import stages
from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.demo.families import generate
from pipeline.evaluation import answers as marking
from pipeline.evaluation import measure as measurement
from pipeline.evaluation.answers import Answer, answer, marks
from pipeline.evaluation.held_out_rows import held_out_rows
from pipeline.evaluation.measure import MeasuredModel, held_out_loss
from pipeline.evaluation.results import measure, rows_of_table
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder, Row
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import Tokens, TokenWriter
from tests.helpers.tiny import load_examples, make_base, make_config, run_to


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def test_held_out_loss_is_a_mean_over_tokens(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row learns 1 token, the other 30: a mean over rows would be another number."""
    random = np.random.default_rng(0)
    rows = []
    for length, learnt in ((40, 1), (35, 30)):
        ids = random.integers(3, 300, length).tolist()
        rows.append(Row(ids, [-100] * (length - learnt) + ids[-learnt:], length - learnt, cut=False, seam=False))
    writer = TokenWriter(tmp_path / "val.arrow")
    writer.write(rows, ["a", "b"])
    writer.close()
    sums, means = 0.0, []
    for row in rows:
        log_p = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1).detach()
        losses = [-float(log_p[t - 1, row.labels[t]]) for t in range(1, len(row.ids)) if row.labels[t] != -100]
        sums += sum(losses)
        means.append(sum(losses) / len(losses))
    model.train()
    for at_once in (1, 1000):
        monkeypatch.setattr("pipeline.model.memory.CPU_TOKENS", at_once)
        found = held_out_loss(model, Tokens(tmp_path / "val.arrow"), range(2))
        assert found == pytest.approx(sums / 31, rel=1e-5)
    assert model.training
    assert abs(sums / 31 - sum(means) / 2) > 1e-3
    assert math.isnan(held_out_loss(model, Tokens(tmp_path / "val.arrow"), []))


def an_answer(expected: str, said: str, stopped: bool = True) -> Answer:
    return Answer("q", "", expected, said, stopped, "task")


def test_marks() -> None:
    right, chatty, wrong = an_answer("42", " 42\n"), an_answer("42", "It is 42.", False), an_answer("42", "24")
    assert [(a.exact, a.contained) for a in (right, chatty, wrong)] == [(True, True), (False, True), (False, False)]
    found = marks([right, chatty, wrong, wrong])
    assert found == {
        "answers": 4,
        "exact": 0.25,
        "exact_standard_error": pytest.approx(math.sqrt(0.25 * 0.75 / 3)),
        "contained": 0.5,
        "stopped": 0.75,
    }
    assert marks([]) == {"answers": 0}


def test_answers_are_decoded_without_their_end(
    base: Path, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(base)
    said = tokenizer.encode([" blue"])[0]
    monkeypatch.setattr(marking, "greedy", lambda *_, **__: [[*said, 2], said])
    encoder = Encoder(templates.load("koalpaca-v1.1"), tokenizer, Prompt())  # its answers begin with a space
    examples = [Example.of("Which colour?", "", "blue", source="test", task="t")] * 2
    found = answer(model, encoder, examples, 8, "test")
    assert [(a.text, a.exact, a.stopped) for a in found] == [("blue", True, True), ("blue", True, False)]


def test_measure_has_all_that_the_table_needs(base: Path, model: torch.nn.Module, tmp_path: Path) -> None:
    config = make_config(tmp_path, base)
    run = run_to(config, "tokens", tmp_path)
    encoder = Encoder(templates.load("alpaca-short"), Tokenizer(base), config.prompt)
    measured = MeasuredModel(tmp_path / "base.jsonl", {}, encoder, lambda: model, "base")
    splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), config.eval.rows)
    found = measure(measured, splits, config.eval, config.data.groups, 512)
    assert found.keys() == {"val", "holdout", "general", "probes", "prompts", "known"}
    wanted = {"rows", "loss", "answers", "exact", "exact_standard_error", "contained", "stopped", "said"}
    wanted |= {"by_task", "by_group"}
    assert found["val"].keys() == found["holdout"].keys() == wanted
    assert found["val"]["rows"] == found["val"]["answers"] == 4
    assert set(found["holdout"]["by_task"]) <= {"extract-phone", "lookup-field"}
    assert found["prompts"] == [{"prompt": "Say hello.", "said": found["prompts"][0]["said"], "stopped": False}]
    table = rows_of_table(found, found)
    assert len([what for what, _, _ in table if not what.startswith("answers that ")]) == 11
    assert all(len(row) == 3 and row[1] == row[2] for row in table[:-1])
    assert table[-1] == ("forgetting: change of that loss", "", "+0.000 ± 0.000")
    assert rows_of_table(found, {}) == []


def test_groups_are_marked_apart(base: Path, tmp_path: Path) -> None:
    """One task is learnt, a group of others is held out: transfer to tasks never trained on, group by group."""
    tasks = sorted({r["task"] for r in generate(200, 42)})
    learnt, rest = tasks[0], tasks[1:]
    groups = f"data.groups={{left: [{', '.join(rest[:5])}], right: [{', '.join(rest[5:])}]}}"
    more = ("data.sources=[{path: families, rows: 200}]", "train.max_steps=1", "train.warmup=0", "eval.rows=40")
    config = make_config(tmp_path, base, groups, "data.holdout=[left, right]", "data.val=2", *more)
    run = run_to(config, "export", tmp_path)
    assert {e.task for e in load_examples(run, "train")} == {learnt}
    results = json.loads((run.folder("export") / "results.json").read_text())
    found = results["tuned"]["holdout"]
    assert found["by_group"].keys() == {"left", "right"}
    assert sum(m["answers"] for m in found["by_group"].values()) == found["answers"] == 20
    assert "by_group" in results["tuned"]["val"]
    table = [what for what, _, _ in rows_of_table(results["base"], results["tuned"])]
    assert [w for w in table if ", group left: exact match" in w and w.startswith("tasks never trained on")]


def test_nothing_is_measured_twice(base: Path, model: torch.nn.Module, tmp_path: Path) -> None:
    """A greedy answer is the beginning of the answer to a higher limit; a kept one serves every lower limit."""
    encoder = Encoder(templates.load("alpaca-short"), Tokenizer(base), Prompt())
    examples = [Example.of(text, "", "x", source="test") for text in ("One?", "Two?", "One?")]
    loads: list[int] = []

    def measured() -> MeasuredModel:
        return MeasuredModel(tmp_path / "m.jsonl", {"model": "a"}, encoder, lambda: loads.append(1) or model, "base")

    first = measured().answers(examples, 4, "answers")
    assert first == answer(model, encoder, examples, 4, "test")
    assert measured().answers(examples[:2], 2, "answers") == answer(model, encoder, examples[:2], 2, "test")
    assert len(loads) == 1
    assert measured().answers(examples, 6, "answers") == answer(model, encoder, examples, 6, "test")
    assert len(loads) == 2
    other = MeasuredModel(tmp_path / "m.jsonl", {"model": "b"}, encoder, lambda: loads.append(1) or model, "tuned")
    other.answers(examples, 2, "answers")
    assert len(loads) == 3


def test_an_evaluation_after_the_export_generates_no_answer_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("train.max_steps=1", "train.warmup=0", "eval.shots=0", "eval.tasks=[]")
    config = make_config(tmp_path, base, *overrides)
    run = run_to(config, "export", tmp_path)

    def generated(*_: object, **__: object) -> None:
        raise AssertionError("an answer was generated twice")

    monkeypatch.setattr(measurement, "greedy", generated)
    monkeypatch.setattr(measurement, "row_sums", generated)
    stages.bring_up_to_date(config, run, "eval")
    exported = json.loads((run.folder("export") / "results.json").read_text())
    rows = json.loads((run.folder("eval") / "eval.json").read_text())["rows"]
    loss = next(r for r in rows if (r["name"], r["metric"]) == ("held-out rows", "loss"))
    assert (loss["base"], loss["tuned"]) == (exported["base"]["val"]["loss"], exported["tuned"]["val"]["loss"])
