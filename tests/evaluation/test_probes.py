"""Probes: each sign on small examples, the causes that are named, and a run that ends with them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Adapter, Config, Prompt
from pipeline.dataset.example import Example
from pipeline.evaluation import probe_model as asking
from pipeline.evaluation.answers import Answer
from pipeline.evaluation.probe_causes import Facts, advice, warnings
from pipeline.evaluation.probe_model import as_base, choose
from pipeline.evaluation.probes import echo, fitting, marks_of, other_language, probe, repeats, rows, signs
from pipeline.evaluation.results import compare_answers, rows_of_table
from pipeline.model import adapter as adapters
from pipeline.model.generate import greedy
from pipeline.model.load import context_length
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import trained_adapter
from tests.helpers.tiny import make_config, run_to

ALPACA = templates.load("alpaca")


def said(text: str, asked: str = "Name a city.", expected: str = "", input: str = "", stopped: bool = True) -> Answer:
    return Answer(asked, input, expected, text, stopped, "")


@pytest.mark.parametrize(
    ("text", "whole", "loop"),
    [
        ("I like it. I like it. I like it.", True, True),
        ("Well. I like it. I like it. I like it. I li", False, True),  # the limit fell inside a word
        ("I like it. I like it.", True, False),
        ("very good very good very good", True, True),
        ("no no no", True, False),  # one word three times is no phrase of two
        ("no no no no no no", True, True),
        ("나는 밥을 나는 밥을 나는 밥을", True, True),
        ("하" * 29, True, False),
        ("하" * 30, True, True),
        ("아하" * 15, True, True),
        ("Rome, Paris, Rome, Berlin, Rome, Madrid", True, False),
        ("I like it. I like it. I like it. That is all.", True, False),  # it came out of the loop
        ("| - | - | - |", True, False),  # signs alone: the rule of a table
        ("", True, False),
        ("a", False, False),
    ],
)
def test_a_loop_is_a_phrase_three_times_at_the_end(text: str, whole: bool, loop: bool) -> None:
    assert repeats(text, whole) is loop


def test_a_loop_that_the_reference_has_too_is_no_fault() -> None:
    chorus = "la la la la la la"
    assert signs(said(chorus), ALPACA)["repeats"]
    assert not signs(said(chorus, expected=chorus), ALPACA)["repeats"]


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        (said("The capital is Seoul.", asked="한국의 수도는 어디입니까?", expected="서울입니다."), True),
        (said("서울입니다.", asked="한국의 수도는 어디입니까?", expected="서울입니다."), False),
        (said("Seoul, of course.", asked="한국의 수도는 어디입니까?"), True),  # without a reference
        (said("Good morning.", asked="다음을 영어로 번역하세요.", input="좋은 아침", expected="Good morning."), False),
        (said("좋은 아침", asked="다음을 영어로 번역하세요.", input="좋은 아침", expected="Good morning."), True),
        (said("좋은 아침", asked="Translate to Korean: Good morning"), None),  # a translation without a reference
        (said("kim@example.com", asked="이메일 주소를 찾으세요.", expected="kim@example.com"), False),
        (said("주소는 kim@example.com 입니다", asked="이메일 주소를 찾으세요.", expected="kim@example.com"), False),
        (said("42", asked="몇 개입니까?", expected="마흔둘"), None),  # too little to tell
        (said("안녕하세요, 반갑습니다", asked="Say hello."), True),
    ],
)
def test_the_language_asked_for(answer: Answer, other: bool | None) -> None:
    assert other_language(answer) is other


def test_echoes() -> None:
    question = "What is the capital of France?"
    assert echo(said(f"{question} It is Paris.", asked=question), ALPACA) == "question"
    assert echo(said("what is the capital of france", asked=question), ALPACA) == "question"
    assert echo(said("Paris is the capital of France.", asked=question), ALPACA) == ""
    assert echo(said("Stop it now.", asked="Stop."), ALPACA) == ""  # too short to be told from an accident
    text = "Their is a house on the hill."
    assert echo(said(text, input=text, expected="There is a house on the hill."), ALPACA) == "input"
    assert echo(said(text, input=text, expected=text), ALPACA) == ""
    assert echo(said("Paris.\n\n### Instruction:\nNext"), ALPACA) == "template"
    assert echo(said("Write:\n### Response:", expected="Write:\n### Response:"), ALPACA) == ""
    korean = templates.load("koalpaca-v1.1")
    assert echo(said("서울입니다.\n\n### 질문: 다음"), korean) == "template"
    assert echo(said("서울입니다."), korean) == ""
    assert marks_of(korean) == ["### 질문:", "### 맥락:", "### 답변:"]


def test_counts_say_of_how_many() -> None:
    answers = [said("Rome", expected="Rome"), said("", expected="Rome"), said("a b a b a b a b", stopped=False)]
    found = probe(answers, ALPACA, [True, True, False])
    assert found["stops"] == {"count": 2, "of": 2}
    assert found["repeats"] == found["empty"] == {"count": 1, "of": 3}
    assert found["echoes"] == {"count": 0, "of": 3}
    assert all(n == {"count": 0, "of": 0} for n in probe([], ALPACA, []).values())


def counts(**bad: tuple[int, int]) -> dict[str, dict[str, int]]:
    found = {name: {"count": 0, "of": 16} for name in ("repeats", "language", "echoes", "empty")}
    found["stops"] = {"count": 16, "of": 16}
    return found | {name: {"count": n, "of": of} for name, (n, of) in bad.items()}


def cause(facts: Facts, wanted: dict[str, int] | None = None, **bad: tuple[int, int]) -> tuple[str, str]:
    (found,) = warnings(counts(**bad), facts, wanted)
    assert advice(found).splitlines()[0] == f"warning: {found['said']}"
    return found["cause"], found["fix"]


def test_causes_are_named_with_the_facts_of_the_run() -> None:
    config = Config(name="a", prompt=Prompt(cutoff=256))
    prompt, train = config.prompt, config.train
    fine = Facts(prompt, train, rows=100, steps=500, losses=(2.0, 1.0))
    assert warnings(counts(), fine) == []
    assert warnings(counts(stops=(14, 16), repeats=(1, 16)), fine) == []
    assert "20% of the training rows were cut at 256" in cause(Facts(prompt, train, rows=100, cut=20), stops=(3, 16))[0]
    assert "loops" in warnings(counts(stops=(8, 16), repeats=(6, 16)), fine)[1]["cause"]
    few = cause(Facts(prompt, train, steps=5, losses=(2.0, 1.9)), stops=(3, 16))
    assert few == ("too little was learnt: 5 steps at train.lr=0.0002, loss 2.000 -> 1.900", "train for more steps")
    heart = train.model_copy(update={"epochs": 10.0})
    early = Facts(prompt, train, steps=2, is_ended_early=True)
    assert cause(early, stops=(3, 16))[1] == "raise train.early_stop, or train.lr"
    still = Facts(prompt, train.model_copy(update={"lr": 0.0}), steps=2, is_ended_early=True)
    assert cause(still, stops=(3, 16))[1] == "raise train.lr"
    assert "by heart" in cause(Facts(prompt, heart, losses=(2.0, 0.01)), repeats=(9, 16))[0]
    unmasked = prompt.model_copy(update={"mask_prompt": False})
    assert "mask_prompt" in cause(Facts(unmasked, train), echoes=(9, 16))[0]
    spoken = Facts(prompt, train, languages={"en": 990, "ko": 10})
    assert "10 of 1,000 rows are ko" in cause(spoken, {"ko": 3, "en": 9}, language=(5, 16))[0]
    assert "wrong-language" in cause(fine, {"en": 9}, language=(5, 16))[1]
    assert "make preview" in cause(fine, empty=(5, 16))[1]
    assert "too little" in cause(Facts(prompt, train, steps=3, losses=(2.0, 2.0)), as_base=(16, 16))[0]
    assert "fell from 2.000 to 1.000" in cause(fine, as_base=(16, 16))[0]


def test_the_table_shows_signs_that_some_answer_has() -> None:
    base, tuned = counts(repeats=(8, 16)), counts(repeats=(1, 16), as_base=(3, 16))
    assert rows(base, tuned) == [("answers that repeat themselves (16)", "50.0%", "6.2%")]
    assert rows(base, counts(repeats=(8, 16), as_base=(16, 16)))[-1][2] == "100.0%"
    assert rows({}, {}) == []


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(templates.load("alpaca-short"), Tokenizer(base), Prompt())


def test_questions_are_the_same_everywhere_and_of_all_languages(encoder: Encoder) -> None:
    many = [Example.of(f"Add {n} and 1.", "", str(n + 1), source="a") for n in range(40)]
    few = [Example.of(f"{n} 더하기 1은 얼마입니까?", "", f"답은 {n}", source="a") for n in range(3)]
    long = [Example.of(f"Tell {n}", "", "word " * 90, source="a") for n in range(20)]
    chosen = choose([*many, *long, *few], encoder, 24, 500)
    assert chosen == choose([*few, *reversed(long), *reversed(many)], encoder, 24, 500)
    assert len(chosen) == 16
    assert sum(e.language == "ko" for e in chosen) == 3
    assert all(fitting(encoder, [e.output for e in chosen if e.language == "en"], 24))
    assert choose(long, encoder, 24, 500) != []  # nothing fits: asked all the same, but not whether it stops
    assert choose(many, encoder, 24, 5) == choose([], encoder, 24, 500) == []
    assert fitting(encoder, ["", "a", "word " * 90], 24) == [False, True, False]


def test_the_base_says_the_same_until_something_is_learnt(base: Path, encoder: Encoder) -> None:
    prompts = [encoder.prompt(f"Say {word}.") for word in ("one", "two words", "three or so")]

    def same(adapter: Adapter, learnt: bool) -> list[bool] | None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = adapters.attach(model, adapter, 0)
        if learnt:
            with torch.no_grad():
                for weight in adapters.trained(model).values():
                    weight.add_(torch.randn_like(weight))
        ids = greedy(model, prompts, end_id=2, max_new_tokens=6, what="test")
        return as_base(model, prompts, ids)

    assert same(Adapter(r=4), learnt=False) == [True] * 3
    for adapter in (Adapter(r=4), Adapter(method="prefix", virtual_tokens=4), Adapter(method="ia3")):
        assert same(adapter, learnt=True) == [False] * 3
    for adapter in (Adapter(method="full"), Adapter(r=4, init="pissa"), Adapter(method="houlsby", bottleneck=4)):
        assert same(adapter, learnt=True) is None


def probed(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder("adapter") / "probes.json").read_text())
    return found


LONGER = ("train.max_steps=2", "eval.max_new_tokens=24")


def test_training_ends_with_probes(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that was hardly trained never stops, and that is said."""
    config = make_config(tmp_path, base, *LONGER)
    run = run_to(config, "export", tmp_path)
    found = probed(run)
    assert (found["part"], found["rows"], found["prompts"], found["max_new_tokens"]) == ("val", 8, 1, 24)
    assert len(found["answers"]) == 9
    assert found["probes"]["stops"]["count"] == 0 < found["probes"]["stops"]["of"] <= 8
    assert found["probes"]["as_base"]["of"] == 8
    assert found["warnings"][0]["probe"] == "stops"
    assert "2 steps at train.lr=0.01" in found["warnings"][0]["cause"]
    assert "probes.json" in run.manifest("adapter")["files"]
    told = capsys.readouterr().out
    assert "8 held-out rows and 1 prompts, at most 24 tokens each" in " ".join(told.split())
    assert "warning: " in told

    results = json.loads((run.folder("export") / "results.json").read_text())
    assert results["tuned"]["probes"]["as_base"]["of"] == 7  # four of val, two of held-out tasks, one prompt
    assert {w["probe"] for w in results["warnings"]} >= {"stops"}
    same = {**results["base"], "probes": dict(results["base"]["probes"])}
    compare_answers(results["base"], same, Facts(config.prompt, config.train))
    assert same["probes"]["as_base"] == {"count": 7, "of": 7}
    assert rows_of_table(results["base"], same)[-4][2] == "100.0%"


def test_without_held_out_rows_training_rows_are_asked(base: Path, tmp_path: Path) -> None:
    more = ("data.val=0", "data.holdout=[]", "data.sources=[{path: families, rows: 20}]", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *LONGER, *more), "train", tmp_path)
    assert (probed(run)["part"], probed(run)["rows"], probed(run)["prompts"]) == ("train", 16, 0)


def test_without_questions_it_is_said(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.probe_model.choose", lambda *_: [])
    run = run_to(make_config(tmp_path, base, *LONGER, "eval.prompts=[]"), "train", tmp_path)
    assert "no question" in probed(run)["missing"]


def test_a_model_that_gives_nan_is_no_result(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = trained_adapter.probe_model

    def spoilt(model: Any, *rest: Any) -> Any:
        next(iter(adapters.trained(model).values())).data.fill_(float("nan"))
        return inner(model, *rest)

    monkeypatch.setattr(trained_adapter, "probe_model", spoilt)
    config = make_config(tmp_path, base, *LONGER)
    with pytest.raises(UserError, match="finite"):
        run_to(config, "train", tmp_path)
    assert Run(tmp_path / "tiny").manifest("adapter") is None


@pytest.mark.parametrize(("words", "room"), [((), 96), (("adapter.method=prefix", "adapter.virtual_tokens=5"), 91)])
def test_virtual_tokens_take_room_where_there_are_any(
    words: tuple[str, ...], room: int, base: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    config = make_config(tmp_path, base, "eval.prompts=[]", *words)
    monkeypatch.setattr(asking, "read_examples", lambda *_: iter(()))
    monkeypatch.setattr(asking, "choose", lambda *given: seen.append(given[-1]) or [])
    facts = Facts(config.prompt, config.train)
    longest = context_length(SimpleNamespace(max_position_embeddings=100), config.adapter)
    found = asking.probe_model(None, encoder, tmp_path, config.eval, longest, facts)
    assert (seen, "missing" in found) == ([room], True)
